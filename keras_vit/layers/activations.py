"""The activations of published Vision Transformers, by name."""

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_vit.runtime import gelu as exact
from keras_vit.runtime.fused import fused_in_training


def _fused_in_training(function):
    """Computes an activation in one pass through memory, and its gradient in another, in training on TensorFlow's CPU."""

    @functools.wraps(function)
    def activation(x):
        return fused_in_training(function, x)

    return activation


@keras.saving.register_keras_serializable(package="keras_vit")
def gelu(x: Any) -> Any:
    """Returns the exact GELU."""
    return exact.gelu(x)


@keras.saving.register_keras_serializable(package="keras_vit")
@_fused_in_training
def gelu_tanh(x: Any) -> Any:
    """Returns the tanh approximation of GELU.

    It is the default of flax, so all of Google's checkpoints use it. It differs from the exact GELU by at most 4.8e-4.
    """
    return ops.gelu(x, approximate=True)


@keras.saving.register_keras_serializable(package="keras_vit")
@_fused_in_training
def quick_gelu(x: Any) -> Any:
    """Returns `x * sigmoid(1.702 x)`, the activation of OpenAI's CLIP."""
    return x * ops.sigmoid(1.702 * x)


NAMED = {"gelu": gelu, "gelu_tanh": gelu_tanh, "quick_gelu": quick_gelu}


def get(identifier: Any, argument: str = "activation") -> Callable:
    """Returns the activation function for a name, a callable or a serialized activation.

    Args:
        identifier: str, callable, dict or None. "gelu" (exact), "gelu_tanh", "quick_gelu", or what `keras.activations.get` takes.
        argument: str. Name of the argument that the error shows. Defaults to "activation".

    Raises:
        ValueError: if no activation has that name.
    """
    if isinstance(identifier, str) and identifier in NAMED:
        return NAMED[identifier]
    try:
        return keras.activations.get(identifier)
    except ValueError:
        known = ", ".join(map(repr, NAMED))
        raise ValueError(
            f"`{argument}` must be the name of an activation in Keras, one of {known}, or a callable. Received: {argument}={identifier!r}"
        ) from None


def config(identifier: Any) -> str | dict | None:
    """Returns an activation as `get_config` writes it: its name or, for a callable, its serialized form."""
    return identifier if identifier is None or isinstance(identifier, (str, dict)) else keras.activations.serialize(identifier)
