import math

import keras
import numpy as np
import pytest
from helpers import loss_and_gradients, outputs_of, random_images, random_inputs, tiny, to_numpy
from keras import ops

from keras_vit.layers import MultiHeadSelfAttention, PatchDropout, RotaryPositionEmbedding, multi_head_self_attention
from keras_vit.runtime.rotation import rotate

DINOV3 = {"coordinates": "normalized", "base": 100.0}
EVA = {"native_grid": (16, 16)}
PE = {"axes": "xy", "offset": 1}
MIXED = {"axes": "xy", "base": 10.0, "frequencies": "learned", "num_heads": 3, "num_blocks": 2}


def angle(config, place, grid, j, quarter):
    """Returns the angle of a pair of channels, by the families' definitions one number after another."""
    y, x = place
    if config.get("coordinates") == "normalized":
        y, x = (2 * math.pi * (2 * (i + 0.5) / size - 1) for i, size in zip(place, grid))
    elif native := config.get("native_grid"):
        y, x = (i / size * to for i, size, to in zip(place, grid, native))
    y, x = y + config.get("offset", 0), x + config.get("offset", 0)
    first, second = (y, x) if config.get("axes", "yx") == "yx" else (x, y)
    coordinate = first if j < quarter else second
    return coordinate * config.get("base", 10000.0) ** -(j % quarter / quarter)


