"""Computes the cost of a configuration by formula: parameters, multiply-adds, and the activations that training keeps."""

import math
from typing import Any, NamedTuple

from keras_vit.config import ViTConfig
from keras_vit.layers.token_merging import merged_tokens


class Cost(NamedTuple):
    """The cost of a configuration.

    Args:
        parameters: int. Number of trainable weights.
        macs: int. Multiply-adds of a forward pass.
        activation_bytes: int. Bytes of the activations that the backward pass needs.
        outputs: int. Number of values that convolutions and matrix products write. timm's tables call them activations (`macts`, in
            millions). Defaults to 0.
    """

    parameters: int
    macs: int
    activation_bytes: int
    outputs: int = 0

    def __add__(self, other):
        return Cost(*(a + b for a, b in zip(self, other)))


def cost(model: Any, batch_size: int = 1, bytes_per_value: int = 4, **overrides: Any) -> Cost:
    """Returns the cost of a model, without building it.

    Multiply-adds are those of convolutions and matrix products, including attention, over all tokens in every block: the number that
    papers and timm call FLOPs or GMACs. With class-token pooling, the model computes less than that in its last block.

    Args:
        model: a `VisionTransformer`, the name of a preset, a `ViTConfig`, or a dict of arguments of `VisionTransformer`.
        batch_size: int. Number of images that multiply-adds and activations are counted for. Defaults to 1.
        bytes_per_value: int. Bytes of an activation: 4 for float32, 2 for half precision. Defaults to 4.
        **overrides: arguments of `VisionTransformer`, such as `input_shape` or `num_classes`.

    Returns:
        A `Cost` with ints `parameters`, `macs`, `activation_bytes` and `outputs`.

    Raises:
        ValueError: if the preset is unknown, or the input size is open.

    Example:
    >>> keras_vit.cost("ViTB16").parameters
    86567656
    """
    parts = cost_by_part(model, bytes_per_value, **overrides).values()
    total = sum(parts, Cost(0, 0, 0))
    return Cost(total.parameters, *(batch_size * each for each in total[1:]))


def cost_by_part(model: Any, bytes_per_value: int = 4, **overrides: Any) -> dict[str, Cost]:
    """Returns `{part: Cost}` for one image: stem, patch_embedding, tokens, blocks, norm, pooling, head. Arguments as in `cost`."""
    c = ViTConfig.of(model, **overrides)
    n, patches, height, width = known_sizes(c)
    d, channels = c.hidden_dim, c.channels
    parts = {}

    if c.stem is not None:
        parts["stem"], channels = _stem_cost(c.stem, height, width, channels)
    weights = math.prod(c.patch) * channels * d
    parts["patch_embedding"] = Cost(weights + d * c.patch_bias, weights * patches, math.prod(c.patch) * channels * patches, patches * d)

    table = math.prod(c.table_grid) * d if c.position_embedding == "learned" else 0
    positions = table + (c.num_class_tokens * d if table and c.prefix_positions else 0)
    positions += c.num_layers * d if c.rotary is not None and c.rotary.learned else 0
    norm, normed = _weights_of_norm(c), bool(c.norm_embeddings)
    parts["tokens"] = Cost(c.num_prefix_tokens * d + positions + norm * d * normed, 0, n * d * normed)
    parts["blocks"] = Cost(0, 0, 0)
    for r in c.merged_tokens:
        left = n - merged_tokens(n, r, c.num_prefix_tokens)
        parts["blocks"] += _block_cost(c, n, left)
        n = left
    n = c.num_tokens
    parts["norm"] = Cost(norm * d, 0, n * d) if c.final_norm else Cost(0, 0, 0)
    feature = c.feature_dim
    if c.pooling == "map":
        pooled, heads = n if c.pooling_prefix_tokens else patches, c.pooling_num_heads or c.num_heads
        hidden = c.pooling_mlp_dim or c.mlp_dim
        mlp = _dense(d, hidden, 1) + _dense(hidden, d, 1)
        products = Cost(d, 2 * pooled * d, heads * pooled, heads * pooled + d)
        attention = _dense(d, d, 1) + _dense(d, 2 * d, pooled) + _dense(d, d, 1) + products
        parts["pooling"] = mlp + attention + Cost(norm * d, 0, d)
    if c.representation_size:
        parts["representation"] = _dense(feature, c.representation_size, 1, c.representation_bias)
        feature = c.representation_size
    if c.include_top:
        heads = 1 + c.distillation_token
        parts["head"] = Cost(*(heads * value for value in _dense(feature, c.num_classes, 1)))
    return {part: c._replace(activation_bytes=bytes_per_value * c.activation_bytes) for part, c in parts.items()}


