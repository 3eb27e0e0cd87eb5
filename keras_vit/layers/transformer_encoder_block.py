"""The Transformer encoder block: attention and a feed-forward network, each in a residual branch."""

from typing import Any

import keras
from keras import ops

from keras_vit.layers import activations, checks
from keras_vit.layers.drop_path import DropPath
from keras_vit.layers.layer_normalization import NORMS
from keras_vit.layers.layer_scale import LayerScale
from keras_vit.layers.masks import TakesMask
from keras_vit.layers.mlp import MLP, SwiGLU
from keras_vit.layers.multi_head_self_attention import QKV_BIASES, MultiHeadSelfAttention
from keras_vit.layers.sublayers import KeepsSublayers
from keras_vit.runtime.calls import bare
from keras_vit.runtime.intermediates import observe
from keras_vit.runtime.openvino import token_shape
from keras_vit.runtime.recompute import recomputed
from keras_vit.runtime.rotation import as_tensor, unrounded
from keras_vit.runtime.seeds import generators_of
from keras_vit.runtime.switch import fast_paths

FEED_FORWARD = {"mlp": MLP, "swiglu": SwiGLU}


@keras.saving.register_keras_serializable(package="keras_vit")
class TransformerEncoderBlock(TakesMask, KeepsSublayers, keras.layers.Layer):
    """Applies an encoder block: `x = x + attention(norm1(x))`, then `x = x + mlp(norm2(x))`.

    Its sublayers are `norm1`, `attention`, `norm2`, `mlp` and, with `layer_scale_init`, `layer_scale1` and `layer_scale2`.

    Args:
        num_heads: int. Number of attention heads; it must divide D, the width of a token.
        mlp_dim: int. Width of the feed-forward network's hidden layer.
        mlp: str. Feed-forward network: "mlp" or "swiglu". Defaults to "mlp".
        activation: str, callable or None. Activation of the feed-forward network. None takes "gelu" (exact) for "mlp" and "silu" for
            "swiglu". Defaults to None.
        dropout_rate: float in [0, 1). Dropout at the end of both branches and after the activation. Defaults to 0.0.
        attention_dropout_rate: float in [0, 1). Dropout of attention weights. Defaults to 0.0.
        drop_path_rate: float in [0, 1). Probability that a sample's branch is dropped in training. Defaults to 0.0.
        layer_scale_init: float or None. Initial value of the factors of both branches; None means no LayerScale. Defaults to None.
        use_qkv_bias: bool or "query_value". Whether queries, keys and values have biases; "query_value" gives none to the keys. Defaults
            to True.
        qk_norm: bool. Whether queries and keys go through a normalization. Defaults to False.
        norm_first: bool. If False, normalization follows the sum, `x = norm1(x + attention(x))`, as in the original Transformer. Defaults
            to True.
        norm_epsilon: float. What normalization adds to the variance: 1e-6 in vit_jax, timm, DeiT and DINOv2; 1e-5 in CLIP; 1e-12 in
            Hugging Face's ViT. Defaults to 1e-6.
        remat: bool. If True, the backward pass recomputes the block's activations instead of keeping them, which saves memory. Defaults
            to False.
        mlp_norm: bool. Whether the feed-forward network normalizes its hidden layer before the last product. Defaults to False.
        attention_norm: bool. Whether attention's output is normalized before its projection. Defaults to False.
        norm_branches: bool. If True, normalization ends each branch, `x = x + norm1(attention(x))`, as in EVA-02-E. It needs
            `norm_first=False`. Defaults to False.
        norm: "layer" or "rms". Kind of all normalizations, by mean and variance or by the mean square alone, as in AIMv2. Defaults to
            "layer".
        use_projection_bias: bool. Whether attention's projection and the feed-forward network have biases. Defaults to True.

    Call arguments:
        tokens: tensor of shape `(batch, tokens, D)`.
        num_queries: int or None. If given, only the first `num_queries` tokens act as queries, and the result holds only these. Defaults
            to None.
        rotation: tensor of shape `(2, ..., tokens, D / num_heads)` or None. The output of `RotaryPositionEmbedding`, by which queries and
            keys are rotated. Defaults to None.
        mask: bool tensor of shape `(batch, tokens)`, True for real tokens; the others are not attended to. Defaults to None, all real.
        training: bool. Whether dropout and stochastic depth are active. Defaults to False.

    Output shape: that of `tokens`; with `num_queries`, it replaces the number of tokens.

    Raises:
        ValueError: if `num_heads` does not divide D, `mlp_dim` is less than 1, a rate lies outside [0, 1), or `mlp`, `activation`, `norm`
            or `use_qkv_bias` is unknown, or `norm_branches` and `norm_first` are both True.

    Reference:
        Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, equations 2 and 3.

    Example:
    >>> keras_vit.layers.TransformerEncoderBlock(num_heads=3, mlp_dim=768)(keras.ops.ones((2, 197, 192))).shape
    (2, 197, 192)
    """

    def __init__(
        self,
        num_heads: int,
        mlp_dim: int,
        mlp: str = "mlp",
        activation: Any = None,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        layer_scale_init: float | None = None,
        use_qkv_bias: bool | str = True,
        qk_norm: bool = False,
        norm_first: bool = True,
        norm_epsilon: float = 1e-6,
        remat: bool = False,
        mlp_norm: bool = False,
        attention_norm: bool = False,
        norm_branches: bool = False,
        norm: str = "layer",
        use_projection_bias: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_heads = checks.integer("num_heads", num_heads)
        self.mlp_dim = checks.integer("mlp_dim", mlp_dim)
        self.mlp_kind = checks.one_of("mlp", mlp, FEED_FORWARD)
        activations.get(activation)
        self.activation = activation
        self.dropout_rate = checks.rate("dropout_rate", dropout_rate)
        self.attention_dropout_rate = checks.rate("attention_dropout_rate", attention_dropout_rate)
        self.drop_path_rate = checks.rate("drop_path_rate", drop_path_rate)
        self.layer_scale_init = layer_scale_init
        self.use_qkv_bias = checks.one_of("use_qkv_bias", use_qkv_bias, QKV_BIASES)
        self.qk_norm = qk_norm
        self.norm_first = norm_first
        self.norm_epsilon = norm_epsilon
        self.remat = remat
        self.mlp_norm = mlp_norm
        self.attention_norm = attention_norm
        self.norm_branches = checks.norm_branches(norm_branches, norm_first)
        self.norm_kind = checks.one_of("norm", norm, NORMS)
        self.use_projection_bias = use_projection_bias

    def build(self, tokens_shape: tuple) -> None:
        policy, normalization = dict(dtype=self.dtype_policy), NORMS[self.norm_kind]
        self.norm1 = normalization(epsilon=self.norm_epsilon, name="norm1", **policy)
        self.attention = MultiHeadSelfAttention(
            self.num_heads,
            use_qkv_bias=self.use_qkv_bias,
            qk_norm=self.qk_norm,
            dropout_rate=self.dropout_rate,
            attention_dropout_rate=self.attention_dropout_rate,
            norm_epsilon=self.norm_epsilon,
            output_norm=self.attention_norm,
            norm=self.norm_kind,
            use_projection_bias=self.use_projection_bias,
            name="attention",
            **policy,
        )
        self.norm2 = normalization(epsilon=self.norm_epsilon, name="norm2", **policy)
        activation = {} if self.activation is None else {"activation": self.activation}
        more = dict(use_norm=self.mlp_norm, norm_epsilon=self.norm_epsilon, norm=self.norm_kind, use_bias=self.use_projection_bias)
        self.mlp = FEED_FORWARD[self.mlp_kind](self.mlp_dim, dropout_rate=self.dropout_rate, name="mlp", **activation, **more, **policy)
        for layer in (self.norm1, self.attention, self.norm2, self.mlp):
            layer.build(tokens_shape)
        self.layer_scale1 = self.layer_scale2 = _identity
        if self.layer_scale_init is not None:
            self.layer_scale1 = LayerScale(self.layer_scale_init, name="layer_scale1", **policy)
            self.layer_scale2 = LayerScale(self.layer_scale_init, name="layer_scale2", **policy)
            self.layer_scale1.build(tokens_shape)
            self.layer_scale2.build(tokens_shape)
        self.drop_path1 = DropPath(self.drop_path_rate, name="drop_path1", **policy)
        self.drop_path2 = DropPath(self.drop_path_rate, name="drop_path2", **policy)
        self.sublayers_built()

    def __call__(self, *args: Any, rotation: Any = None, **kwargs: Any) -> Any:
        return super().__call__(*args, rotation=unrounded(rotation), **kwargs)

    def call(self, tokens: Any, num_queries: int | None = None, rotation: Any = None, mask: Any = None, training: bool = False) -> Any:
        rotation = as_tensor(rotation)
        if num_queries is not None and not fast_paths():
            return self.call(tokens, rotation=rotation, mask=mask, training=training)[:, :num_queries]
        if not self.remat or not training:
            return self._forward(tokens, num_queries, rotation, mask, training)
        given = {name: value for name, value in (("rotation", rotation), ("mask", mask)) if value is not None}

        def forward(tokens, *values):
            more = dict(zip(given, values))
            mask = ops.cast(more["mask"], "bool") if "mask" in more else None
            return self._forward(tokens, num_queries, more.get("rotation"), mask, training)

        if mask is not None:  # of floats, because TensorFlow differentiates with respect to each input
            given["mask"] = ops.cast(mask, tokens.dtype)
        return recomputed(forward, generators_of(self))(tokens, *given.values())

    def _forward(self, tokens, num_queries, rotation, mask, training, merging=None):
        tokens = observe("tokens", tokens, self)
        if rotation is not None:
            rotation = observe("rotation", rotation, self)
        batch, _, width = ops.shape(tokens)
        shape = token_shape(batch, width)
        every = ops.reshape(tokens, shape)
        x = every if num_queries is None else ops.reshape(tokens[:, :num_queries], shape)

        norm1, norm2 = bare(self.norm1), bare(self.norm2)

        def attention(x):
            arguments = dict(num_queries=num_queries, rotation=rotation, mask=mask, training=training, merging=merging)
            return bare(self.attention)(x, batch_size=batch, **arguments)

        def merge(x):  # between the branches, in a `TokenMergingBlock`
            return x if merging is None else merging.merge(x)

        def mlp(x):
            return bare(self.mlp)(x, training=training)

        def drop_path(layer, branch):
            if self.drop_path_rate == 0.0 or not training:
                return branch
            return ops.reshape(layer(ops.reshape(branch, (batch, -1, width)), training=training), shape)

        if self.norm_first:
            x = merge(x + drop_path(self.drop_path1, self.layer_scale1(attention(norm1(every)))))
            x = x + drop_path(self.drop_path2, self.layer_scale2(mlp(norm2(x))))
        elif self.norm_branches:
            x = x + drop_path(self.drop_path1, self.layer_scale1(norm1(attention(every))))
            x = x + drop_path(self.drop_path2, self.layer_scale2(norm2(mlp(x))))
        else:
            x = merge(norm1(x + drop_path(self.drop_path1, self.layer_scale1(attention(every)))))
            x = norm2(x + drop_path(self.drop_path2, self.layer_scale2(mlp(x))))
        return ops.reshape(x, (batch, -1, width))

    def compute_output_spec(
        self, tokens: Any, num_queries: int | None = None, rotation: Any = None, mask: Any = None, training: bool = False
    ) -> keras.KerasTensor:
        shape = tokens.shape if num_queries is None else (tokens.shape[0], num_queries, tokens.shape[-1])
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def compute_output_shape(self, tokens_shape: tuple) -> tuple:
        return tokens_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "mlp": self.mlp_kind,
            "activation": activations.config(self.activation),
            "dropout_rate": self.dropout_rate,
            "attention_dropout_rate": self.attention_dropout_rate,
            "drop_path_rate": self.drop_path_rate,
            "layer_scale_init": self.layer_scale_init,
            "use_qkv_bias": self.use_qkv_bias,
            "qk_norm": self.qk_norm,
            "norm_first": self.norm_first,
            "norm_epsilon": self.norm_epsilon,
            "remat": self.remat,
            "mlp_norm": self.mlp_norm,
            "attention_norm": self.attention_norm,
            "norm_branches": self.norm_branches,
            "norm": self.norm_kind,
            "use_projection_bias": self.use_projection_bias,
        }


def _identity(x):
    return x
