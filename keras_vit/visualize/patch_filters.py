"""The filters of the patch embedding."""

from typing import Any

import keras
import numpy as np

from keras_vit.backbone import find_vision_transformer
from keras_vit.layers import PatchEmbedding, checks
from keras_vit.visualize.figures import axes_of, mosaic, show
from keras_vit.visualize.inside import check_model, layers_of, to_array


def patch_filters(model: keras.Model, count: int = 28, ax: Any = None) -> Any:
    """Draws the first principal components of the patch embedding's filters, as RGB images of a patch.

    They show which patterns of pixels a token can represent. In a well-trained model the first ones are smooth: flat colors, then edges
    and waves of growing frequency. Noise in all of them means too little training, or too high a learning rate at the start.

    Args:
        model: keras.Model. A `VisionTransformer`, or a model that contains one. With a stem, the filters of its first convolution are
            drawn.
        count: int. Number of components, in the order of the variance that they explain. Defaults to 28.
        ax: matplotlib axes or None. Axes to draw into; None creates a figure. Defaults to None.

    Returns:
        The matplotlib axes.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the model contains no `VisionTransformer`, or its images do not have 1 or 3 channels.

    Reference:
        Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, figure 7, left.

    Example:
    >>> ax = keras_vit.visualize.patch_filters(keras_vit.VisionTransformer((32, 48, 3), 8, 64, 4, 2, 128))
    """
    check_model(model)
    checks.integer("count", count)
    ax = axes_of(ax, 5.6, 3.6)
    tiles = components(kernel_on_pixels(model))[:count]
    tiles = 0.5 + 0.5 * tiles / np.abs(tiles).max(axis=(1, 2, 3), keepdims=True)
    show(ax, np.broadcast_to(sheet := mosaic(tiles, across=min(7, len(tiles))), (*sheet.shape[:2], 3)))
    ax.set_title(f"First {len(tiles)} components of the patch embedding")
    return ax


def kernel_on_pixels(model: keras.Model) -> np.ndarray:
    """Returns the kernel `(rows, columns, channels, filters)` of the first convolution, that of the stem or the patch embedding."""
    vit = find_vision_transformer(model, optional=True)
    stem = vit is not None and vit.config.stem and vit.get_layer("stem")
    if stem:
        kernel = next(weight for weight in stem.weights if len(weight.shape) == 4)
    else:
        kernel = next(layer for layer in layers_of(model) if isinstance(layer, PatchEmbedding)).kernel
    if kernel.shape[2] not in (1, 3):
        raise ValueError(f"Filters can be drawn for images with 1 or 3 channels. Received: a model of {kernel.shape[2]}")
    return to_array(kernel)


def components(kernel: Any) -> np.ndarray:
    """Returns the principal components of filters, `(count, rows, columns, channels)`."""
    flat = kernel.reshape(-1, kernel.shape[-1])
    axes, _, _ = np.linalg.svd(flat - flat.mean(axis=1, keepdims=True), full_matrices=False)
    axes = axes * np.sign(axes.sum(axis=0) + 1e-12)  # the sign is arbitrary: prefer bright components
    return axes.T.reshape(-1, *kernel.shape[:3])
