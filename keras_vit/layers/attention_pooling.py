"""Attention pooling: the MAP head."""

from typing import Any

import keras
from keras import ops

from keras_vit.layers import activations, checks
from keras_vit.layers.layer_normalization import NORMS
from keras_vit.layers.masks import TakesMask, as_bias
from keras_vit.layers.mlp import MLP
from keras_vit.layers.multi_head_self_attention import QKVInitializer
from keras_vit.layers.sublayers import KeepsSublayers
from keras_vit.runtime.attention import scaled_dot_product_attention
from keras_vit.runtime.intermediates import observe


@keras.saving.register_keras_serializable(package="keras_vit")
class AttentionPooling(TakesMask, KeepsSublayers, keras.layers.Layer):
    """Pools tokens by multi-head attention (MAP): one learned probe attends to all tokens, and a feed-forward network follows.

    Its weights are `probe` (1, 1, D) and the sublayers `query` (D, D), `key_value` (D, 2D; keys first), `projection` (D, D), `norm` and
    `mlp`. The result is `y + mlp(norm(y))` with `y = projection(attention(probe, tokens))`.

    Args:
        num_heads: int. Number of attention heads; it must divide D, the width of a token.
        mlp_dim: int. Width of the feed-forward network's hidden layer.
        activation: str or callable. Activation of the feed-forward network. Defaults to "gelu".
        norm_epsilon: float. What the normalization adds to the variance. Defaults to 1e-6.
        norm: "layer" or "rms". Kind of the normalization. Defaults to "layer".

    Call arguments:
        tokens: tensor of shape `(batch, tokens, D)`.
        mask: bool tensor of shape `(batch, tokens)`, True for real tokens; the others are not attended to. Defaults to None, all real.

    Output shape: `(batch, D)`.

    Raises:
        ValueError: if `num_heads` does not divide D, `mlp_dim` is less than 1, or `activation` or `norm` is unknown.

    Reference:
        Zhai et al., "Scaling Vision Transformers", 2021, section 3.2; `MAPHead` of big_vision.

    Example:
    >>> keras_vit.layers.AttentionPooling(num_heads=3, mlp_dim=768)(keras.ops.ones((2, 196, 192))).shape
    (2, 192)
    """

    def __init__(
        self, num_heads: int, mlp_dim: int, activation: Any = "gelu", norm_epsilon: float = 1e-6, norm: str = "layer", **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.num_heads = checks.integer("num_heads", num_heads)
        self.mlp_dim = checks.integer("mlp_dim", mlp_dim)
        activations.get(activation)
        self.activation = activation
        self.norm_epsilon = norm_epsilon
        self.norm_kind = checks.one_of("norm", norm, NORMS)

    def build(self, input_shape: tuple) -> None:
        width = input_shape[-1]
        checks.divides("num_heads", self.num_heads, "hidden_dim", width)
        policy = dict(dtype=self.dtype_policy)
        self.probe = self.add_weight(name="probe", shape=(1, 1, width), initializer="glorot_uniform")
        self.query = keras.layers.Dense(width, name="query", **policy)
        self.key_value = keras.layers.Dense(2 * width, kernel_initializer=QKVInitializer(), name="key_value", **policy)
        self.projection = keras.layers.Dense(width, name="projection", **policy)
        norm = keras.layers.LayerNormalization if self.norm_kind == "layer" else NORMS[self.norm_kind]
        self.norm = norm(epsilon=self.norm_epsilon, name="norm", **policy)
        self.mlp = MLP(self.mlp_dim, self.activation, name="mlp", **policy)
        for layer in (self.query, self.key_value, self.projection, self.norm, self.mlp):
            layer.build((None, width))
        self.sublayers_built()

    def call(self, tokens: Any, mask: Any = None) -> Any:
        tokens = observe("tokens", tokens, self)
        batch, _, width = ops.shape(tokens)
        probe = ops.reshape(ops.cast(self.probe, tokens.dtype), (1, width))
        (query,) = self._heads(self.query(probe), 1, 1, width)
        key, value = self._heads(self.key_value(ops.reshape(tokens, (-1, width))), 2, batch, width)
        bias = None if mask is None else as_bias(mask, tokens.dtype)
        pooled = self.projection(ops.reshape(scaled_dot_product_attention(query, key, value, bias=bias), (-1, width)))
        return pooled + self.mlp(self.norm(pooled))

    def _heads(self, projected, parts, batch, width):
        heads = ops.reshape(projected, (batch, -1, parts, self.num_heads, width // self.num_heads))
        return ops.unstack(ops.transpose(heads, (2, 0, 3, 1, 4)), num=parts, axis=0)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (input_shape[0], input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "activation": activations.config(self.activation),
            "norm_epsilon": self.norm_epsilon,
            "norm": self.norm_kind,
        }
