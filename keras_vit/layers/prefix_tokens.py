"""Learned tokens that stand before the patch tokens: class, distillation and register tokens."""

from typing import Any

import keras
from keras import ops

from keras_vit.layers import checks


class _PrefixTokens(keras.layers.Layer):
    stddev = 0.0  # of the initial values
    after = 0  # number of tokens that stay in front

    def __init__(self, num_tokens: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        self.num_tokens = checks.integer("num_tokens", num_tokens)

    def build(self, input_shape):
        initializer = keras.initializers.RandomNormal(stddev=self.stddev)
        self.token = self.add_weight(name="token", shape=(1, self.num_tokens, input_shape[-1]), initializer=initializer)

    def call(self, tokens):
        batch, _, width = ops.shape(tokens)
        learned = ops.broadcast_to(ops.cast(self.token, tokens.dtype), (batch, self.num_tokens, width))
        if not self.after:
            return ops.concatenate([learned, tokens], axis=1)
        return ops.concatenate([tokens[:, : self.after], learned, tokens[:, self.after :]], axis=1)

    def compute_output_shape(self, input_shape):
        batch, length, width = input_shape
        return (batch, None if length is None else length + self.num_tokens, width)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_tokens": self.num_tokens}


@keras.saving.register_keras_serializable(package="keras_vit")
class ClassToken(_PrefixTokens):
    """Prepends learned tokens: the class token or, as the second of two, DeiT's distillation token.

    Its weight is `token` (1, num_tokens, D), which starts at zero as in vit_jax.

    Args:
        num_tokens: int. Number of tokens: 1 for the class token, 2 for class and distillation tokens. Defaults to 1.

    Input shape: `(batch, tokens, D)`.

    Output shape: `(batch, num_tokens + tokens, D)`.

    Raises:
        ValueError: if `num_tokens` is less than 1.

    Reference:
        Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, equation 1; Touvron et al., "Training data-efficient image
        transformers", 2021, section 4.

    Example:
    >>> keras_vit.layers.ClassToken()(keras.ops.ones((2, 196, 192))).shape
    (2, 197, 192)
    """


@keras.saving.register_keras_serializable(package="keras_vit")
class RegisterTokens(_PrefixTokens):
    """Inserts learned register tokens.

    The network may use them as scratch space, and no head reads them. The weight is `token` (1, num_tokens, D), which starts near zero
    (standard deviation 1e-6) as in timm and DINOv2.

    Args:
        num_tokens: int. Number of registers: 4 in DINOv2 with registers. Defaults to 4.
        after: int. Number of tokens, such as the class token, that stay in front of the registers. Defaults to 0.

    Input shape: `(batch, tokens, D)`.

    Output shape: `(batch, num_tokens + tokens, D)`.

    Raises:
        ValueError: if `num_tokens` is less than 1 or `after` is negative.

    Reference:
        Darcet et al., "Vision Transformers Need Registers", 2023.

    Example:
    >>> keras_vit.layers.RegisterTokens(4)(keras.ops.ones((2, 256, 384))).shape
    (2, 260, 384)
    """

    stddev = 1e-6

    def __init__(self, num_tokens: int = 4, after: int = 0, **kwargs: Any):
        super().__init__(num_tokens, **kwargs)
        self.after = checks.integer("after", after, least=0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "after": self.after}
