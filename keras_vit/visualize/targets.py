"""The target class of an explanation, and its score."""

import numbers
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.layers import activations
from keras_vit.vision_transformer import VisionTransformer


def class_scores(model: keras.Model, images: Any) -> Callable:
    """Returns a function that computes a model's scores `(batch, classes)` before its softmax or sigmoid.

    Layers that follow a `VisionTransformer` in the user's own model are included. If the last layer is not one of Keras's dense or
    activation layers, the model's output is used as it is.

    Args:
        model: keras.Model. A classifier.
        images: array. Images that build a model that is not built yet.

    Returns:
        A function of images and `training`.

    Raises:
        ValueError: if the model has no head, or several outputs.
    """
    if isinstance(model, VisionTransformer):
        if not model.get_config()["include_top"]:
            raise ValueError(
                "An explanation of a class needs a model with a head. Received: a VisionTransformer with include_top=False. "
                "Train a head (`model.adapt(num_classes=...)`), or use `attention_rollout`"
            )
        return keras.Model(model.input, model.get_layer("predictions").input)
    if not model.built:
        model(images[:1], training=False)
    outputs = getattr(model, "outputs", None)
    if outputs is None:  # neither Sequential nor functional
        return model
    if len(outputs) != 1:
        raise ValueError(f"An explanation of a class needs a model with one output. Received: a model with {len(outputs)}")
    history = outputs[0]._keras_history
    last, (before, *_) = history.operation, history.operation._inbound_nodes[history.node_index].input_tensors
    if isinstance(last, keras.Model):
        inputs, inner = keras.Model(model.inputs, before), class_scores(last, images)
        return lambda images, training: inner(inputs(images, training=training), training=training)
    if isinstance(last, (keras.layers.Activation, keras.layers.Softmax)):
        return keras.Model(model.inputs, before)
    linear = activations.config(getattr(last, "activation", None)) in (None, "linear")
    if isinstance(last, keras.layers.Dense) and last.quantization_mode is None and not linear:
        features = keras.Model(model.inputs, before)

        def scores(images, training):
            x = features(images, training=training)
            x = ops.matmul(x, ops.cast(last.kernel, x.dtype))
            return x if last.bias is None else x + ops.cast(last.bias, x.dtype)

        return scores
    return model


def targets(model: keras.Model, scores: Any, target: Any) -> np.ndarray:
    """Returns the target classes as an int array, one class per image.

    Args:
        model: the model, whose classes may have names.
        scores: array `(batch, classes)`.
        target: int or the name of a class; a sequence of these, one per image; or None, the class with the best score for each image.
    """
    if scores.ndim != 2:
        raise ValueError(f"The model must return class scores, (batch, classes). Received: an output of shape {scores.shape}")
    if target is None:
        return np.argmax(scores, axis=-1)
    several = isinstance(target, (list, tuple, np.ndarray))
    return np.array([_class_index(model, one, scores.shape[1]) for one in (target if several else [target] * len(scores))])


def _class_index(model, target, count):
    if isinstance(target, str):
        names = list(getattr(model, "class_names", None) or ())
        if target not in names:
            shown = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
            raise ValueError(
                f"No class has this name. Received: target={target!r}. " + (f"Classes are {shown}" if names else "Use its number")
            )
        return names.index(target)
    if not isinstance(target, numbers.Integral) or not 0 <= target < count:
        raise ValueError(f"`target` must be the number of a class, from 0 to {count - 1}, or its name. Received: target={target!r}")
    return int(target)
