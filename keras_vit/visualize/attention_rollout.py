"""Attention rollout: attention followed through all blocks."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.visualize.inside import block_weights, check_model, forward_pass, in_batches, query_tokens, read_by_head


def attention_rollout(model: keras.Model, images: Any, query: Any = None, batch_size: int = 8) -> np.ndarray:
    """Computes attention rollout: how much each patch contributes to a token, with attention followed through all blocks.

    In each block, the attention is averaged over the heads, and then with the identity, which stands for the residual connection. The
    product over the blocks shows what a token of the last block is made of. It does not depend on a class: see `relevance` for that.

    Args:
        model: keras.Model. A `VisionTransformer`, or a model that contains one.
        images: array `(batch, rows, columns, channels)`. Input of the model.
        query: the token to explain, as in `attention_maps`. Defaults to None, the tokens that the model's head reads.
        batch_size: int. Number of images of a forward pass. Defaults to 8.

    Returns:
        A float32 array `(batch, rows, columns)` of shares. The rest, up to a sum of one, goes to the class, distillation and register
        tokens.

    Raises:
        ValueError: if the model contains no `VisionTransformer`, `images` is not a batch, or the query does not exist.

    Reference:
        Abnar and Zuidema, "Quantifying Attention Flow in Transformers", 2020, section 3.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 48, 3), 8, 64, 4, 2, 128)
    >>> keras_vit.visualize.attention_rollout(model, keras.ops.ones((1, 32, 48, 3))).shape
    (1, 4, 6)
    """
    check_model(model)
    query = read_by_head(model) if query is None else query

    def rollout(images):
        seen = forward_pass(model, images)
        matrices = [0.5 * (_mean_of_heads(block_weights(seen, i)) + _identity(tokens)) for i, tokens in enumerate(seen.tokens)]
        pooling = _mean_of_heads(seen.weights[-1]) if seen.pooling else None
        return map_of_query(model, query, seen.grid, matrices, pooling)

    return in_batches(rollout, images, batch_size)


def map_of_query(model: keras.Model, query: Any, grid: tuple[int, int], matrices: list, pooling: Any = None) -> Any:
    """Multiplies the row of a query by the matrices of all blocks, from the last to the first, and returns the map of the patches.

    Args:
        model: the model.
        query: as in `query_tokens`, or "pooling".
        grid: (rows, columns) of patches.
        matrices: list of tensors `(batch, tokens, tokens)`, one per block. The last may hold only the first rows, if the query is among
            them.
        pooling: tensor or None. For the query "pooling", the weights of attention pooling: `(batch, 1, patches)`, or
            `(batch, 1, tokens)` if it pools all tokens. Defaults to None.

    Returns:
        A tensor `(batch, rows, columns)`.
    """
    patches = grid[0] * grid[1]
    if query == "pooling" and pooling is not None:
        prefix = matrices[-1].shape[1] - pooling.shape[-1]
        row = ops.pad(pooling, ((0, 0), (0, 0), (prefix, 0)))
    else:
        shares = query_tokens(model, query, grid)[: matrices[-1].shape[1]]
        row = np.broadcast_to(shares, (matrices[0].shape[0], 1, len(shares)))
    for matrix in reversed(matrices):
        row = ops.matmul(row, matrix)
    return ops.reshape(row[:, 0, -patches:], (-1, *grid))


def _mean_of_heads(weights):
    return ops.mean(ops.cast(weights, "float32"), axis=1)


def _identity(tokens):
    return ops.eye(tokens.shape[1], dtype="float32")
