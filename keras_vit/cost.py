"""What a configuration costs, by formula: parameters, multiply-adds, and the activations that training keeps."""

import inspect
import math
from typing import NamedTuple

import keras

from keras_vit.layers import checks
from keras_vit.presets import preset
from keras_vit.vision_transformer import VisionTransformer, make_stem


class Cost(NamedTuple):
    """Parameters (count), macs (multiply-adds of a forward pass) and activation_bytes (kept for the backward pass)."""

    parameters: int
    macs: int
    activation_bytes: int

    def __add__(self, other):
        return Cost(*(a + b for a, b in zip(self, other)))


def cost(model, batch_size=1, bytes_per_value=4, **overrides):
    """Returns what a model costs, without building it.

    Multiply-adds are those of convolutions and matrix products, attention's included, over all tokens in every block: the number that
    papers and timm call FLOPs or GMACs. The model computes less where pooling reads the class token alone.

    Args:
        model: a `VisionTransformer`, the name of a preset, or a dict of arguments of `VisionTransformer`.
        batch_size: int. Images that multiply-adds and activations are counted for.
        bytes_per_value: int. 4 for float32, 2 for half precision.
        **overrides: arguments of `VisionTransformer`, such as `input_shape` or `num_classes`.

    Returns:
        A `Cost` with ints `parameters`, `macs` and `activation_bytes`.

    Raises:
        ValueError: if the preset is unknown, or the input's size is open.

    Example:
    >>> keras_vit.cost("ViTB16").parameters
    86567656
    """
    parts = cost_by_part(model, bytes_per_value, **overrides).values()
    total = sum(parts, Cost(0, 0, 0))
    return Cost(total.parameters, batch_size * total.macs, batch_size * total.activation_bytes)


def cost_by_part(model, bytes_per_value=4, **overrides):
    """Returns `{part: Cost}` for one image: stem, patch_embedding, tokens, blocks, norm, pooling, head. Arguments as in `cost`."""
    a = arguments(model, **overrides)
    d, grid = a["hidden_dim"], grid_size(a)
    height, width, channels = _sides(a)
    patch = checks.positive_pair("patch_size", a["patch_size"])
    class_tokens = a["class_token"] + a["distillation_token"]
    prefix = class_tokens + a["num_register_tokens"]
    patches = math.prod(grid)
    n = patches + prefix
    parts = {}

    if a["stem"] is not None:
        parts["stem"], channels = _stem_cost(a["stem"], height, width, channels)
    weights = math.prod(patch) * channels * d
    parts["patch_embedding"] = Cost(weights + d * a["patch_bias"], weights * patches, math.prod(patch) * channels * patches)

    table = math.prod(a["position_grid"] or grid) * d if a["position_embedding"] == "learned" else 0
    positions = table + (class_tokens * d if table and a["prefix_positions"] else 0)
    parts["tokens"] = Cost(prefix * d + positions + 2 * d * a["norm_embeddings"], 0, n * d * a["norm_embeddings"])
    parts["blocks"] = Cost(*(a["num_layers"] * value for value in _block_cost(a, n)))
    parts["norm"] = Cost(2 * d, 0, n * d)
    feature = 2 * d if a["pooling"] == "token_gap" else d
    if a["pooling"] == "map":
        mlp = _dense(d, a["mlp_dim"], 1) + _dense(a["mlp_dim"], d, 1)
        attention = _dense(d, d, 1) + _dense(d, 2 * d, patches) + _dense(d, d, 1) + Cost(d, 2 * patches * d, a["num_heads"] * patches)
        parts["pooling"] = mlp + attention + Cost(2 * d, 0, d)
    if a["representation_size"]:
        parts["representation"] = _dense(d, a["representation_size"], 1)
        feature = a["representation_size"]
    if a["include_top"]:
        heads = 1 + a["distillation_token"]
        parts["head"] = Cost(*(heads * value for value in _dense(feature, a["num_classes"], 1)))
    return {part: Cost(c.parameters, c.macs, bytes_per_value * c.activation_bytes) for part, c in parts.items()}


