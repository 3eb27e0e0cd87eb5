"""Resampling of learned positions and patch kernels to another grid, by the methods of published code.

Each method is a small (new, old) matrix for rows and another for columns, applied by an einsum. Unlike `ops.image.resize`, it gives the
same numbers on every backend, and takes sizes that are known only at run time (graph mode, `fit`, `predict`, export).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_vit.layers import checks


def _linear(xp, distance):
    return xp.maximum(0.0, 1.0 - distance)


def _cubic(a):
    def kernel(xp, distance):
        inner = ((a + 2.0) * distance - (a + 3.0)) * distance * distance + 1.0
        outer = a * (((distance - 5.0) * distance + 8.0) * distance - 4.0)
        return xp.where(distance <= 1.0, inner, xp.where(distance < 2.0, outer, xp.zeros_like(distance)))

    return kernel


class Method(NamedTuple):
    kernel: Callable
    antialias: bool = False
    align_corners: bool = False
    size_offset: float = 0.0


METHODS = {
    # scipy.ndimage.zoom(order=1), as in vit_jax and big_vision: corner pixels keep their positions.
    "bilinear_align_corners": Method(_linear, align_corners=True),
    "bilinear": Method(_linear),
    # jax.image.resize(method="linear"), as in FlexiViT.
    "bilinear_antialias": Method(_linear, antialias=True),
    # torch's interpolate(mode="bicubic"): DeiT, MAE, Hugging Face.
    "bicubic": Method(_cubic(-0.75)),
    # torch's bicubic with antialias=True uses Pillow's a = -0.5, not -0.75: timm, DINOv2 with registers.
    "bicubic_antialias": Method(_cubic(-0.5), antialias=True),
    # DINOv2 passes torch the scale (size + 0.1) / grid, which shifts the sampling points a little.
    "bicubic_dinov2": Method(_cubic(-0.75), size_offset=0.1),
}


def check_method(method: str) -> str:
    """Returns a resampling method, or raises ValueError if it is unknown."""
    return checks.one_of("resample", method, METHODS)


def interpolation_matrix(old_size: int, new_size: Any, method: str, new_grid: Any = True) -> Any:
    """Returns the matrix that resamples a line of `old_size` values to `new_size`.

    Args:
        old_size: int. Number of values before.
        new_size: int or integer scalar tensor. Number of values after; a tensor if it is known only at run time.
        method: str. A key of `METHODS`.
        new_grid: bool or scalar tensor of 0 or 1. Whether any side of the grid changes; if not, `size_offset` is not applied. Defaults to
            True.

    Returns:
        float32 array (for an int) or tensor of shape `(new_size, old_size)`; each row sums to 1.

    Raises:
        ValueError: if `method` is unknown.
    """
    static = isinstance(new_size, (int, np.integer)) and isinstance(new_grid, bool)
    index = np.arange(new_size) if static else ops.arange(new_size)
    return interpolation_weights(old_size, index, new_size, method, new_grid)


def interpolation_weights(old_size: int, index: Any, new_size: Any, method: str, new_grid: Any = True) -> Any:
    """Returns rows of the `interpolation_matrix`, which may be of different matrices.

    Args:
        old_size: int. Number of values before.
        index: array (for an int `new_size`) or integer tensor of any shape. Indices of rows.
        new_size: int or integer tensor that broadcasts to the shape of `index`. Number of values after.
        method: str. A key of `METHODS`.
        new_grid: bool or tensor of 0 or 1, as in `interpolation_matrix`. Defaults to True.

    Returns:
        float32 array or tensor of shape `(*index.shape, old_size)`.
    """
    check_method(method)
    kernel, antialias, align_corners, size_offset = METHODS[method]
    # One side of a grid may be known and the other not: a traced function whose images had two widths.
    static = isinstance(new_size, (int, np.integer)) and isinstance(new_grid, bool)
    xp = np if static else ops
    real = np.float64 if static else "float32"
    new_length = np.float64(new_size) if static else ops.cast(ops.convert_to_tensor(new_size), real)
    index = index.astype(real) if static else ops.cast(index, real)
    if align_corners:
        scale = 1.0
        centers = index * ((old_size - 1.0) / xp.maximum(new_length - 1.0, 1.0))
    else:
        scale = old_size / (new_length + size_offset * new_grid)
        centers = (index + 0.5) * scale - 0.5
    stretch = xp.maximum(scale, 1.0) if antialias else 1.0
    sources = np.arange(-2, old_size + 2)  # two more on each side, because taps of a kernel may fall there
    stretch = xp.expand_dims(stretch, -1) if len(np.shape(stretch)) else stretch  # one for each index
    weights = kernel(xp, xp.abs(xp.expand_dims(centers, -1) - sources.astype(real)) / stretch)
    if antialias:
        weights = weights[..., 2:-2]  # taps outside do not count
        weights = weights / xp.sum(weights, axis=-1, keepdims=True)
    else:
        edge = np.eye(old_size, dtype=real)[np.clip(sources, 0, old_size - 1)]  # taps outside read the edge
        weights = xp.matmul(weights, edge)
    return weights.astype("float32") if static else weights


def resample_grid(grid: Any, new_size: tuple, method: str) -> Any:
    """Resamples a grid of vectors, such as learned positions.

    Args:
        grid: array or tensor of shape `(rows, columns, D)`.
        new_size: pair of ints or of integer scalar tensors, `(new_rows, new_columns)`.
        method: str. A key of `METHODS`.

    Returns:
        Array (for an array and ints) or tensor of shape `(new_rows, new_columns, D)`, float32.
    """
    old_size = tuple(grid.shape[:2])
    if all(isinstance(side, (int, np.integer)) for side in new_size):
        new_grid = tuple(new_size) != old_size
    else:
        new_grid = ops.cast(ops.any(ops.not_equal(ops.stack(new_size), ops.stack(old_size))), "float32")
    rows, columns = (interpolation_matrix(old, new, method, new_grid) for old, new in zip(old_size, new_size))
    if all(isinstance(x, np.ndarray) for x in (grid, rows, columns)):
        return np.einsum("ri,cj,ijd->rcd", rows, columns, grid, optimize=True).astype("float32")
    return ops.einsum("cj,rjd->rcd", columns, ops.einsum("ri,ijd->rjd", rows, grid))


def resample_patch_kernel(kernel: np.ndarray, new_size: tuple[int, int], method: str = "bilinear") -> np.ndarray:
    """Resamples a patch kernel to another patch size by FlexiViT's pseudo-inverse.

    The new kernel gives a resampled patch the embedding that the old kernel gives the original patch. If B resamples a patch from the
    old to the new size, the new kernel is `pinv(B^T) w`. It is exact when the patch grows, and least squares when it shrinks.

    Args:
        kernel: array of shape `(rows, columns, channels, D)`.
        new_size: pair of ints, `(new_rows, new_columns)`.
        method: str. A key of `METHODS`. FlexiViT uses "bilinear", timm "bicubic_antialias". Defaults to "bilinear".

    Returns:
        float32 array of shape `(new_rows, new_columns, channels, D)`.

    Reference:
        Beyer et al., "FlexiViT: One Model for All Patch Sizes", 2023, section 3.4.
    """
    # B is the Kronecker product of the matrices of rows and columns, and its pseudo-inverse that of theirs.
    rows, columns = (
        np.linalg.pinv(interpolation_matrix(old, new, method).astype("float64").T) for old, new in zip(kernel.shape[:2], new_size)
    )
    return np.einsum("ri,cj,ijkd->rckd", rows, columns, kernel, optimize=True).astype("float32")