@pytest.mark.parametrize("config", [DINOV3, EVA, PE, {"base": 100.0, "axes": "xy"}])
def test_queries_and_keys_turn_by_the_angles_of_their_patch(config):
    grid, prefix, head_dim = (3, 2), 2, 8
    rotation = RotaryPositionEmbedding(head_dim, prefix, **config)(np.zeros((1, *grid, 1)))
    assert tuple(rotation.shape) == (2, prefix + 6, head_dim)
    query, key = random_inputs((2, 3, prefix + 6, head_dim), (2, 3, prefix + 6, head_dim))
    turned, turned_key = (to_numpy(x) for x in rotate(ops.convert_to_tensor(query), ops.convert_to_tensor(key), rotation))
    np.testing.assert_array_equal(turned[:, :, :prefix], query[:, :, :prefix])
    for token in range(6):
        angles = np.array([angle(config, divmod(token, grid[1]), grid, j, head_dim // 4) for j in range(head_dim // 2)])
        for before, after in ((query, turned), (key, turned_key)):
            pairs = before[:, :, prefix + token, :4] + 1j * before[:, :, prefix + token, 4:]
            pairs = pairs * np.exp(1j * angles)
            np.testing.assert_allclose(after[:, :, prefix + token], np.concatenate([pairs.real, pairs.imag], axis=-1), atol=2e-6)


def test_learned_frequencies_are_those_of_the_block():
    layer = RotaryPositionEmbedding(8, 1, **MIXED)
    rotation = to_numpy(layer(np.zeros((1, 2, 3, 1)), block=1))
    assert rotation.shape == (2, 3, 7, 8)
    x, y = np.moveaxis(to_numpy(layer.frequencies)[1], 0, 0)
    np.testing.assert_allclose(np.hypot(x, y), np.broadcast_to([1, 10**-0.5] * 2, (3, 4)), atol=1e-6)  # turned, not scaled
    np.testing.assert_allclose(rotation[0, :, 1 + 5, :4], np.cos(2 * x + 1 * y), atol=1e-6)
    np.testing.assert_allclose(rotation[1, :, 1 + 5, 4:], np.sin(2 * x + 1 * y), atol=1e-6)


def test_periods_of_bfloat16():
    exact, rounded = (
        to_numpy(RotaryPositionEmbedding(64, **DINOV3, period_dtype=t)(np.zeros((1, 9, 9, 1)))) for t in ("float32", "bfloat16")
    )
    assert 1e-3 < np.abs(exact - rounded).max() < 2e-2


def test_coordinates_change_in_training_alone():
    layers = [RotaryPositionEmbedding(8, **DINOV3, rescale=2.0, seed=seed) for seed in (1, 1, 2)]
    patches = np.zeros((1, 4, 4, 1))
    still, first, same, other = (to_numpy(layers[i](patches, training=t)) for i, t in ((0, False), (0, True), (1, True), (2, True)))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, still) and not np.array_equal(first, other)
    # One factor for both axes: the angle of the slowest channels, which do not wrap, grows by it.
    grown = [np.arctan2(rotation[1, :, 5:], rotation[0, :, 5:])[[0, 5]] for rotation in (still, first)]
    shifted = RotaryPositionEmbedding(8, shift=3.0, seed=1)
    turned = np.arctan2(*to_numpy(shifted(patches, training=True))[::-1, :, 4:])
    steps = np.diff(turned.reshape(4, 4, 4)[..., 1], axis=0)  # all rows shift alike
    np.testing.assert_allclose(steps, 0.01, atol=1e-5)
    factor = grown[1][:, 0] / grown[0][:, 0]
    np.testing.assert_allclose(factor, factor[0], rtol=1e-5)
    assert 0.5 <= factor[0] <= 2.0


def test_angles_are_not_rounded_in_half_precision(monkeypatch):
    rotation = RotaryPositionEmbedding(8, 1, dtype="mixed_bfloat16")(np.zeros((1, 40, 40, 1)))
    assert keras.backend.standardize_dtype(rotation.dtype) == "float32"
    (tokens,) = random_inputs((1, 1601, 16))
    seen = []
    monkeypatch.setattr(multi_head_self_attention, "rotate", lambda q, k, rotation: seen.append(rotation) or rotate(q, k, rotation))
    MultiHeadSelfAttention(2, dtype="mixed_bfloat16")(tokens, rotation=rotation)
    np.testing.assert_array_equal(to_numpy(seen[0]), to_numpy(rotation))


def test_kept_patches_keep_their_angles():
    tokens = np.broadcast_to(np.arange(10, dtype="float32")[None, :, None], (3, 10, 4))
    rotation = to_numpy(RotaryPositionEmbedding(8, 1)(np.zeros((1, 3, 3, 1))))
    kept, (rotations,) = PatchDropout(0.5, 1)(tokens, rotations=[rotation], training=True)
    places = to_numpy(kept)[..., 0].astype(int)
    np.testing.assert_array_equal(to_numpy(rotations)[:, :, 0], rotation[:, places])


@pytest.mark.parametrize("rotary", [DINOV3, {k: v for k, v in MIXED.items() if not k.startswith("num")}])
def test_open_sizes_remat_and_fast_paths_agree(rotary):
    model = tiny(rotary=rotary, position_embedding="none", num_register_tokens=1)
    images = random_images(model)
    expected = to_numpy(outputs_of(model, images))
    for change in ({"input_shape": (None, None, 3)}, {"remat": True}):
        again = model.adapt(**change)
        np.testing.assert_allclose(to_numpy(outputs_of(again, images)), expected, atol=1e-6)
        loss, gradients = loss_and_gradients(again, images)
        for ours, theirs in zip(gradients, loss_and_gradients(model, images)[1], strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=1e-6)
    assert np.abs(to_numpy(outputs_of(model.adapt(rotary=None), images)) - expected).max() > 1e-4


@pytest.mark.parametrize(
    "config, message",
    [
        ({"head_dim": 6}, "`head_dim` must be a multiple of 4"),
        ({"head_dim": 8, "coordinates": "pixels"}, "`coordinates` must be one of"),
        ({"head_dim": 8, "base": 1}, "`base` must be a number above 1"),
        ({"head_dim": 8, "rescale": 0.5}, "`rescale` must be a number of at least 1"),
        ({"head_dim": 8, "coordinates": "normalized", "offset": 1}, "are for indices"),
        ({"head_dim": 8, "frequencies": "learned"}, "`num_heads` must be an int"),
    ],
)
def test_bad_arguments(config, message):
    with pytest.raises(ValueError, match=f"{message}.*Received: "):
        RotaryPositionEmbedding(**config)
