"""Multi-head self-attention with one kernel for queries, keys and values."""

from typing import Any

import keras
from keras import ops

from keras_vit.layers import checks
from keras_vit.layers.dense import Dense, QueryValueBiasDense
from keras_vit.layers.dropout import Dropout
from keras_vit.layers.layer_normalization import NORMS
from keras_vit.layers.masks import TakesMask, as_bias
from keras_vit.layers.sublayers import KeepsSublayers
from keras_vit.runtime.attention import scaled_dot_product_attention
from keras_vit.runtime.calls import bare
from keras_vit.runtime.devices import model_mesh
from keras_vit.runtime.openvino import token_shape
from keras_vit.runtime.rotation import as_tensor, rotate, unrounded
from keras_vit.runtime.tensor_parallel import project_heads

QKV_BIASES = (True, False, "query_value")


@keras.saving.register_keras_serializable(package="keras_vit")
class MultiHeadSelfAttention(TakesMask, KeepsSublayers, keras.layers.Layer):
    """Applies scaled dot-product attention between all tokens, in several heads.

    Its sublayers are `qkv` (D, 3D), `projection` (D, D), with `qk_norm`, `query_norm` and `key_norm` over the width of a head, and, with
    `output_norm`, `norm` (D). The columns of `qkv` are the queries, then the keys, then the values, each head by head.

    Args:
        num_heads: int. Number of attention heads; it must divide D, the width of a token.
        use_qkv_bias: bool or "query_value". Whether queries, keys and values have biases; "query_value" gives none to the keys. Defaults
            to True.
        qk_norm: bool. Whether queries and keys go through a normalization. Defaults to False.
        dropout_rate: float in [0, 1). Dropout after the projection. Defaults to 0.0.
        attention_dropout_rate: float in [0, 1). Dropout of attention weights. Defaults to 0.0.
        norm_epsilon: float. What the normalizations add to the variance. Defaults to 1e-6.
        output_norm: bool. Whether a normalization over all heads precedes the projection, as in EVA-02's CLIP. Defaults to False.
        norm: "layer" or "rms". Kind of the normalizations. Defaults to "layer".
        use_projection_bias: bool. Whether the projection has a bias. Defaults to True.

    Call arguments:
        tokens: tensor of shape `(batch, tokens, D)`, or `(batch * tokens, D)` if `batch_size` is given. With two axes, TensorFlow fuses
            each matrix product with its bias and the operation that follows.
        batch_size: int, scalar tensor or None. Number of samples in `tokens` of shape `(batch * tokens, D)`. Defaults to None.
        num_queries: int or None. If given, only the first `num_queries` tokens act as queries, and the result holds only these. Defaults
            to None.
        rotation: tensor of shape `(2, ..., tokens, D / num_heads)` or None. The output of `RotaryPositionEmbedding`, by which queries and
            keys are rotated. Defaults to None.
        mask: bool tensor of shape `(batch, tokens)`, True for real tokens; the others are not attended to. Defaults to None, all real.
        training: bool. Whether dropout is active. Defaults to False.
        merging: state of a `TokenMergingBlock` or None. It gives the sizes of merged tokens and receives the keys. Defaults to None.

    Output shape: that of `tokens`; with `num_queries`, it replaces the number of tokens.

    Raises:
        ValueError: if `num_heads` does not divide D, `use_qkv_bias` or `norm` is unknown, or a rate lies outside [0, 1).

    Reference:
        Vaswani et al., "Attention Is All You Need", 2017, section 3.2; Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020,
        appendix A.

    Example:
    >>> keras_vit.layers.MultiHeadSelfAttention(num_heads=3)(keras.ops.ones((2, 197, 192))).shape
    (2, 197, 192)
    """

    def __init__(
        self,
        num_heads: int,
        use_qkv_bias: bool | str = True,
        qk_norm: bool = False,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        norm_epsilon: float = 1e-6,
        output_norm: bool = False,
        norm: str = "layer",
        use_projection_bias: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.num_heads = checks.integer("num_heads", num_heads)
        self.use_qkv_bias = checks.one_of("use_qkv_bias", use_qkv_bias, QKV_BIASES)
        self.qk_norm = qk_norm
        self.dropout_rate = checks.rate("dropout_rate", dropout_rate)
        self.attention_dropout_rate = checks.rate("attention_dropout_rate", attention_dropout_rate)
        self.norm_epsilon = norm_epsilon
        self.output_norm = output_norm
        self.norm_kind = checks.one_of("norm", norm, NORMS)
        self.use_projection_bias = use_projection_bias

    def build(self, input_shape: tuple) -> None:
        width = input_shape[-1]
        head_dim = width // checks.divides("num_heads", self.num_heads, "hidden_dim", width)
        policy = dict(dtype=self.dtype_policy)
        dense = QueryValueBiasDense if self.use_qkv_bias == "query_value" else Dense
        self.qkv = dense(3 * width, use_bias=bool(self.use_qkv_bias), kernel_initializer=QKVInitializer(), name="qkv", **policy)
        projection = dict(use_bias=self.use_projection_bias, kernel_initializer="glorot_uniform")
        self.projection = Dense(width, name="projection", **projection, **policy)
        self.attention_dropout = Dropout(self.attention_dropout_rate, name="attention_dropout", **policy)
        self.dropout = Dropout(self.dropout_rate, name="dropout", **policy)
        self.qkv.build((None, width))
        self.projection.build((None, width))
        if self.qk_norm:
            by_head = keras.layers.LayerNormalization if self.norm_kind == "layer" else NORMS[self.norm_kind]
            self.query_norm = by_head(epsilon=self.norm_epsilon, name="query_norm", **policy)
            self.key_norm = by_head(epsilon=self.norm_epsilon, name="key_norm", **policy)
            self.query_norm.build((None, head_dim))
            self.key_norm.build((None, head_dim))
        if self.output_norm:
            self.norm = NORMS[self.norm_kind](epsilon=self.norm_epsilon, name="norm", **policy)
            self.norm.build((None, width))
        self.sublayers_built()

    def __call__(self, *args: Any, rotation: Any = None, **kwargs: Any) -> Any:
        return super().__call__(*args, rotation=unrounded(rotation), **kwargs)

    def call(
        self,
        tokens: Any,
        batch_size: Any = None,
        num_queries: int | None = None,
        rotation: Any = None,
        mask: Any = None,
        training: bool = False,
        merging: Any = None,
    ) -> Any:
        width = tokens.shape[-1]
        flat = batch_size is not None
        batch = batch_size if flat else ops.shape(tokens)[0]
        if not flat:
            tokens = ops.reshape(tokens, token_shape(batch, width))
        query, key, value = self.query_key_value(tokens, batch, num_queries, as_tensor(rotation))
        drops = self.attention_dropout_rate and training
        bias = merging.log_sizes if merging is not None else None if mask is None else as_bias(mask, tokens.dtype)
        heads = scaled_dot_product_attention(query, key, value, self.attention_dropout if drops else None, bias)
        if merging is not None:
            merging.keys = key
        heads = ops.reshape(ops.transpose(heads, (0, 2, 1, 3)), token_shape(batch, width))
        mixed = bare(self.projection)(bare(self.norm)(heads) if self.output_norm else heads)
        if training and self.dropout_rate:
            mixed = self.dropout(mixed, training=True)
        return mixed if flat else ops.reshape(mixed, (batch, -1, width))

    def query_key_value(self, tokens: Any, batch: Any, num_queries: int | None = None, rotation: Any = None) -> Any:
        """Projects tokens to queries, keys and values, and rotates queries and keys.

        Args:
            tokens: tensor of shape `(batch * tokens, D)`.
            batch: int or scalar tensor. Number of samples.
            num_queries: int or None. If given, only the first tokens of each sample act as queries. Defaults to None.
            rotation: tensor of shape `(2, ..., tokens, head_dim)` or None. See `call`. Defaults to None.

        Returns:
            Three tensors of shape `(batch, num_heads, tokens, head_dim)`.
        """
        width = tokens.shape[-1]
        if mesh := model_mesh():
            first = tokens if num_queries is None else self._first(tokens, batch, num_queries)
            (query,) = self._heads(self._over_devices(first, 0, 1, mesh), 1, batch, width)
            key, value = self._heads(self._over_devices(tokens, 1, 3, mesh), 2, batch, width)
        elif num_queries is None or self.qkv.quantization_mode is not None:
            query, key, value = self._heads(bare(self.qkv)(tokens), 3, batch, width)
            query = query if num_queries is None else query[:, :, :num_queries]
        else:  # all tokens give keys and values, but only the first ones act as queries
            first = self._first(tokens, batch, num_queries)
            (query,) = self._heads(self._part_of_qkv(first, 0, width), 1, batch, width)
            key, value = self._heads(self._part_of_qkv(tokens, width, 3 * width), 2, batch, width)
        if self.qk_norm:
            query, key = bare(self.query_norm)(query), bare(self.key_norm)(key)
        if rotation is not None:
            query, key = rotate(query, key, rotation)
        return query, key, value

    @staticmethod
    def _first(tokens, batch, num_queries):
        width = tokens.shape[-1]
        return ops.reshape(ops.reshape(tokens, (batch, -1, width))[:, :num_queries], token_shape(batch, width))

    def _part_of_qkv(self, tokens, start, stop):
        product = ops.matmul(tokens, ops.cast(self.qkv.kernel, tokens.dtype)[:, start:stop])
        return ops.add(product, ops.cast(self.qkv.bias, tokens.dtype)[start:stop]) if self.use_qkv_bias else product

    def _over_devices(self, tokens, start, stop, mesh):
        return project_heads(tokens, self.qkv.kernel, self.qkv.bias, self.num_heads, start, stop, mesh)

    def _heads(self, projected, parts, batch, width):
        heads = ops.reshape(projected, (batch, -1, parts, self.num_heads, width // self.num_heads))
        # Unstacked, not indexed: TensorFlow computes the gradient of a strided slice slowly.
        return ops.unstack(ops.transpose(heads, (2, 0, 3, 1, 4)), num=parts, axis=0)

    def compute_output_spec(
        self,
        tokens: Any,
        batch_size: Any = None,
        num_queries: int | None = None,
        rotation: Any = None,
        mask: Any = None,
        training: bool = False,
        merging: Any = None,
    ) -> keras.KerasTensor:
        shape = tokens.shape if num_queries is None else (tokens.shape[0], num_queries, tokens.shape[-1])
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def compute_output_shape(self, tokens_shape: tuple) -> tuple:
        return tokens_shape

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "use_qkv_bias": self.use_qkv_bias,
            "qk_norm": self.qk_norm,
            "dropout_rate": self.dropout_rate,
            "attention_dropout_rate": self.attention_dropout_rate,
            "norm_epsilon": self.norm_epsilon,
            "output_norm": self.output_norm,
            "norm": self.norm_kind,
            "use_projection_bias": self.use_projection_bias,
        }


@keras.saving.register_keras_serializable(package="keras_vit")
class QKVInitializer(keras.initializers.Initializer):
    """Initializes each of the (D, D) kernels that lie side by side by Glorot uniform, as vit_jax does.

    Args:
        seed: int or None. Seed of the initializer; None takes a random one. Defaults to None.
    """

    def __init__(self, seed: int | None = None):
        self.seed = seed
        self.each = keras.initializers.GlorotUniform(seed)

    def __call__(self, shape, dtype=None):
        bound = (6.0 / (2 * shape[0])) ** 0.5
        return keras.random.uniform(shape, -bound, bound, dtype=dtype, seed=self.each.seed)

    def get_config(self) -> dict[str, Any]:
        return {"seed": self.seed}
