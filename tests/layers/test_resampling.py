"""Against what the published implementations compute themselves (tests/golden)."""

from pathlib import Path

import numpy as np
import pytest
from helpers import assert_close, requires_tensorflow

from keras_vit.layers.resampling import METHODS, interpolation_matrix, resample_grid, resample_patch_kernel

GOLDEN = Path(__file__).parents[1] / "golden"
GRIDS = ((7, 7), (2, 2), (5, 3), (6, 9))
SQUARES = ((7, 7), (2, 2))

# file, key of the source, its grid, key of a result, grids, our name
POSITIONS = [
    ("google/resample_positions", "positions", (4, 4), "vit_jax_{0}x{1}", (*SQUARES, (6, 6)), "bilinear_align_corners"),
    ("google/resample_positions", "positions", (4, 4), "big_vision_{0}x{1}", (*SQUARES, (6, 6)), "bilinear_align_corners"),
    ("google/resample_positions", "positions", (4, 4), "flexivit_{0}x{1}", (*SQUARES, (5, 5)), "bilinear_antialias"),
    *(
        ("timm/resample_positions", source, grid, source + "_{0}x{1}_" + theirs, GRIDS, ours)
        for source, grid in (("class", (4, 4)), ("plain", (4, 4)), ("wide", (3, 5)))
        for theirs, ours in (("bicubic", "bicubic_antialias"), ("bilinear", "bilinear"))
    ),
    ("transformers/resample_positions", "positions", (4, 4), "vit_{0}x{1}", GRIDS, "bicubic"),
    ("transformers/resample_positions", "positions", (4, 4), "dinov2_{0}x{1}", GRIDS, "bicubic"),
    ("transformers/resample_positions", "positions", (4, 4), "dinov2_with_registers_{0}x{1}", GRIDS, "bicubic_antialias"),
    ("meta/dinov2_positions", "source", (5, 5), "positions_{0}x{1}_offset", ((7, 7), (3, 3), (4, 6), (9, 2)), "bicubic_dinov2"),
    ("meta/dinov2_positions", "source", (5, 5), "positions_{0}x{1}", ((7, 7), (3, 3), (4, 6), (9, 2)), "bicubic"),
    ("meta/dinov2_positions", "source", (5, 5), "positions_{0}x{1}_antialias", ((7, 7), (3, 3), (4, 6), (9, 2)), "bicubic_antialias"),
]


@pytest.mark.parametrize("file, source, old, result, grids, method", POSITIONS)
def test_positions(file, source, old, result, grids, method):
    arrays = np.load(GOLDEN / f"{file}.npz")
    table = arrays[source][0, -old[0] * old[1] :].reshape(*old, -1)
    for new in grids:
        expected = arrays[result.format(*new)][0, -new[0] * new[1] :].reshape(*new, -1)
        assert_close(resample_grid(table, new, method), expected)


@pytest.mark.parametrize("size", [(4, 4), (6, 6), (12, 12), (16, 16), (6, 10)])
@pytest.mark.parametrize("theirs, ours", [("bicubic", "bicubic_antialias"), ("bilinear", "bilinear")])
def test_patch_kernels_of_timm(size, theirs, ours):
    arrays = np.load(GOLDEN / "timm" / "resample_patch.npz")
    expected = arrays[f"{size[0]}x{size[1]}_{theirs}"].transpose(2, 3, 1, 0)
    assert_close(resample_patch_kernel(arrays["kernel"].transpose(2, 3, 1, 0), size, ours), expected, 1e-4)


@pytest.mark.parametrize("size", [4, 6, 12, 16])
def test_patch_kernels_of_flexivit(size):
    arrays = np.load(GOLDEN / "google" / "resample_patch.npz")
    assert_close(resample_patch_kernel(arrays["kernel"], (size, size)), arrays[f"patch{size}"], 1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("old, new", [(4, 7), (7, 4), (1, 3), (3, 1), (5, 5)])
def test_rows_sum_to_one(method, old, new):
    matrix = interpolation_matrix(old, new, method)
    assert matrix.shape == (new, old) and matrix.dtype == "float32"
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_grid_stays_as_it_is(method):
    table = np.random.default_rng(0).standard_normal((3, 4, 5)).astype("float32")
    assert_close(resample_grid(table, (3, 4), method), table, 1e-6)


@requires_tensorflow
@pytest.mark.parametrize("method", METHODS)
def test_sizes_known_at_run_time_only(method):
    import tensorflow as tf

    table = np.random.default_rng(0).standard_normal((5, 4, 3)).astype("float32")
    resample = tf.function(
        lambda rows, columns: resample_grid(tf.constant(table), (rows, columns), method),
        input_signature=[tf.TensorSpec((), "int32")] * 2,
    )
    for size in ((7, 9), (2, 3), (5, 4), (5, 8), (1, 1)):
        assert_close(resample(*size), resample_grid(table, size, method))
    one_side = tf.function(lambda columns: resample_grid(tf.constant(table), (5, columns), method))
    for columns in (4, 7):
        assert_close(one_side(tf.constant(columns)), resample_grid(table, (5, columns), method))


def test_unknown_method():
    with pytest.raises(ValueError, match="`resample` must be one of .* Received: resample='lanczos'"):
        interpolation_matrix(4, 5, "lanczos")
