"""Records the intermediate values of a forward pass, for the functions that draw them."""

import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_vit.backbone import find_vision_transformer, of_images
from keras_vit.layers import AttentionPooling, ClassToken, PatchEmbedding, RegisterTokens, TokenMergingBlock, TransformerEncoderBlock
from keras_vit.runtime.attention import attention_weights
from keras_vit.runtime.gradients import no_gradients
from keras_vit.runtime.intermediates import observing


class ForwardPass(NamedTuple):
    """The intermediate values of a forward pass."""

    grid: tuple  # (rows, columns) of patches
    blocks: list  # the encoder blocks
    tokens: list  # the input tokens of each block
    rotations: list  # the rotations of queries and keys of each block, or None
    pooling: tuple | None  # (layer, input tokens) of attention pooling
    weights: list  # the attention weights that the pass used, in order, those of the pooling last
    output: object


def forward_pass(function: Callable, images: Any, replace: Callable = lambda name, number, value: value):
    """Runs a model, or a function that calls one, in inference mode, and returns a `ForwardPass`.

    Args:
        function: function of a batch of images and `training`.
        images: tensor. The batch.
        replace: function that may replace intermediate values. It takes a name as in `observing`, the number of the block (attention
            pooling comes after the last block) and the value. Defaults to one that replaces nothing.
    """
    layers, tokens, weights, grids, rotations = [], [], [], [], {}

    def observer(name, value, layer):
        if name == "patches":
            grids.append(tuple(value.shape[1:3]))
            return value
        if name == "rotation":
            rotations[len(layers) - 1] = value
            return value
        if name == "tokens":
            layers.append(layer)
        value = replace(name, len(layers) - 1, value)
        (tokens if name == "tokens" else weights).append(value)
        return value

    with observing(observer):
        output = function(images, training=False)
    if len(grids) != 1:
        raise ValueError(f"The model must call exactly one VisionTransformer, once. Received: a model with {len(grids)} such calls")
    if any(isinstance(layer, TokenMergingBlock) for layer in layers):
        raise ValueError(
            "Maps need a token for each patch, but this model merges tokens: use the model before `merge_tokens`, or "
            "`model.adapt(token_merging=None)`. Received: a model with token merging"
        )
    pooling = (layers.pop(), tokens.pop()) if isinstance(layers[-1], AttentionPooling) else None
    return ForwardPass(grids[0], layers, tokens, [rotations.get(i) for i in range(len(layers))], pooling, weights, output)


def block_weights(seen: ForwardPass, i: int, queries: Any = None) -> Any:
    """Returns a block's attention weights, `(batch, heads, queries, tokens)`, recomputed from its input tokens.

    Args:
        seen: the forward pass.
        i: int. Number of the block.
        queries: int array. The tokens to use as queries. Defaults to None, all tokens.
    """
    block, tokens = seen.blocks[i], seen.tokens[i]
    flat = ops.reshape(tokens, (-1, tokens.shape[-1]))
    flat = block.norm1(flat) if block.norm_first else flat
    query, key, _ = block.attention.query_key_value(flat, tokens.shape[0], rotation=seen.rotations[i])
    return attention_weights(query if queries is None else ops.take(query, queries, axis=2), key)


def check_model(model: keras.Model) -> None:
    """Raises ValueError for a model without a VisionTransformer."""
    if not any(isinstance(layer, PatchEmbedding) for layer in layers_of(model)):
        what = f"{type(model).__name__} {getattr(model, 'name', '')!r}" if isinstance(model, keras.Model) else f"{type(model).__name__}"
        raise ValueError(f"`model` must be a keras_vit.VisionTransformer, or a model that contains one. Received: a {what}")
    if vit := find_vision_transformer(model, optional=True):
        of_images(vit)


def check_images(images: Any) -> np.ndarray:
    """Returns images as an array with a batch axis."""
    images = np.asarray(images)
    if images.ndim != 4 or not len(images):
        raise ValueError(
            f"`images` must be a batch, such as (batch, rows, columns, 3). Received: shape {images.shape}"
            + (". Use `images[None]` for one image" if images.ndim == 3 else "")
        )
    return images


