from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import assert_close, check_layer, random_inputs, requires_tensorflow, to_numpy

from keras_vit.layers import PositionEmbedding
from keras_vit.layers.position_embedding import sincos2d
from keras_vit.layers.resampling import METHODS, resample_grid

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_prefix_tokens": 2, "grid_size": (2, 3)},
        {"num_prefix_tokens": 1, "grid_size": (4, 4), "resample": "bilinear"},
        {"kind": "sincos2d"},
        {"kind": "sincos2d_mae", "num_prefix_tokens": 1},
        {"kind": "sincos1d", "num_prefix_tokens": 1},
    ],
)
def test_layer(config, other_process):
    tokens = 6 + config.get("num_prefix_tokens", 0)
    check_layer(PositionEmbedding, config, (2, tokens, 8), (2, 2, 3, 8), output_shape=(2, tokens, 8), other_process=other_process)


def loop_sincos2d(rows, columns, width, steps):
    """big_vision's formula, one number at a time."""
    table = np.zeros((rows, columns, width))
    quarter = width // 4
    for y in range(rows):
        for x in range(columns):
            for k in range(quarter):
                omega = 10000.0 ** (-k / steps)
                table[y, x, [k, quarter + k, 2 * quarter + k, 3 * quarter + k]] = (
                    np.sin(x * omega),
                    np.cos(x * omega),
                    np.sin(y * omega),
                    np.cos(y * omega),
                )
    return table


@pytest.mark.parametrize("grid, width", [((3, 5), 16), ((14, 14), 8)])
def test_sines_and_cosines(grid, width):
    tokens, patches = np.zeros((1, grid[0] * grid[1], width), "float32"), np.zeros((1, *grid, 1), "float32")
    for kind, steps in (("sincos2d", width / 4 - 1), ("sincos2d_mae", width / 4)):
        assert_close(PositionEmbedding(kind)(tokens, patches)[0], loop_sincos2d(*grid, width, steps).reshape(-1, width), 1e-6)


@pytest.mark.parametrize("grid, width", [(4, 32), (7, 16)])
def test_sines_and_cosines_of_mae(grid, width):
    """Meta's own table, with its row of zeros for the class token."""
    layer = PositionEmbedding("sincos2d_mae", num_prefix_tokens=1)
    tokens, patches = np.zeros((1, grid**2 + 1, width), "float32"), np.zeros((1, grid, grid, 1), "float32")
    assert_close(layer(tokens, patches)[0], np.load(GOLDEN / "meta" / "sincos.npz")[f"{grid}_{width}"], 1e-6)


