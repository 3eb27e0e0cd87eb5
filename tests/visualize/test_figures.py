"""The drawing functions: what is in the picture is what was computed. Each draws into a new figure or the given axes, and shows nothing."""

import sys

import keras
import numpy as np
import pytest
from helpers import VARIANTS, random_images, tiny, to_numpy
from matplotlib import colormaps
from matplotlib.figure import Figure
from visualize.cases import nested

from keras_vit import visualize
from keras_vit.visualize.attention_distance import patch_distances
from keras_vit.visualize.figures import enlarge, mosaic
from keras_vit.visualize.patch_filters import components
from keras_vit.visualize.position_similarity import positions_of, similarities


def picture(ax):
    return np.asarray(ax.images[0].get_array())


def test_overlay_draws_each_patch_in_its_place():
    image, map = np.full((16, 24, 3), 255.0), np.arange(6.0).reshape(2, 3)
    ax = visualize.overlay(image, map, label="share (%)", limits=(0, 5))
    drawn = picture(ax)
    colors = colormaps["viridis"](map / 5.0)[..., :3]
    for row in range(2):
        for column in range(3):
            cell = drawn[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
            np.testing.assert_allclose(cell, np.broadcast_to(0.2 + 0.8 * colors[row, column], cell.shape), atol=1e-5)
    bar = ax.figure.axes[1]
    assert bar.get_ylabel() == "share (%)" and bar.get_ylim() == (0, 5)
    smooth = picture(visualize.overlay(image, map, limits=(0, 5), smooth=True))
    assert len(np.unique(smooth.reshape(-1, 3), axis=0)) > 50
    padded = picture(visualize.overlay(image[:15, :18], map, limits=(0, 5), cell=8))
    np.testing.assert_allclose(padded, drawn[:15, :18], atol=1e-5)


def test_overlay_is_readable_in_gray():
    """On any image the lightness of a larger value is larger."""
    map = np.linspace(0, 1, 12).reshape(3, 4)
    for shade in (0, 128, 255):
        lightness = picture(visualize.overlay(np.full((3, 4), shade, "uint8"), map, limits=(0, 1))) @ [0.299, 0.587, 0.114]
        assert (np.diff(lightness.ravel()) > 0.01).all()


def test_overlay_refuses():
    image, map = np.full((16, 24, 3), 200.0), np.ones((2, 3))
    for arguments, message in (
        ((image / 255.0, map), "`image` must hold pixels from 0 to 255. Received: .*multiply them by 255"),
        ((image[..., :2], map), "must have 1 or 3 channels"),
        ((image, map[None]), r"`map` must be .* Received: shape \(1, 2, 3\)"),
        ((image, map * np.nan), "finite"),
        ((image, map, None, "x", (1, 1)), r"limits=\(1, 1\)"),
        ((image, map, None, "x", None, False, 4), "must cover the image, 16 x 24. Received: cell=4"),
    ):
        with pytest.raises(ValueError, match=message):
            visualize.overlay(*arguments)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"Drawing needs matplotlib: pip install .*\[plot\]"):
        visualize.overlay(np.full((4, 4), 200.0), np.ones((2, 2)))


def test_filters_are_the_principal_components():
    random = np.random.default_rng(0)
    basis = np.linalg.qr(random.standard_normal((4 * 4 * 3, 2)))[0].T
    kernel = (random.standard_normal((50, 2)) * [5.0, 1.0]) @ basis
    found = components(kernel.T.reshape(4, 4, 3, 50))
    for i in range(2):
        assert abs(found[i].ravel() @ basis[i]) > 0.99
    for name in ("plain", "gray", "resnet_stem", "conv_stem", "channels_first"):
        model = tiny(**VARIANTS[name])
        drawn = picture(visualize.patch_filters(model, count=4))
        assert drawn.shape[-1] == 3 and 0.0 <= drawn.min() and drawn.max() <= 1.0, name
    with pytest.raises(ValueError, match="1 or 3 channels. Received: a model of 5"):
        visualize.patch_filters(tiny(input_shape=(16, 24, 5), include_preprocessing=False))


