"""How far a trained model sees: attention distance, receptive fields, and accuracy on shifted images."""

import keras_vit
import keras
import numpy as np
import tensorflow as tf
from runs import BATCH


def depths(model):
    """Returns the layers after which the receptive field is measured, from the first to the last."""
    return [layer for layer in model.layers if layer.name.startswith(("block_", "stage_"))]


def attention_distances(model, images):
    """Returns for each block the mean distance between a patch and the patches it attends to, in pixels, mean of the heads."""
    return keras_vit.visualize.mean_attention_distances(model, images).mean(axis=1).tolist()


def effective_fields(model, images):
    """Returns for each depth how far from a unit the pixels lie that change it, in pixels: the mean distance, weighted by the gradient.

    The unit is the middle one of the map, and the weight of a pixel the mean absolute gradient of the unit's features, each with a random
    sign, by the pixel (Luo et al., 2016).
    """
    found, rows = [], images.shape[1]
    signs = np.random.default_rng(0).choice([-1.0, 1.0], 4096).astype("float32")
    for layer in depths(model):
        part, pixels = keras.Model(model.input, layer.output), tf.constant(images, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            features = part(pixels)
            if len(features.shape) == 3:  # tokens: the class token is the first
                side = round((features.shape[1] - 1) ** 0.5)
                features = tf.reshape(features[:, 1:], (-1, side, side, features.shape[-1]))
            side = features.shape[1]
            unit = tf.reduce_sum(features[:, side // 2, side // 2] * signs[: features.shape[-1]])
        weights = tf.reduce_mean(tf.abs(tape.gradient(unit, pixels)), axis=(0, 3)).numpy()
        center = (side // 2 + 0.5) * rows / side - 0.5
        y, x = np.mgrid[:rows, :rows] - center
        found.append(float((np.hypot(y, x) * weights).sum() / weights.sum()))
    return found


def theoretical_fields(model):
    """Returns for each stage of a ResNet the side of the receptive field, in pixels, along the longest path."""
    side, jump, found = 1, 1, []
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size[0] > 1:
            side, jump = side + (layer.kernel_size[0] - 1) * jump, jump * layer.strides[0]
        elif layer.name.startswith("stage_"):
            found.append(float(side))
    return found


def shifted_accuracies(model, images, labels, most=6):
    """Returns the accuracy, in percent, on images shifted by 0 to `most` pixels, on black ground: the mean of left, right, up and down."""
    found = []
    for shift in range(most + 1):
        padded = np.pad(images, [(0, 0), (shift, shift), (shift, shift), (0, 0)])
        size, correct = images.shape[1], []
        for top, left in ((0, shift), (2 * shift, shift), (shift, 0), (shift, 2 * shift))[: 4 if shift else 1]:
            moved = padded[:, top : top + size, left : left + size]
            parts = [moved[i : i + BATCH] for i in range(0, len(moved), BATCH)]
            correct.append((np.concatenate([model.predict_on_batch(part).argmax(axis=-1) for part in parts]) == labels).mean())
        found.append(100.0 * float(np.mean(correct)))
    return found


def measures(model, batches, quick=False):
    """Returns a row for each measure and place: depth, from 0, or shift in pixels."""
    images, shifted = (8, 64) if quick else (64, 1024)
    pixels, labels = (np.concatenate(parts) for parts in zip(*batches.take(shifted // BATCH).as_numpy_iterator()))
    found = {"gradient distance": effective_fields(model, pixels[:images]), "shift": shifted_accuracies(model, pixels, labels.argmax(-1))}
    if isinstance(model, keras_vit.VisionTransformer):
        found["attention distance"] = attention_distances(model, pixels[:images])
    else:
        found["theoretical field"] = theoretical_fields(model)
    return [dict(measure=name, place=place, value=value) for name, values in found.items() for place, value in enumerate(values)]
