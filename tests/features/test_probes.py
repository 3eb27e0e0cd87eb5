import importlib
import sys

import numpy as np
import pytest
from helpers import randomize, requires_tensorflow
from matplotlib.figure import Figure

import keras_vit
from keras_vit.features import contact_sheet, evaluate_features, knn_probabilities, nearest, probe_probabilities, scatter


def clusters(count=60, classes=4, width=6, seed=0):
    """Features around a center for each class, and labels."""
    centers = np.random.default_rng(9).standard_normal((classes, width))
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    return centers[labels] + 0.5 * random.standard_normal((count, width)), labels


def test_votes_are_those_of_the_definition():
    (known, labels), (new, _) = clusters(), clusters(20, seed=1)
    unit = [each / np.linalg.norm(each, axis=-1, keepdims=True) for each in (known, new)]
    similarities = unit[1] @ unit[0].T
    expected = np.zeros((20, 5))
    for row, each in enumerate(similarities):
        best = np.argsort(-each)[:7]
        votes = np.exp(each[best] / 0.07) / np.exp(each[best] / 0.07).sum()
        for number, vote in zip(best, votes):
            expected[row, labels[number]] += vote
    np.testing.assert_allclose(knn_probabilities(known, labels, new, 5, k=7), expected, atol=1e-9)
    numbers, found = nearest(known, 100.0 * new, k=7)
    assert np.array_equal(numbers, np.argsort(-similarities, axis=-1)[:, :7]) and (np.diff(found) <= 0).all()


def test_faiss_finds_the_same():
    pytest.importorskip("faiss")
    (known, labels), (new, _) = clusters(), clusters(20, seed=1)
    before = known.copy(), new.copy()
    (numbers, similarities), (theirs, others) = (nearest(known, new, 7, engine) for engine in ("scikit-learn", "faiss"))
    assert np.array_equal(numbers, theirs)
    np.testing.assert_allclose(similarities, others, atol=1e-6)
    votes = [knn_probabilities(known, labels, new, 4, 7, engine=engine) for engine in ("scikit-learn", "faiss")]
    np.testing.assert_allclose(*votes, atol=1e-4)
    assert np.array_equal(before[0], known) and np.array_equal(before[1], new)


def test_a_linear_probe_knows_separable_classes_and_no_units():
    (known, labels), (new, truth) = clusters(), clusters(40, seed=1)
    shifted = labels + (labels > 1)  # no training image of class 2
    scale = 10.0 ** np.arange(6)
    found = probe_probabilities(scale * known, shifted, scale * new, 5)
    assert (found.argmax(axis=-1) == truth + (truth > 1)).mean() > 0.85
    assert not found[:, 2].any() and np.allclose(found.sum(axis=-1), 1.0)
    np.testing.assert_allclose(found, probe_probabilities(known, shifted, new, 5), atol=1e-3)


@requires_tensorflow
def test_features_of_a_model_that_tells_two_colors():
    images = np.random.default_rng(0).integers(0, 100, (80, 16, 16, 3))
    labels = np.arange(80) % 2
    images[labels == 1, ..., 0] += 150
    data = keras_vit.data.load((images.astype("uint8"), labels), batch_size=8)
    model = randomize(keras_vit.VisionTransformer((16, 16, 3), 8, 8, 2, 2, 16, include_top=False))
    found = evaluate_features(model, data, knn=5, linear_probe=True, blocks="all", batch_size=16, verbose=False)
    assert found["split"] == "test" and found["images"] == data.sizes["test"] and found["train_images"] == data.sizes["train"]
    methods = [(row["method"], row["block"]) for row in found["results"]]
    assert methods == [("5-NN", 0), ("linear probe", 0), ("5-NN", 1), ("linear probe", 1)]
    assert all(row["accuracy"] > 0.9 for row in found["results"])
    only = evaluate_features(model, data, "validation", knn=5, pooling="gap", verbose=False)
    assert only["split"] == "validation" and [row["block"] for row in only["results"]] == [None]
    for arguments, rule in (
        ({}, "Nothing to evaluate"),
        ({"knn": 1000}, "must not be larger than the 58"),
        ({"knn": 1, "split": "train"}, "split='train'"),
        ({"knn": 1, "blocks": (7,)}, "between -2 and 1"),
    ):
        with pytest.raises(ValueError, match=rule):
            evaluate_features(model, data, **arguments)


def test_wrong_input(monkeypatch):
    known, labels = clusters()
    for call, rule in (
        (lambda: nearest(known, known[:, :2]), "of one width"),
        (lambda: nearest(known, known, k=61), "larger than the 60"),
        (lambda: nearest(known, known, engine="annoy"), "`engine` must be"),
        (lambda: knn_probabilities(known, np.eye(4)[labels], known, 4), "one class an image"),
        (lambda: probe_probabilities(known, 0 * labels, known, 4), "images of one class"),
    ):
        with pytest.raises(ValueError, match=rule):
            call()

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"scikit-learn: pip install .*\[features\]"):
        nearest(known, known)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"faiss: pip install .*\[faiss\]"):
        nearest(known, known, engine="faiss")


def test_pictures():
    (features, labels), names = clusters(), ["a", "b", "c", "d"]
    images = np.zeros((60, 8, 8, 3), "uint8")
    axes = scatter(features, labels, names, images, thumbnails=16)
    assert axes.get_title() == "PCA of 60 images" and 4 < len(axes.artists) <= 16
    assert [text.get_text() for text in axes.get_legend().get_texts()] == names
    small = scatter(features, labels, names, images, thumbnails=16, ax=Figure(figsize=(1.5, 1.5)).add_subplot())
    assert small.artists[0].offsetbox.get_zoom() < 0.5 * axes.artists[0].offsetbox.get_zoom()  # or they would cover the axes
    points = np.concatenate([each.get_offsets() for each in axes.collections])
    centered = features - features.mean(axis=0)
    variances = np.linalg.svd(centered, compute_uv=False)[:2] ** 2  # that of the two first components
    np.testing.assert_allclose((points**2).sum(axis=0), variances)
    assert len(contact_sheet([*images[:7]], names + names[:3]).axes) == 7
    for call, rule in (
        (lambda: scatter(features, 0 * labels, names), "60 images of 'a'"),
        (lambda: scatter(features[:3], labels[:3], names), "4 features or more"),
        (lambda: scatter(features, labels, names, method="umap"), "method='umap'"),
        (lambda: contact_sheet(images[:2], names), "2 images, 4 titles"),
    ):
        with pytest.raises(ValueError, match=rule):
            call()
