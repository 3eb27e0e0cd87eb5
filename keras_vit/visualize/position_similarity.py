"""The similarity of position embeddings: what they have learned about the grid."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.backbone import find_vision_transformer
from keras_vit.layers import PositionEmbedding
from keras_vit.visualize.figures import COLORS, axes_of, mosaic, show
from keras_vit.visualize.inside import check_model, layers_of, to_array

MOST = 8  # tiles per row and column: more would be too small


def position_similarity(model: keras.Model, ax: Any = None) -> Any:
    """Draws the similarity of each position's embedding to all others. There is a tile for each position, at its place in the grid.

    In a well-trained model each tile is brightest at its own position, and bright along its row and column: the embedding has learned that
    the image has two dimensions. Tiles without such a pattern mean that the model has not learned to use positions.

    Args:
        model: keras.Model. A `VisionTransformer`, or a model that contains one. On a fine grid, only every second or third position has a
            tile.
        ax: matplotlib axes or None. Axes to draw into; None creates a figure. Defaults to None.

    Returns:
        The matplotlib axes.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the model contains no `VisionTransformer`, or has no position embedding.

    Reference:
        Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, figure 7, center.

    Example:
    >>> ax = keras_vit.visualize.position_similarity(keras_vit.VisionTransformer((32, 48, 3), 8, 64, 4, 2, 128))
    """
    check_model(model)
    ax = axes_of(ax, 6.0, 5.2)
    found = similarities(positions_of(model))
    rows, columns = found.shape[:2]
    step = math.ceil(max(rows, columns) / MOST)
    chosen = found[step // 2 :: step, step // 2 :: step]
    tiles = chosen.reshape(-1, rows, columns)
    shown = show(ax, mosaic(tiles, across=chosen.shape[1], gap=max(1, rows // 14), fill=np.nan), cmap=COLORS, vmin=-1.0, vmax=1.0)
    ax.figure.colorbar(shown, ax=ax, label="Cosine similarity", shrink=0.8)
    ax.set_title(f"Similarity of positions, grid of {rows} x {columns}")
    return ax


def positions_of(model: keras.Model) -> np.ndarray:
    """Returns a model's position embeddings of the patches, `(rows, columns, D)`."""
    layers = [layer for layer in layers_of(model) if isinstance(layer, PositionEmbedding)]
    if not layers:
        raise ValueError("The model must have a position embedding. Received: position_embedding='none'")
    (layer,) = layers
    if layer.kind == "learned":
        return to_array(layer.table)
    vit = find_vision_transformer(model)
    width, (rows, columns) = vit.config.hidden_dim, vit.grid_size
    grid = rows or 14, columns or 14
    tokens = ops.zeros((1, layer.num_prefix_tokens + grid[0] * grid[1], width))
    return to_array(layer(tokens, ops.zeros((1, *grid, 1))))[0, layer.num_prefix_tokens :].reshape(*grid, width)


def similarities(positions: Any) -> np.ndarray:
    """Returns the cosine similarity between all positions, `(rows, columns, rows, columns)`."""
    unit = positions / np.maximum(np.linalg.norm(positions, axis=-1, keepdims=True), 1e-12)
    return np.einsum("ijd,kld->ijkl", unit, unit)
