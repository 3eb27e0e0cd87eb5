"""Attention weights, as matrices and as maps over the patches."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.visualize.inside import (
    block_numbers,
    block_weights,
    check_model,
    count_blocks,
    forward_pass,
    in_batches,
    query_tokens,
    read_by_head,
)


def attention_weights(model: keras.Model, images: Any, blocks: Any = None, batch_size: int = 8) -> np.ndarray:
    """Returns the attention weights between all tokens.

    They are recomputed from the queries and keys of each block, because the model does not keep them.

    Args:
        model: keras.Model. A `VisionTransformer`, or a model that contains one.
        images: array `(batch, rows, columns, channels)`. Input of the model.
        blocks: int or sequence of ints. Blocks, counted from 0, or from the end if negative. Defaults to None, all blocks.
        batch_size: int. Number of images of a forward pass. Defaults to 8.

    Returns:
        A float32 array `(batch, block, head, query, key)`. Each row sums to one. Tokens are in the model's order: class, distillation and
        register tokens, then the patches row by row.

    Raises:
        ValueError: if the model contains no `VisionTransformer`, `images` is not a batch, or a block does not exist.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 48, 3), 8, 64, 4, 2, 128)
    >>> keras_vit.visualize.attention_weights(model, keras.ops.ones((1, 32, 48, 3)), blocks=(0, -1)).shape
    (1, 2, 2, 25, 25)
    """
    check_model(model)
    chosen = block_numbers(blocks, count_blocks(model))

    def weights(images):
        seen = forward_pass(model, images)
        return ops.stack([block_weights(seen, i) for i in chosen], axis=1)

    return in_batches(weights, images, batch_size)


def attention_maps(model: keras.Model, images: Any, blocks: Any = None, query: Any = None, batch_size: int = 8) -> np.ndarray:
    """Returns the attention of a token to the patches, as a map for each block and head.

    Args:
        model: keras.Model. A `VisionTransformer`, or a model that contains one.
        images: array `(batch, rows, columns, channels)`. Input of the model.
        blocks: int or sequence of ints. Blocks, counted from 0, or from the end if negative. Defaults to None, all blocks.
        query: the token whose attention is returned: "class", "distillation", "register_0" and so on, or a patch `(row, column)`.
            "patches" is the mean over all patches, and "pooling" the probe of attention pooling. Defaults to None, the tokens that the
            model's head reads: the class token, or the mean of class and distillation token; the patches with `pooling="gap"`; and, with
            `pooling="map"` and without `blocks`, the probe, where attention pooling counts as a single block.
        batch_size: int. Number of images of a forward pass. Defaults to 8.

    Returns:
        A float32 array `(batch, block, head, rows, columns)` of shares of the attention. The rest, up to a sum of one, goes to the class,
        distillation and register tokens.

    Raises:
        ValueError: if the model contains no `VisionTransformer`, `images` is not a batch, or a block or the query does not exist.

    Reference:
        Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, section 4.5; Caron et al., "Emerging Properties in Self-Supervised
        Vision Transformers", 2021, figure 1.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 48, 3), 8, 64, 4, 2, 128)
    >>> keras_vit.visualize.attention_maps(model, keras.ops.ones((1, 32, 48, 3))).shape
    (1, 4, 2, 4, 6)
    """
    check_model(model)
    read = read_by_head(model)
    if query is None:
        query = read if read != "pooling" or blocks is None else "patches"
    if query == "pooling":
        return _pooling_maps(model, images, blocks, read, batch_size)
    chosen = block_numbers(blocks, count_blocks(model))

    def maps(images):
        seen = forward_pass(model, images)
        shares = query_tokens(model, query, seen.grid)
        queries = np.flatnonzero(shares)
        found = []
        for i in chosen:
            weights = block_weights(seen, i, queries)
            found.append(ops.tensordot(ops.cast(weights, "float32"), shares[queries], axes=[[2], [0]]))
        maps = ops.stack(found, axis=1)[..., -seen.grid[0] * seen.grid[1] :]
        return ops.reshape(maps, (*maps.shape[:3], *seen.grid))

    return in_batches(maps, images, batch_size)


def _pooling_maps(model, images, blocks, read, batch_size):
    if read != "pooling" or blocks is not None:
        raise ValueError(
            'The query "pooling" needs a model with `pooling="map"`, and no `blocks`. '
            f"Received: query='pooling', blocks={blocks}, on a model whose head reads {read!r}"
        )

    def maps(images):
        seen = forward_pass(model, images)
        weights = seen.weights[-1][..., -seen.grid[0] * seen.grid[1] :]
        return ops.reshape(weights, (weights.shape[0], 1, weights.shape[1], *seen.grid))

    return in_batches(maps, images, batch_size)
