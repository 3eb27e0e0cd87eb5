"""Grad-CAM for patch tokens."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.runtime.gradients import gradients, no_gradients
from keras_vit.visualize.inside import block_numbers, check_images, check_model, count_blocks, forward_pass, to_array
from keras_vit.visualize.relevance import in_batches_of_targets, score_of
from keras_vit.visualize.targets import class_scores, targets


def grad_cam(model: keras.Model, images: Any, target: Any = None, block: int | None = None, batch_size: int = 4) -> np.ndarray:
    """Computes Grad-CAM: where in an image the features that support a class are. Patch tokens take the place of a convolution's map.

    Each feature is weighted by the gradient of the class's score with respect to it, averaged over the patches. Of the sum over the
    features, the positive part is kept. The features are the input tokens of a block. Those after the last block are not useful: the class
    token has already read them, so that patches no longer affect the score.

    Args:
        model: keras.Model. A `VisionTransformer` with a head, or a classifier that contains a VisionTransformer.
        images: array `(batch, rows, columns, channels)`. Input of the model.
        target: int, or str if the model has `class_names`; or a sequence of them, one per image. Defaults to None: the class that the
            model predicts for each image.
        block: int or None. The block whose input is used, counted from 0, or from the end if negative. Defaults to None, the last one.
        batch_size: int. Number of images of a forward and backward pass. Defaults to 4.

    Returns:
        A float32 array `(batch, rows, columns)`, at least 0. Its scale depends on the model: compare patches, not models.

    Raises:
        ValueError: if the model contains no `VisionTransformer` or has no head, `images` is not a batch, or the block or the class does
            not exist.

    Reference:
        Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", 2017, section 3.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 48, 3), 8, 64, 4, 2, 128, num_classes=10)
    >>> keras_vit.visualize.grad_cam(model, keras.ops.ones((1, 32, 48, 3)), target=3).shape
    (1, 4, 6)
    """
    check_model(model)
    images = check_images(images)
    (number,) = block_numbers(-1 if block is None else block, count_blocks(model))
    scores = class_scores(model, images)

    def cam(images, target):
        with no_gradients():
            seen = forward_pass(scores, images)
        classes = targets(model, to_array(seen.output), target)

        def score(added):
            again = forward_pass(scores, images, lambda name, i, value: value + added[0] if (name, i) == ("tokens", number) else value)
            return score_of(again.output, classes), []

        tokens, patches = seen.tokens[number], seen.grid[0] * seen.grid[1]
        (slopes,), _ = gradients(score, [ops.zeros_like(tokens)])
        slopes, tokens = (ops.cast(x[:, -patches:], "float32") for x in (slopes, tokens))
        map = ops.relu(ops.sum(tokens * ops.mean(slopes, axis=1, keepdims=True), axis=-1))
        return ops.reshape(map, (-1, *seen.grid))

    return in_batches_of_targets(cam, images, target, batch_size)