def test_sines_and_cosines_of_the_original_transformer():
    """Equation by equation from the paper, section 3.5: the grid makes no difference, and the class token has place 0."""
    place, column = np.mgrid[0:7, 0:10]
    angle = place / 10000.0 ** (2 * (column // 2) / 10)
    expected = np.where(column % 2, np.cos(angle), np.sin(angle))
    layer = PositionEmbedding("sincos1d", num_prefix_tokens=1)
    tokens = np.zeros((2, 7, 10), "float32")
    for where in ({"patches": np.zeros((2, 2, 3, 1), "float32")}, {"grid": np.array([[2, 3], [1, 4]], "int32")}):
        assert_close(layer(tokens, **where), np.stack([expected, expected]), 1e-6)


def test_prefix_and_grid_have_their_own_entries():
    layer = PositionEmbedding(num_prefix_tokens=1)
    tokens, patches = random_inputs((2, 7, 8), (2, 2, 3, 8))
    result = to_numpy(layer(tokens, patches))
    assert_close(result[:, :1], tokens[:, :1] + to_numpy(layer.prefix_table), 1e-6)
    assert_close(result[:, 1:], tokens[:, 1:] + to_numpy(layer.table).reshape(6, 8), 1e-6)


def test_initial_weights():
    layer = PositionEmbedding(num_prefix_tokens=1)
    layer.build((None, 257, 64), (None, 16, 16, 64))
    assert abs(to_numpy(layer.table).std() / 0.02 - 1) < 0.05
    assert abs(to_numpy(layer.prefix_table).std() / 0.02 - 1) < 0.3
    assert not np.allclose(to_numpy(layer.prefix_table)[0], to_numpy(layer.table)[0, 0])


@pytest.mark.parametrize("resample", METHODS)
def test_called_on_another_grid(resample):
    layer = PositionEmbedding(num_prefix_tokens=1, grid_size=(3, 4), resample=resample)
    tokens, patches = np.zeros((1, 31, 8), "float32"), np.zeros((1, 5, 6, 8), "float32")
    result = to_numpy(layer(tokens, patches))[0]
    assert_close(result[1:], resample_grid(to_numpy(layer.table), (5, 6), resample).reshape(-1, 8))
    assert_close(result[:1], layer.prefix_table, 0)


@requires_tensorflow
@pytest.mark.parametrize(
    "kind, resample", [*(("learned", name) for name in METHODS), *((kind, "bicubic") for kind in ("sincos2d", "sincos2d_mae", "sincos1d"))]
)
def test_sizes_known_at_run_time_only(kind, resample):
    import tensorflow as tf

    layer = PositionEmbedding(kind, num_prefix_tokens=1, grid_size=(3, 4), resample=resample)
    layer.build((None, None, 8), (None, None, None, 8))
    call = tf.function(layer, input_signature=[tf.TensorSpec((None, None, 8)), tf.TensorSpec((None, None, None, 8))])
    for grid in ((5, 6), (3, 4), (2, 4), (1, 1)):
        tokens, patches = random_inputs((2, 1 + grid[0] * grid[1], 8), (2, *grid, 8))
        assert_close(call(tokens, patches), layer(tokens, patches))


def test_weights_of_another_grid_are_resampled_when_loaded(tmp_path):
    def model(grid):
        tokens, patches = keras.Input((1 + grid[0] * grid[1], 8)), keras.Input((*grid, 8))
        layer = PositionEmbedding(num_prefix_tokens=1, name="positions")
        return keras.Model([tokens, patches], layer(tokens, patches))

    small, large = model((2, 3)), model((4, 4))
    small.save_weights(tmp_path / "small.weights.h5")
    large.load_weights(tmp_path / "small.weights.h5")
    table = to_numpy(small.get_layer("positions").table)
    assert_close(large.get_layer("positions").table, resample_grid(table, (4, 4), "bicubic_antialias"))
    assert_close(large.get_layer("positions").prefix_table, small.get_layer("positions").prefix_table, 0)


def test_bfloat16_adds_rounded_positions_of_full_precision():
    layer = PositionEmbedding(dtype="mixed_bfloat16")
    tokens, patches = np.zeros((1, 6, 8), "float32"), np.zeros((1, 2, 3, 8), "float32")
    result = layer(tokens, patches)
    assert_close(result[0], keras.ops.cast(keras.ops.reshape(layer.table.value, (6, 8)), "bfloat16"), 0)


def test_frequencies_of_the_least_width():
    assert to_numpy(sincos2d((2, 2), 4, 1.0)).shape == (2, 2, 4)


@pytest.mark.parametrize(
    "config, argument",
    [
        ({"kind": "fourier"}, "kind"),
        ({"resample": "nearest"}, "resample"),
        ({"num_prefix_tokens": -1}, "num_prefix_tokens"),
        ({"grid_size": 0}, "grid_size"),
        ({"grid_size": (2, 2, 2)}, "grid_size"),
    ],
)
def test_bad_arguments(config, argument):
    with pytest.raises(ValueError, match=f"`{argument}` must be .* Received: {argument}="):
        PositionEmbedding(**config)


@pytest.mark.parametrize(
    "layer, width, grid, message",
    [
        (PositionEmbedding("sincos2d"), 6, (2, 3), "a multiple of 4. Received: hidden_dim=6"),
        (PositionEmbedding("sincos1d"), 5, (2, 3), "an even `hidden_dim`. Received: hidden_dim=5"),
        (PositionEmbedding(), 8, (None, None), "need `grid_size` .* Received: grid_size=None"),
    ],
)
def test_bad_shapes(layer, width, grid, message):
    with pytest.raises(ValueError, match=message):
        layer.build((None, None, width), (None, *grid, width))
