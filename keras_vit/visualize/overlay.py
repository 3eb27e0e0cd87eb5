"""Draws a map of patch values over its image."""

from typing import Any

import numpy as np

from keras_vit.layers import checks
from keras_vit.layers.resampling import resample_grid
from keras_vit.visualize.figures import COLORS, axes_of, enlarge, pixels_to_show

GRAY = 0.2  # share of the gray image; the rest is the map's color, whose lightness shows the value in gray print, too
DARKEST = 0.5  # brightness of the map's color on a black pixel: enough to recognize the color


def overlay(
    image: Any,
    map: Any,
    ax: Any = None,
    label: str = "value",
    limits: tuple[float, float] | None = None,
    smooth: bool = False,
    cell: tuple[int, int] | None = None,
    colorbar: bool = True,
) -> Any:
    """Draws a map of patches over its image: the color shows the map's value, and the shading the image in gray.

    Args:
        image: array `(rows, columns, 3)`, `(rows, columns, 1)` or `(rows, columns)`, pixels from 0 to 255.
        map: array `(grid rows, grid columns)`, such as a map of `attention_rollout`.
        ax: matplotlib axes or None. Axes to draw into; None creates a figure. Defaults to None.
        label: str. Label of the color bar: the quantity of the map and its unit. Defaults to "value".
        limits: pair of floats or None. Values of the darkest and the brightest color, to compare maps. None means 0 and the map's 99th
            percentile, because single patches are often outliers. An arrow at the color bar marks larger values. Defaults to None.
        smooth: bool. If False, patches are drawn as squares. If True, values are interpolated between their centers, which is easier to
            read but suggests more detail than there is. Defaults to False.
        cell: pair of ints or None. Rows and columns of pixels that an entry of the map covers, such as the model's patch size. It is
            needed only for a model that pads its images (`dynamic_padding`). None means that the map covers the image. Defaults to None.
        colorbar: bool. Whether to draw a color bar. Several maps with the same `limits` need only one. Defaults to True.

    Returns:
        The matplotlib axes; `.figure` is their figure.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if `image` is not an image, `map` is not a map, or `limits` are not in ascending order.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 48, 3), 8, 64, 4, 2, 128)
    >>> images = 127 * keras.ops.ones((1, 32, 48, 3))
    >>> ax = keras_vit.visualize.overlay(images[0], keras_vit.visualize.attention_rollout(model, images)[0], label="Share of attention")
    """
    ax = axes_of(ax)
    drawn, scale = blend(image, map, limits, smooth, cell)
    ax.imshow(drawn, interpolation="nearest" if min(drawn.shape[:2]) < 100 else "antialiased")
    ax.axis("off")
    if colorbar:
        ax.figure.colorbar(scale, ax=ax, label=label, shrink=0.85, extend="max" if np.max(map) > scale.norm.vmax else "neither")
    return ax


def blend(image: Any, map: Any, limits: Any = None, smooth: bool = False, cell: Any = None) -> tuple[np.ndarray, Any]:
    """Returns the picture that `overlay` draws, `(rows, columns, 3)` from 0 to 1, and the matplotlib `ScalarMappable` of its colors."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    image = np.asarray(image)
    pixels = pixels_to_show("image", (image[..., None] if image.ndim == 2 else image)[None])[0]
    map = np.asarray(map, "float32")
    if map.ndim != 2 or not map.size or not np.isfinite(map).all():
        raise ValueError(f"`map` must be an array (grid rows, grid columns) of finite numbers. Received: shape {map.shape}")
    low, high = (0.0, float(np.percentile(map, 99)) or float(map.max()) or 1.0) if limits is None else limits
    if not low < high:
        raise ValueError(f"`limits` must be a smaller and a larger number. Received: limits=({low}, {high})")
    rows, columns = pixels.shape[:2]
    whole = (rows, columns) if cell is None else tuple(n * side for n, side in zip(map.shape, checks.positive_pair("cell", cell)))
    if whole[0] < rows or whole[1] < columns:
        raise ValueError(
            f"A map of {map.shape[0]} x {map.shape[1]} such cells must cover the image, {rows} x {columns}. Received: cell={cell}"
        )
    values = resample_grid(map[..., None], whole, "bilinear")[..., 0] if smooth else enlarge(map, *whole)
    scale = ScalarMappable(Normalize(low, high), colormaps[COLORS])
    gray = pixels @ np.array([0.299, 0.587, 0.114], "float32")
    shading = (DARKEST + (1.0 - DARKEST) * gray)[..., None]
    return GRAY * gray[..., None] + (1.0 - GRAY) * shading * scale.to_rgba(values[:rows, :columns])[..., :3], scale