def in_batches(function: Callable, images: Any, batch_size: int) -> np.ndarray:
    """Applies `function` to all images, batch by batch, and returns a float32 array."""
    images, results = check_images(images), []
    with no_gradients():
        for start in range(0, len(images), batch_size):
            results.append(to_array(function(ops.convert_to_tensor(images[start : start + batch_size]))))
    return np.concatenate(results)


def to_array(tensor: Any) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def count_blocks(model: keras.Model) -> int:
    """Returns the number of a model's encoder blocks."""
    return sum(isinstance(layer, TransformerEncoderBlock) for layer in layers_of(model))


def block_numbers(blocks: Any, count: int) -> list[int]:
    """Returns `blocks` (an int, a sequence of ints, or None for all) as a list of numbers, counted from 0."""
    chosen = range(count) if blocks is None else [blocks] if isinstance(blocks, numbers.Integral) else blocks
    right = isinstance(chosen, (list, tuple, range)) and len(chosen) > 0
    if not right or not all(isinstance(i, numbers.Integral) and -count <= i < count for i in chosen):
        raise ValueError(f"A block must be an int between {-count} and {count - 1}. Received: {blocks!r}")
    return [int(i) % count for i in chosen]


def read_by_head(model: keras.Model) -> str:
    """Returns the name of the tokens that a model's head reads.

    It is "class", "classes" (class and distillation token), "class_patches" (class token and patches), "patches" or "pooling".
    """
    kinds = {type(layer) for layer in layers_of(model)}
    vit = find_vision_transformer(model, optional=True)
    pooling = vit.config.pooling if vit else None
    if AttentionPooling in kinds:
        return "pooling"
    if pooling == "gap" or ClassToken not in kinds:
        return "patches"
    if pooling == "token_gap":
        return "class_patches"
    return "classes" if pooling == "token" and _count(model, ClassToken) == 2 else "class"


def query_tokens(model: keras.Model, query: Any, grid: tuple[int, int]) -> np.ndarray:
    """Returns the weight of each token in a query, `(tokens,)`. Attention is averaged with these weights, which sum to one.

    Args:
        model: a model that contains a VisionTransformer.
        query: "class", "distillation", "register_0" and so on, "patches", a pair (row, column) of ints, or a name of `read_by_head`.
        grid: (rows, columns) of patches.
    """
    classes, registers, (rows, columns) = _count(model, ClassToken), _count(model, RegisterTokens), grid
    prefix, patches = classes + registers, rows * columns
    named = {"class": [0], "distillation": [1], "patches": range(prefix, prefix + patches), "classes": range(classes)}
    named |= {f"register_{i}": [classes + i] for i in range(registers)}
    for name, needed in (("class", 1), ("classes", 1), ("distillation", 2)):
        if classes < needed:
            del named[name]
    weights = np.zeros(prefix + patches, "float32")
    if query == "class_patches":
        weights[0] = 0.5
        weights[prefix:] = 0.5 / patches
    elif isinstance(query, (tuple, list)):
        if len(query) != 2 or not all(isinstance(i, numbers.Integral) and 0 <= i < n for i, n in zip(query, grid)):
            raise ValueError(f"A patch must be a pair of ints, (row, column), in the grid of {rows} x {columns}. Received: query={query!r}")
        weights[prefix + query[0] * columns + query[1]] = 1.0
    elif query in named:
        weights[list(named[query])] = 1.0 / len(named[query])
    else:
        names = ", ".join(repr(name) for name in named if name != "classes")
        raise ValueError(f"`query` must be one of {names}, or a patch (row, column), for this model. Received: query={query!r}")
    return weights


def layers_of(model: keras.Model) -> list:
    """Returns all layers of a model, nested ones included; an empty list for an object that is not a model."""
    return list(model._flatten_layers()) if isinstance(model, keras.Model) else []


def _count(model, kind):
    return sum(layer.num_tokens for layer in layers_of(model) if isinstance(layer, kind))