def arguments(model, **overrides):
    """Returns all arguments of `VisionTransformer` for a model, a preset's name or a dict of arguments."""
    given = preset(model) if isinstance(model, str) else model._config if isinstance(model, VisionTransformer) else dict(model)
    signature = inspect.signature(VisionTransformer).parameters
    if unknown := (set(given) | set(overrides)) - set(signature):
        raise ValueError(f"These are no arguments of VisionTransformer. Received: {', '.join(sorted(unknown))}")
    return {**{name: parameter.default for name, parameter in signature.items()}, **given, **overrides}


def grid_size(arguments):
    """Returns (rows, columns) of patches for a full set of arguments."""
    sides = _sides(arguments)[:2]
    stem = arguments["stem"]
    stride = make_stem(stem).stride if stem is not None else 1
    patch = checks.positive_pair("patch_size", arguments["patch_size"])
    grid = tuple(math.ceil(side / stride) / p for side, p in zip(sides, patch))
    if any(size != int(size) or size < 1 for size in grid) and not arguments["dynamic_padding"]:
        raise ValueError(
            f"The patch must divide the image. Received: input_shape={arguments['input_shape']}, patch_size={arguments['patch_size']}"
            + (f" behind a stem of stride {stride}" if stem else "")
        )
    return tuple(math.ceil(size) for size in grid)


def _sides(a):
    shape = tuple(a["input_shape"])
    if len(shape) != 3 or None in shape:
        raise ValueError(f"The cost of a model is that of an image of known size: give `input_shape`. Received: input_shape={shape}")
    return (*shape[1:], shape[0]) if (a["data_format"] or keras.config.image_data_format()) == "channels_first" else shape


def _dense(inputs, outputs, rows, bias=True):
    """A dense layer: activations are its inputs, which the gradient of its kernel needs."""
    return Cost(inputs * outputs + outputs * bias, rows * inputs * outputs, rows * inputs)


def _block_cost(a, n):
    d, heads, mlp_dim = a["hidden_dim"], a["num_heads"], a["mlp_dim"]
    norms = Cost(2 * 2 * d, 0, 2 * n * d)
    # The scores after the softmax, and queries, keys and values, each in the layout that the product takes.
    attention = Cost(0, 2 * n * n * d, heads * n * n + 3 * n * d)
    products = _dense(d, 3 * d, n, a["qkv_bias"]) + _dense(d, d, n)
    gated = 2 if a["mlp"] == "swiglu" else 1
    mlp = _dense(d, gated * mlp_dim, n) + _dense(mlp_dim, d, n) + Cost(0, 0, gated * n * mlp_dim)
    extra = Cost(2 * d, 0, 2 * n * d) if a["layer_scale_init"] is not None else Cost(0, 0, 0)
    qk_norm = Cost(4 * (d // heads), 0, 2 * n * d) if a["qk_norm"] else Cost(0, 0, 0)
    block = norms + attention + products + mlp + extra + qk_norm
    # With remat only a block's input is kept.
    return Cost(block.parameters, block.macs, n * d) if a["remat"] else block


def _stem_cost(stem, height, width, channels):
    layer = make_stem(stem)
    total = Cost(0, 0, 0)

    def conv(kernel, inputs, outputs, height, width, norm_weights):
        weights = kernel * kernel * inputs * outputs
        return Cost(weights + norm_weights * outputs, weights * height * width, 2 * outputs * height * width)

    if stem["kind"] == "conv":
        for filters, stride in zip(layer.filters, layer.strides):
            height, width = math.ceil(height / stride), math.ceil(width / stride)
            # Batch normalization: gamma and beta; its moving statistics are no parameters.
            total += conv(3, channels, filters, height, width, 2)
            channels = filters
        return total, channels

    height, width = math.ceil(height / 2), math.ceil(width / 2)
    total += conv(7, channels, layer.width, height, width, 2)
    height, width, channels = math.ceil(height / 2), math.ceil(width / 2), layer.width
    for stage, count in enumerate(layer.block_counts):
        inner = layer.width * 2**stage
        for unit in range(count):
            stride = 2 if stage > 0 and unit == 0 else 1
            small = math.ceil(height / stride), math.ceil(width / stride)
            total += conv(1, channels, inner, height, width, 2)
            total += conv(3, inner, inner, *small, 2) + conv(1, inner, 4 * inner, *small, 2)
            if stride != 1 or channels != 4 * inner:
                total += conv(1, channels, 4 * inner, *small, 2)
            (height, width), channels = small, 4 * inner
    return total, channels
