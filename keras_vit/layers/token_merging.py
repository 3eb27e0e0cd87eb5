"""Token merging: blocks that merge similar tokens, so that later blocks compute fewer."""

from typing import Any

import keras
from keras import ops

from keras_vit.layers import checks
from keras_vit.layers.transformer_encoder_block import TransformerEncoderBlock
from keras_vit.runtime.openvino import token_shape
from keras_vit.runtime.switch import fast_paths


@keras.saving.register_keras_serializable(package="keras_vit")
class TokenMergingBlock(TransformerEncoderBlock):
    """Applies an encoder block that merges `r` tokens between attention and feed-forward network.

    The patch tokens are split in two halves, those at even and at odd places. Each token of one half is compared with all of the other,
    by the cosine similarity of its key, averaged over the heads. The `r` most similar ones are merged into their nearest tokens: a merged
    token is the mean of its patches. Attention counts it as often as it has patches (proportional attention).

    Args:
        num_heads: int. Number of attention heads.
        mlp_dim: int. Width of the feed-forward network's hidden layer.
        r: int. Number of tokens to merge, at most half of the patch tokens. Defaults to 0.
        num_prefix_tokens: int. Number of class, distillation and register tokens, the first ones. They are never merged. Defaults to 0.
        **kwargs: other arguments of `TransformerEncoderBlock`, but for `remat`.

    Call arguments:
        tokens: tensor of shape `(batch, tokens, D)`.
        num_queries: int or None. If given, only the first `num_queries` tokens act as queries, and the result holds only these: nothing
            is merged. Defaults to None.
        rotation, mask: None. Neither rotary positions, of which a merged token has none of its own, nor masks are supported.
        training: bool. Whether dropout and stochastic depth are active. Defaults to False.
        places: int tensor of shape `(batch, all tokens)` or None. For each token of the first block, the place of the token in `tokens`
            that it was merged into. Defaults to None, nothing is merged yet.

    Output shape: the pair of `(batch, tokens - r, D)` and the new places, `(batch, all tokens)`; with `num_queries`,
        `(batch, num_queries, D)` alone.

    Raises:
        ValueError: if `r` or `num_prefix_tokens` is negative.

    Reference:
        Bolya et al., "Token Merging: Your ViT But Faster", 2023, section 3.

    Example:
    >>> block = keras_vit.layers.TokenMergingBlock(num_heads=3, mlp_dim=768, r=16, num_prefix_tokens=1)
    >>> tokens, places = block(keras.ops.ones((2, 197, 192)))
    >>> tokens.shape, places.shape
    ((2, 181, 192), (2, 197))
    """

    def __init__(self, num_heads: int, mlp_dim: int, r: int = 0, num_prefix_tokens: int = 0, **kwargs: Any):
        super().__init__(num_heads, mlp_dim, **kwargs)
        self.r = checks.integer("r", r, least=0)
        self.num_prefix_tokens = checks.integer("num_prefix_tokens", num_prefix_tokens, least=0)
        if self.remat:
            raise ValueError("Token merging is for inference: blocks that merge are not recomputed. Received: remat=True")

    def call(
        self,
        tokens: Any,
        num_queries: int | None = None,
        rotation: Any = None,
        mask: Any = None,
        training: bool = False,
        places: Any = None,
    ) -> Any:
        if rotation is not None or mask is not None:
            raise ValueError("Tokens are merged in models without rotary positions and without masks. Received: rotation or mask")
        if num_queries is not None and not fast_paths():
            return self.call(tokens, training=training, places=places)[0][:, :num_queries]
        merging = Merging(places, tokens, 0 if num_queries is not None else self.r, self.num_prefix_tokens)
        tokens = self._forward(tokens, num_queries, None, None, training, merging)
        return tokens if num_queries is not None else (tokens, merging.places)

    def compute_output_spec(
        self,
        tokens: Any,
        num_queries: int | None = None,
        rotation: Any = None,
        mask: Any = None,
        training: bool = False,
        places: Any = None,
    ) -> Any:
        batch, count, width = tokens.shape
        if num_queries is not None:
            return keras.KerasTensor((batch, num_queries, width), dtype=self.compute_dtype)
        left = None if count is None else count - merged_tokens(count, self.r, self.num_prefix_tokens)
        first = count if places is None else places.shape[1]
        return keras.KerasTensor((batch, left, width), dtype=self.compute_dtype), keras.KerasTensor((batch, first), dtype="int32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "r": self.r, "num_prefix_tokens": self.num_prefix_tokens}


class Merging:
    """The state of one call of a `TokenMergingBlock`: attention leaves its keys here, and reads how large the tokens are.

    Args:
        places: as in `TokenMergingBlock`.
        tokens: tensor of shape `(batch, tokens, D)`. The block's input.
        r: int. Number of tokens to merge.
        num_prefix_tokens: int. Number of tokens that are never merged, the first ones.
    """

    def __init__(self, places, tokens, r, num_prefix_tokens):
        self.batch, self.count = ops.shape(tokens)[:2]
        self.r, self.num_prefix_tokens = merged_tokens(self.count, r, num_prefix_tokens), num_prefix_tokens
        self.keys = None
        if places is None:
            self.sizes = None
            self.places = ops.tile(ops.arange(self.count, dtype="int32")[None], (self.batch, 1))
        else:
            self.places = ops.cast(places, "int32")
            self.sizes = _sum_by_place(ops.ones_like(self.places, dtype="float32"), self.places, self.count)

    @property
    def log_sizes(self):
        """What proportional attention adds to the scores of each key, `(batch, tokens)`; None while no token is merged."""
        return None if self.sizes is None else ops.log(self.sizes)

    def merge(self, flat):
        """Merges tokens of shape `(batch * tokens, D)`, after attention has left its keys here."""
        if isinstance(self.r, int) and self.r == 0:
            return flat
        places = new_places(self.keys, self.r, self.num_prefix_tokens)
        width, left = flat.shape[-1], self.count - self.r
        tokens = ops.cast(ops.reshape(flat, (self.batch, -1, width)), "float32")
        sizes = ops.ones((self.batch, self.count), "float32") if self.sizes is None else self.sizes
        merged = _sum_by_place(tokens * sizes[..., None], places, left) / _sum_by_place(sizes, places, left)[..., None]
        self.places = rows_at(places[..., None], self.places)[..., 0]
        return ops.reshape(ops.cast(merged, flat.dtype), token_shape(self.batch, width))


@keras.saving.register_keras_serializable(package="keras_vit")
class UnmergeTokens(keras.layers.Layer):
    """Gives each token of the first block the token that it was merged into.

    So what follows finds every patch at its place: a mean over the patches weights merged tokens by their size, as does attention
    pooling, and feature maps have the model's grid.

    Args:
        **kwargs: arguments of `keras.layers.Layer`.

    Call arguments:
        tokens: tensor of shape `(batch, tokens, D)`.
        places: int tensor of shape `(batch, all tokens)`, as `TokenMergingBlock` returns it.

    Output shape: `(batch, all tokens, D)`.

    Reference:
        Bolya et al., "Token Merging: Your ViT But Faster", 2023, appendix D.

    Example:
    >>> keras_vit.layers.UnmergeTokens()(keras.ops.ones((2, 3, 8)), keras.ops.zeros((2, 5), "int32")).shape
    (2, 5, 8)
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)

    def call(self, tokens: Any, places: Any) -> Any:
        return rows_at(tokens, ops.cast(places, "int32"))

    def compute_output_shape(self, tokens_shape: tuple, places_shape: tuple) -> tuple:
        return *places_shape, tokens_shape[-1]

    def get_config(self) -> dict[str, Any]:
        return super().get_config()


def merged_tokens(count, r, num_prefix_tokens):
    """Returns how many tokens a block merges: `r`, or as many as there can be, half of the patches."""
    most = (count - num_prefix_tokens) // 2
    return max(0, min(r, most)) if isinstance(count, int) else ops.maximum(0, ops.minimum(r, most))


def new_places(keys, r, num_prefix_tokens):
    """Matches tokens by bipartite soft matching.

    Args:
        keys: tensor of shape `(batch, heads, tokens, head_dim)`.
        r: int or scalar tensor. Number of tokens to merge.
        num_prefix_tokens: int. Number of tokens that are never merged, the first ones.

    Returns:
        An int tensor of shape `(batch, tokens)`: the place of each token after merging. Prefix tokens come first, then the tokens that are
        left of the first half, then the second half.
    """
    keys = ops.mean(ops.cast(keys, "float32"), axis=1)[:, num_prefix_tokens:]
    keys = keys / ops.maximum(ops.norm(keys, axis=-1, keepdims=True), 1e-12)
    odd = num_prefix_tokens % 2  # halves are counted from the first token on, whether it is a patch or not
    sources, targets = keys[:, odd::2], keys[:, 1 - odd :: 2]
    similarity = ops.matmul(sources, ops.transpose(targets, (0, 2, 1)))
    nearest = ops.cast(ops.argmax(similarity, axis=-1), "int32")
    rank = ops.argsort(ops.argsort(-ops.max(similarity, axis=-1), axis=-1), axis=-1)  # of each source, the most similar first
    merged = rank < r
    (batch, count), half = ops.shape(keys)[:2], ops.shape(sources)[1]
    kept = half - r
    # With prefix tokens those that are left stay in order, without they are in the order of similarity, as in the authors' code. It
    # matters in the next block, which splits them in halves by their place.
    place = ops.cumsum(ops.cast(ops.logical_not(merged), "int32"), axis=-1) - 1 if num_prefix_tokens else ops.cast(rank, "int32") - r
    place = ops.where(merged, kept + nearest, place)
    target_place = ops.broadcast_to((kept + ops.arange(count - half, dtype="int32"))[None], (batch, count - half))
    first, second = (target_place, place) if odd else (place, target_place)
    second = ops.concatenate([second, ops.zeros_like(first[:, : count % 2])], axis=1)  # one shorter if the count is odd
    patches = num_prefix_tokens + ops.reshape(ops.stack([first, second], axis=-1), (batch, -1))[:, :count]
    prefix = ops.tile(ops.arange(num_prefix_tokens, dtype="int32")[None], (batch, 1))
    return ops.concatenate([prefix, ops.cast(patches, "int32")], axis=1)


def rows_at(values, places):
    """Returns `values[b, places[b, i]]` for `(batch, tokens, D)` and `(batch, n)`."""
    count, width = ops.shape(values)[1], values.shape[-1]
    flat = ops.take(ops.reshape(values, (-1, width)), _flat(places, count), axis=0)
    return ops.reshape(flat, (*ops.shape(places), width))


def _sum_by_place(values, places, count):
    """Returns the sums of the values that have the same place: `(batch, n, ...)` to `(batch, count, ...)`."""
    batch, rest = ops.shape(places)[0], tuple(values.shape[2:])
    flat = ops.segment_sum(ops.reshape(values, (-1, *rest)), _flat(places, count), num_segments=batch * count)
    return ops.reshape(flat, (batch, count, *rest))


def _flat(places, count):
    """Returns the places in `(batch * count, ...)`, as one axis."""
    return ops.reshape(places + count * ops.arange(ops.shape(places)[0], dtype="int32")[:, None], (-1,))
