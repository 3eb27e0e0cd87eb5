"""The first principal components of patch features."""

from typing import Any

import keras
import numpy as np

from keras_vit.backbone import find_vision_transformer
from keras_vit.layers import checks
from keras_vit.visualize.figures import axes_of, enlarge, mosaic, pixels_of, pixels_to_show, show
from keras_vit.visualize.inside import block_numbers, check_images, check_model, count_blocks, forward_pass, in_batches


def patch_components(model: keras.Model, images: Any, block: int | None = None, components: int = 3, batch_size: int = 8) -> np.ndarray:
    """Projects the patch features onto their first principal components, which are computed over all images.

    Args:
        model: keras.Model. A `VisionTransformer`, or a model that contains one.
        images: array `(batch, rows, columns, channels)`. Input of the model.
        block: int or None. The block whose output is used as features, after the model's last normalization, counted from 0, or from the
            end if negative. Defaults to None, the last block.
        components: int. Number of components. Defaults to 3.
        batch_size: int. Number of images of a forward pass. Defaults to 8.

    Returns:
        A float32 array `(batch, rows, columns, components)`, centered. The signs make the largest absolute value of a component positive.

    Raises:
        ValueError: if the model contains no `VisionTransformer`, `images` is not a batch, the block does not exist, or there are fewer
            components.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 48, 3), 8, 64, 4, 2, 128)
    >>> keras_vit.visualize.patch_components(model, 9.0 * np.random.rand(2, 32, 48, 3)).shape
    (2, 4, 6, 3)
    """
    check_model(model)
    (number,) = block_numbers(-1 if block is None else block, count_blocks(model))
    vit, grids = find_vision_transformer(model, optional=True), []

    def features(images):
        seen = forward_pass(model, images)
        grids.append(seen.grid)
        tokens = seen.blocks[number](seen.tokens[number])
        return (tokens if vit is None else vit.get_layer("norm")(tokens))[:, -seen.grid[0] * seen.grid[1] :]

    found = in_batches(features, images, batch_size)
    flat = found.reshape(-1, found.shape[-1])
    flat = flat - flat.mean(axis=0)
    if checks.integer("components", components) > min(flat.shape):
        raise ValueError(f"{flat.shape[0]} patches of {flat.shape[1]} features have no more components. Received: components={components}")
    _, axes = np.linalg.eigh(flat.T.astype("float64") @ flat)
    projected = flat @ axes[:, : -components - 1 : -1].astype("float32")
    signs = np.sign(projected[np.argmax(np.abs(projected), axis=0), np.arange(components)])
    return (projected * signs).reshape(len(found), *grids[0], components)


def component_colors(model: keras.Model, images: Any, block: int | None = None, batch_size: int = 8) -> np.ndarray:
    """Returns the first three components as colors from 0 to 1, `(batch, rows, columns, 3)`. The extreme 1 % at both ends is clipped."""
    found = patch_components(model, images, block, 3, batch_size)
    low, high = np.percentile(found, (1, 99), axis=(0, 1, 2))
    return ((found - low) / np.maximum(high - low, 1e-12)).clip(0.0, 1.0)


def patch_pca(model: keras.Model, images: Any, block: int | None = None, ax: Any = None, batch_size: int = 8) -> Any:
    """Draws images, and below them the first three principal components of their patch features as red, green and blue.

    Patches of the same color have similar features, also across images. With models such as DINOv2, parts of objects have their own
    colors, wherever they are. Colors that are not related to the image mean that the features depend on the position, or on nothing.

    Args:
        model: keras.Model. A `VisionTransformer`, or a model that contains one.
        images: array `(batch, rows, columns, channels)`. Input of the model.
        block: int or None. The block whose output is used, as in `patch_components`. Defaults to None, the last one.
        ax: matplotlib axes or None. Axes to draw into; None creates a figure. Defaults to None.
        batch_size: int. Number of images of a forward pass. Defaults to 8.

    Returns:
        The matplotlib axes.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: as in `patch_components`.

    Reference:
        Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", 2023, figure 1.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 48, 3), 8, 64, 4, 2, 128)
    >>> ax = keras_vit.visualize.patch_pca(model, 9.0 * np.random.rand(2, 32, 48, 3))
    """
    colors = component_colors(model, images, block, batch_size)
    pixels = pixels_to_show("images", pixels_of(model, check_images(images)))
    rows, columns = pixels.shape[1:3]
    ax = axes_of(ax, 2.4 * len(pixels), 4.8 * rows / columns)
    below = np.stack([enlarge(each, rows, columns) for each in colors])
    show(ax, mosaic(np.concatenate([pixels, below]), across=len(pixels), gap=max(2, columns // 50)))
    return ax