def known_sizes(c: ViTConfig) -> tuple[int, int, int, int]:
    """Returns (tokens, patches, rows, columns of pixels) of an image. Raises a ValueError if `input_shape` is open."""
    n, patches, (height, width) = c.num_tokens, c.num_patches, c.image_size
    if n is None or patches is None or height is None or width is None:
        raise ValueError(f"The cost depends on the size of the image: pass `input_shape`. Received: input_shape={c.input_shape}")
    return n, patches, height, width


def _dense(inputs, outputs, rows, bias=True):
    """Returns the cost of a dense layer. Its activations are its inputs, which the gradient of its kernel needs."""
    return Cost(inputs * outputs + outputs * bias, rows * inputs * outputs, rows * inputs, rows * outputs)


def _weights_of_norm(c):
    """Factors and, of a layer normalization, offsets for each channel."""
    return 2 if c.norm == "layer" else 1


def _block_cost(c, n, left):
    """Returns the cost of a block with `n` tokens in attention, and `left` tokens, after merging, in the feed-forward network."""
    d, heads, mlp_dim, bias, norm = c.hidden_dim, c.num_heads, c.mlp_dim, c.projection_bias, _weights_of_norm(c)
    norms = Cost(2 * norm * d, 0, (n + left) * d)
    # Kept: the scores after the softmax, and queries, keys and values in the layout of the matrix products.
    attention = Cost(0, 2 * n * n * d, heads * n * n + 3 * n * d, heads * n * n + n * d)
    products = _dense(d, 3 * d, n, bool(c.qkv_bias)) + _dense(d, d, n, bias)
    products += Cost(-d * (c.qkv_bias == "query_value"), 0, 0)  # keys have no bias
    gated = 2 if c.mlp == "swiglu" else 1
    mlp = _dense(d, gated * mlp_dim, left, bias) + _dense(mlp_dim, d, left, bias) + Cost(0, 0, gated * left * mlp_dim)
    extra = Cost(2 * d, 0, (n + left) * d) if c.layer_scale_init is not None else Cost(0, 0, 0)
    qk_norm = Cost(2 * norm * c.head_dim, 0, 2 * n * d) if c.qk_norm else Cost(0, 0, 0)
    inner = c.mlp_dim * c.mlp_norm + d * c.attention_norm
    block = norms + attention + products + mlp + extra + qk_norm + Cost(norm * inner, 0, n * inner)
    # With remat only a block's input is kept.
    return block._replace(activation_bytes=n * d) if c.remat else block


def _stem_cost(stem, height, width, channels):
    total = Cost(0, 0, 0)

    def conv(kernel, inputs, outputs, height, width, norm_weights):
        weights = kernel * kernel * inputs * outputs
        positions = height * width
        return Cost(weights + norm_weights * outputs, weights * positions, 2 * outputs * positions, outputs * positions)

    if stem.kind == "conv":
        for filters, stride in zip(stem.filters, stem.strides):
            height, width = math.ceil(height / stride), math.ceil(width / stride)
            # Batch normalization has gamma and beta; its moving statistics do not count as parameters.
            total += conv(3, channels, filters, height, width, 2)
            channels = filters
        return total, channels

    height, width = math.ceil(height / 2), math.ceil(width / 2)
    total += conv(7, channels, stem.width, height, width, 2)
    height, width, channels = math.ceil(height / 2), math.ceil(width / 2), stem.width
    for stage, count in enumerate(stem.block_counts):
        inner = stem.width * 2**stage
        for unit in range(count):
            stride = 2 if stage > 0 and unit == 0 else 1
            small = math.ceil(height / stride), math.ceil(width / stride)
            total += conv(1, channels, inner, height, width, 2)
            total += conv(3, inner, inner, *small, 2) + conv(1, inner, 4 * inner, *small, 2)
            if stride != 1 or channels != 4 * inner:
                total += conv(1, channels, 4 * inner, *small, 2)
            (height, width), channels = small, 4 * inner
    return total, channels
