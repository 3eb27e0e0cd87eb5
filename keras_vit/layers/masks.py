"""Masks of tokens: which tokens of each sample are real, where samples of different lengths share a batch."""

from typing import Any

import keras
from keras import ops


class TakesMask:
    """Mixin of a layer whose `mask` is a call argument like any other: Keras neither passes it on nor warns that the layer drops it."""

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        return None


@keras.saving.register_keras_serializable(package="keras_vit")
class TokenMask(keras.layers.Layer):
    """Puts prefix tokens, which are all real, before a mask of patches.

    Args:
        num_prefix_tokens: int. Number of tokens in front that are not patches.

    Call arguments:
        real: bool tensor of shape `(batch, patches)`.
        tokens: tensor of shape `(batch, num_prefix_tokens + patches, D)`. Only its shape is read: while JAX exports a model, the inputs'
            numbers of patches are symbols of their own.

    Output shape: `(batch, num_prefix_tokens + patches)`.
    """

    def __init__(self, num_prefix_tokens: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_prefix_tokens = num_prefix_tokens
        self.built = True

    def call(self, real: Any, tokens: Any) -> Any:
        batch, length, _ = ops.shape(tokens)
        places = ops.arange(length - self.num_prefix_tokens, dtype="int32")
        real = ops.take_along_axis(real, ops.broadcast_to(places, (batch, length - self.num_prefix_tokens)), axis=1)
        if not self.num_prefix_tokens:
            return real
        return ops.concatenate([ops.ones((batch, self.num_prefix_tokens), "bool"), real], axis=1)

    def compute_output_spec(self, real: Any, tokens: Any) -> keras.KerasTensor:
        return keras.KerasTensor(tokens.shape[:2], dtype="bool")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_prefix_tokens": self.num_prefix_tokens}


def as_bias(mask: Any, dtype: str) -> Any:
    """Returns what is added to the scores of keys, `(batch, tokens)`: nothing for real tokens, and to the others what makes weights zero.

    It is finite, also in half precision: a sample without any real token gives no NaN.
    """
    return ops.where(mask, 0.0, ops.cast(-6e4, keras.backend.result_type(dtype, "float32")))


def masked_mean(tokens: Any, mask: Any) -> Any:
    """Returns the mean of the real tokens of `(batch, tokens, D)`, `(batch, D)`; zeros for a sample without any."""
    weights = ops.cast(mask, tokens.dtype)[:, :, None]
    return ops.sum(tokens * weights, axis=1) / ops.maximum(ops.sum(weights, axis=1), 1.0)
