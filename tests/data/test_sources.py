import sys

import numpy as np
import pytest

from keras_vit.data import parts, sources


def colours(count, size=6):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype("uint8")


def test_digits_are_the_real_ones():
    source = sources.digits(image_size=8)
    assert {name: part.size for name, part in source.parts.items()} == {"train": 1294, "validation": 144, "test": 359}
    assert source.class_names == tuple("0123456789")
    assert source.image_shape == (8, 8, 3)
    everything = [part.read(np.arange(part.size)) for part in source.parts.values()]
    images = np.concatenate([images for images, _ in everything])
    counts = np.bincount(np.concatenate([labels for _, labels in everything]))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # as the data set's own description says
    assert images.min() == 0.0 and images.max() == 255.0
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == 1797  # none is in two parts


def test_enlarged_digits_stay_in_range():
    part = sources.digits(image_size=16).parts["test"]
    images, _ = part.read(np.arange(part.size))
    assert images.shape == (359, 16, 16, 3)
    assert images.numpy().min() >= 0.0 and images.numpy().max() <= 255.0


def test_split_is_stratified_and_the_same_every_time():
    labels = np.repeat([0, 1, 2], [500, 100, 50])
    order = parts.stratified_order(labels)
    assert sorted(order) == list(range(650))
    assert np.bincount(labels[order[:130]]).tolist() == pytest.approx([100, 20, 10], abs=1)
    np.testing.assert_array_equal(order, parts.stratified_order(labels))


def test_gray_arrays_become_colour():
    gray = np.random.default_rng(0).random((50, 4, 5)) * 255
    part = sources.arrays(gray, np.arange(50) % 2, class_names=("even", "odd")).parts["train"]
    images, _ = part.read([0, 1])
    assert images.shape == (2, 4, 5, 3)
    np.testing.assert_array_equal(images[..., 0], images[..., 2])


@pytest.mark.parametrize(
    "arguments, rule",
    [
        (dict(images=np.zeros((9, 4))), "`images` must have the shape"),
        (dict(images=np.zeros((9, 4, 4, 2))), "`images` must have the shape"),
        (dict(labels=np.zeros(8, int)), "one label an image"),
        (dict(labels=np.zeros(9)), "ints from 0"),
        (dict(labels=np.full(9, -1)), "ints from 0"),
        (dict(class_names=("zero",)), "name every label"),
        (dict(test_fraction=0.0), "`test_fraction` must lie in"),
        (dict(validation_fraction=1.0), "`validation_fraction` must lie in"),
        (dict(test_fraction=0.01), "Every part must hold an image"),
    ],
)
def test_wrong_arguments_are_refused(arguments, rule):
    with pytest.raises(ValueError, match=rule):
        sources.arrays(**{"images": colours(9), "labels": np.arange(9) % 3} | arguments)


def test_missing_scikit_learn_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        sources.digits()
