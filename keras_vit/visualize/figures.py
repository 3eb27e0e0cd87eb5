"""Helpers of the drawing functions: axes, pixels to show, and mosaics."""

import math
from typing import Any

import keras
import numpy as np

from keras_vit.backbone import find_vision_transformer
from keras_vit.extras import install
from keras_vit.layers import checks

COLORS = "viridis"  # perceptually uniform: values can be told apart by lightness, in gray print and by the color-blind


def axes_of(ax: Any, width: float = 6.4, height: float = 4.8) -> Any:
    """Returns `ax`, or the axes of a new matplotlib figure that no window shows.

    Args:
        ax: matplotlib axes, or None.
        width, height: float. Size of a new figure in inches.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(f"Drawing needs matplotlib: {install('plot')}") from None
    if ax is not None:
        return ax
    return Figure(figsize=(width, height), dpi=110, layout="constrained").add_subplot()


def pixels_to_show(name: str, images: Any) -> np.ndarray:
    """Returns images as floats from 0 to 1, `(batch, rows, columns, 3)`.

    Raises:
        ValueError: if they are not a batch of images with values from 0 to 255.
    """
    images = np.asarray(images, "float32")
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"`{name}` must have 1 or 3 channels, the last axis. Received: {name} of shape {images.shape[1:]}"
            if images.ndim == 4
            else f"`{name}` must be an array of images. Received: shape {images.shape}"
        )
    if (odd := checks.odd_pixels(images)) is not None:
        raise ValueError(f"`{name}` must hold pixels from 0 to 255. Received: {odd}")
    return np.broadcast_to(images / 255.0, (*images.shape[:-1], 3))


def pixels_of(model: keras.Model, images: Any) -> np.ndarray:
    """Returns the input of a model as pixels from 0 to 255, channels last. Normalized images are denormalized."""
    images, vit = np.asarray(images, "float32"), find_vision_transformer(model, optional=True)
    if vit is None:
        return images
    config = vit.get_config()
    if config["data_format"] == "channels_first":
        images = np.transpose(images, (0, 2, 3, 1))
    if vit is model and not config["include_preprocessing"]:
        mean, std = (np.asarray(vit.preprocessing[key], "float32") for key in ("mean", "std"))
        images = 255.0 * (images * std + mean)
    return images.clip(0.0, 255.0)


def enlarge(map: Any, rows: int, columns: int) -> np.ndarray:
    """Enlarges a map `(grid rows, grid columns, ...)` to an image of `rows` x `columns` pixels, by repeating each cell."""
    down, across = (np.arange(size) * cells // size for size, cells in zip((rows, columns), map.shape))
    return map[down][:, across]


def mosaic(tiles: Any, across: int | None = None, gap: int = 1, fill: float = 1.0) -> np.ndarray:
    """Returns a mosaic: tiles `(count, rows, columns, ...)` row by row, with gaps between them.

    Args:
        tiles: float array `(count, rows, columns, ...)`.
        across: int or None. Number of tiles in a row. Defaults to None: as many as in a column.
        gap: int. Pixels between tiles. Defaults to 1.
        fill: float. Value of gaps and missing tiles. Defaults to 1.0.
    """
    count, rows, columns = tiles.shape[:3]
    across = across or math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    sheet = np.full((down * (rows + gap) - gap, across * (columns + gap) - gap, *tiles.shape[3:]), fill, tiles.dtype)
    for i, tile in enumerate(tiles):
        top, left = i // across * (rows + gap), i % across * (columns + gap)
        sheet[top : top + rows, left : left + columns] = tile
    return sheet


def show(ax: Any, picture: Any, **more: Any):
    """Draws a picture without axes lines or interpolation."""
    ax.axis("off")
    return ax.imshow(picture, **{"interpolation": "nearest", "aspect": "equal", **more})