def test_similarity_of_positions():
    model = tiny(input_shape=(32, 80, 3))
    table = to_numpy(model.get_layer("position_embedding").table)
    found = similarities(positions_of(model))
    assert found.shape == (4, 10, 4, 10)
    cosine = table[1, 2] @ table[3, 7] / np.linalg.norm(table[1, 2]) / np.linalg.norm(table[3, 7])
    assert abs(found[1, 2, 3, 7] - cosine) < 1e-5
    drawn = picture(visualize.position_similarity(model))
    assert drawn.shape == (2 * 5 - 1, 5 * 11 - 1)  # every second position has a tile
    assert np.nanmax(drawn) == pytest.approx(1.0, abs=1e-5)
    for name in ("simple", "mae"):
        assert similarities(positions_of(tiny(**VARIANTS[name]))).shape == (2, 3, 2, 3)
    with pytest.raises(ValueError, match="must have a position embedding"):
        visualize.position_similarity(tiny(position_embedding="none"))


def test_attention_distance():
    model = tiny(num_register_tokens=1)
    images = random_images(model)
    weights = visualize.attention_weights(model, images)[..., 2:, 2:]
    between = patch_distances((2, 3), (16, 24))
    assert between[0, 1] == 8.0 and between[0, 3] == 8.0 and between[0, 5] == pytest.approx(np.hypot(8, 16))
    expected = ((weights * between).sum(-1) / weights.sum(-1)).mean(axis=(0, 3))
    np.testing.assert_allclose(visualize.mean_attention_distances(model, images, batch_size=1), expected, rtol=1e-5)
    ax = visualize.attention_distance(model, images, ax=Figure().add_subplot())
    np.testing.assert_allclose(np.sort(ax.collections[0].get_offsets()[:, 1]), np.sort(expected.ravel()), rtol=1e-4)
    assert ax.get_ylabel() == "Mean attention distance (pixels)"
    assert visualize.mean_attention_distances(tiny(**VARIANTS["channels_first"]), np.ones((1, 3, 16, 24))).max() < 24


def test_components_of_patches():
    model = tiny()
    images = random_images(model)
    features = to_numpy(keras.Model(model.input, model.get_layer("norm").output)(images))[:, 1:].reshape(12, 16)
    features = features - features.mean(axis=0)
    found = visualize.patch_components(model, images, batch_size=1)
    assert found.shape == (2, 2, 3, 3)
    values = np.linalg.svd(features, compute_uv=False)[:3]
    np.testing.assert_allclose(np.linalg.norm(found.reshape(12, 3), axis=0), values, rtol=1e-3)
    assert visualize.patch_components(nested(tiny(include_top=False)), images, block=0, components=1).shape == (2, 2, 3, 1)
    ax = visualize.patch_pca(model, images)
    np.testing.assert_allclose(picture(ax)[:16, :24], images[0] / 255.0, atol=1e-5)
    normalized = visualize.patch_pca(tiny(include_preprocessing=False), images / 127.5 - 1.0)
    np.testing.assert_allclose(picture(normalized)[:16, :24], images[0] / 255.0, atol=1e-5)
    with pytest.raises(ValueError, match="6 patches of 16 features have no more components. Received: components=7"):
        visualize.patch_components(model, images[:1], components=7)


def test_given_axes():
    """Drawing into one of several axes returns it, and leaves the others and the figure as they are."""
    model = tiny()
    images = random_images(model)
    for draw in (
        lambda ax: visualize.overlay(images[0], np.ones((2, 3)), ax=ax),
        lambda ax: visualize.patch_filters(model, ax=ax),
        lambda ax: visualize.position_similarity(model, ax=ax),
        lambda ax: visualize.attention_distance(model, images, ax=ax),
        lambda ax: visualize.patch_pca(model, images, ax=ax),
        lambda ax: visualize.cost_curves("ViTTi16", sizes=(96, 192), ax=ax),
        lambda ax: visualize.model_figure(model, ax=ax),
    ):
        figure = Figure(figsize=(3, 3))
        axes = figure.subplots(2, 2)
        before = [(each.get_position().bounds, each.axison, len(each.get_children())) for each in axes.flat if each is not axes[0, 1]]
        assert draw(axes[0, 1]) is axes[0, 1] and tuple(figure.get_size_inches()) == (3, 3)
        after = [(each.get_position().bounds, each.axison, len(each.get_children())) for each in axes.flat if each is not axes[0, 1]]
        assert before == after


def test_tiles():
    np.testing.assert_array_equal(enlarge(np.array([[1, 2]]), 2, 4), [[1, 1, 2, 2]] * 2)
    sheet = mosaic(np.stack([np.zeros((1, 2)), np.full((1, 2), 0.5), np.zeros((1, 2))]), gap=1)
    np.testing.assert_array_equal(sheet, [[0, 0, 1, 0.5, 0.5], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
