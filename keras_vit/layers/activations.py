"""The activations of published Vision Transformers, by name."""

import functools

import keras
from keras import ops

from keras_vit.runtime import gelu as exact
from keras_vit.runtime.fused import fused_in_training


def _fused_in_training(function):
    """Lets a training step on TensorFlow's CPU compute an activation in one pass through memory, and its gradient in another."""

    @functools.wraps(function)
    def activation(x):
        return fused_in_training(function, x)

    return activation


@keras.saving.register_keras_serializable(package="keras_vit")
def gelu(x):
    """The exact GELU."""
    return exact.gelu(x)


@keras.saving.register_keras_serializable(package="keras_vit")
@_fused_in_training
def gelu_tanh(x):
    """GELU by its tanh approximation: flax's default, and so that of every checkpoint of Google's (at most 4.8e-4 from the exact one)."""
    return ops.gelu(x, approximate=True)


@keras.saving.register_keras_serializable(package="keras_vit")
@_fused_in_training
def quick_gelu(x):
    """`x * sigmoid(1.702 x)`, as in OpenAI's CLIP."""
    return x * ops.sigmoid(1.702 * x)


NAMED = {"gelu": gelu, "gelu_tanh": gelu_tanh, "quick_gelu": quick_gelu}


def get(identifier, argument="activation"):
    """Returns the activation for a name of Keras's ("gelu" is the exact one), "gelu_tanh", "quick_gelu", or a callable.

    Raises:
        ValueError: if there is no activation of that name.
    """
    if isinstance(identifier, str) and identifier in NAMED:
        return NAMED[identifier]
    try:
        return keras.activations.get(identifier)
    except ValueError:
        known = ", ".join(map(repr, NAMED))
        raise ValueError(
            f"`{argument}` must be the name of an activation of Keras's, one of {known}, or a callable. Received: {argument}={identifier!r}"
        ) from None


def config(identifier):
    """Returns what stands for an activation in a layer's configuration: its name or, for a callable, its registered form."""
    return identifier if identifier is None or isinstance(identifier, (str, dict)) else keras.activations.serialize(identifier)
