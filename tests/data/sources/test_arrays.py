import sys

import numpy as np
import pytest

from keras_vit.data.sources import source
from keras_vit.data.sources.arrays import arrays
from keras_vit.data.sources.digits import digits


def colors(count, size=6):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype("uint8")


def test_digits_are_the_real_ones():
    source = digits(image_size=8)
    assert {name: part.size for name, part in source.splits.items()} == {"train": 1294, "validation": 144, "test": 359}
    assert source.class_names == tuple("0123456789")
    assert source.image_shape == (8, 8, 3)
    everything = [part.read(np.arange(part.size)) for part in source.splits.values()]
    images = np.concatenate([images for images, _ in everything])
    counts = np.bincount(np.concatenate([labels for _, labels in everything]))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # as the data set's own description says
    assert images.min() == 0.0 and images.max() == 255.0
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == 1797  # none is in two splits


def test_enlarged_digits_stay_in_range():
    part = digits(image_size=16).splits["test"]
    images, _ = part.read(np.arange(part.size))
    assert images.shape == (359, 16, 16, 3)
    assert images.numpy().min() >= 0.0 and images.numpy().max() <= 255.0


def test_split_is_stratified_and_the_same_every_time():
    labels = np.repeat([0, 1, 2], [500, 100, 50])
    order = source.stratified_order(labels)
    assert sorted(order) == list(range(650))
    assert np.bincount(labels[order[:130]]).tolist() == pytest.approx([100, 20, 10], abs=1)
    np.testing.assert_array_equal(order, source.stratified_order(labels))


def test_gray_arrays_become_color():
    gray = np.random.default_rng(0).random((50, 4, 5)) * 255
    part = arrays(gray, np.arange(50) % 2, class_names=("even", "odd")).splits["train"]
    images, _ = part.read([0, 1])
    assert images.shape == (2, 4, 5, 3)
    np.testing.assert_array_equal(images[..., 0], images[..., 2])


@pytest.mark.parametrize(
    "arguments, rule",
    [
        (dict(images=np.zeros((9, 4))), "`images` must be numbers of the shape"),
        (dict(images=np.zeros((9, 4, 4, 2))), "`images` must be numbers of the shape"),
        (dict(labels=np.zeros(8, int)), "one label per image. Received: 9 train images, labels of shape"),
        (dict(labels=np.zeros(9)), r"ints from 0.*labels.astype\(int\)"),
        (dict(labels=np.full(9, -1)), "ints from 0"),
        (dict(class_names=("zero",)), "name every label"),
        (dict(test_fraction=0.0), "`test_fraction` must lie in"),
        (dict(validation_fraction=1.0), "`validation_fraction` must lie in"),
        (dict(test_fraction=0.01), "Too few test images: test_fraction=0.01 of 9 images is 0. Pass another `test_fraction`, at least 0.11"),
    ],
)
def test_wrong_arguments_are_refused(arguments, rule):
    with pytest.raises(ValueError, match=rule):
        arrays(**{"images": colors(9), "labels": np.arange(9) % 3} | arguments)


IMAGES = colors(12)


@pytest.mark.parametrize(
    "images, rule",
    [
        (IMAGES / 255, "float64 values from .* to 1.*multiply them by 255"),
        (IMAGES / 127.5 - 1, "as if normalized already"),
        (IMAGES.astype("uint16") * 257, "16-bit images by 257"),
        (np.moveaxis(IMAGES, -1, 1), r"shape \(12, 3, 6, 6\), channels first: .*np.moveaxis\(images, -3, -1\)"),
        (np.concatenate([IMAGES, IMAGES[..., :1]], -1), r"RGBA: .*images\[..., :3\]"),
        ([["a"]], "`images` must be numbers"),
    ],
)
def test_images_that_no_model_takes_are_refused_with_what_to_do(images, rule):
    with pytest.raises(ValueError, match=rule):
        arrays(images, np.arange(12) % 3)


def test_images_of_different_sizes():
    images = [colors(1, side)[0, :, : side - 1] for side in range(4, 16)]
    made = arrays(images, np.arange(12) % 3, image_size=8)
    split = made.splits["train"]
    read = [tuple(part.numpy() for part in split.read_one(np.int64(place))) for place in range(split.size)]
    for image, label in read:
        assert image.dtype == "uint8" and label == (image.shape[0] - 4) % 3
        np.testing.assert_array_equal(image, np.rint(images[image.shape[0] - 4]).astype("uint8"))
    assert made.image_shape == (8, 8, 3) and not split.same_shape


def read_back(source, split="train"):
    return source.splits[split].read(np.arange(source.splits[split].size))[1].numpy()


@pytest.mark.parametrize(
    "labels, names",
    [
        (np.arange(12)[:, None] % 3, ("0", "1", "2")),  # as keras.datasets.cifar10 gives them
        ([[i % 3] for i in range(12)], ("0", "1", "2")),
        ((np.arange(12) % 3).tolist(), ("0", "1", "2")),
        ((np.arange(12) % 3).astype("uint8"), ("0", "1", "2")),
        (["ant", "bee", "cow"] * 4, ("ant", "bee", "cow")),
        (np.array(["ant", "bee", "cow"] * 4, object), ("ant", "bee", "cow")),
        (np.array([b"ant", b"bee", b"cow"] * 4), ("ant", "bee", "cow")),
        (np.eye(3)[np.arange(12) % 3], ("0", "1", "2")),
        (np.arange(12) % 3 == 1, ("False", "True")),
    ],
)
def test_labels_as_people_have_them(labels, names):
    source = arrays(IMAGES, labels)
    assert source.class_names == names
    expected = read_back(arrays(IMAGES, np.arange(12) % 3 == 1 if len(names) == 2 else np.arange(12) % 3))
    np.testing.assert_array_equal(read_back(source), expected)


def test_class_names_give_the_order():
    source = arrays(IMAGES, ["bee", "ant"] * 6, class_names=["cow", "bee", "ant"])
    assert source.class_names == ("cow", "bee", "ant") and set(read_back(source)) == {1, 2}
    with pytest.raises(ValueError, match="`class_names` must name every label. Received: labels 'ant', which are missing"):
        arrays(IMAGES, ["bee", "ant"] * 6, class_names=["cow", "bee"])


def test_one_hot_is_told_from_several_classes_an_image(caplog):
    one_hot = np.eye(3)[np.arange(12) % 3]
    assert read_back(arrays(IMAGES, one_hot)).shape == (9,) and "Pass multi_label=True" in caplog.text
    assert read_back(arrays(IMAGES, one_hot, multi_label=True)).shape == (9, 3)
    assert read_back(arrays(IMAGES, np.maximum(one_hot, [1, 0, 0]))).shape == (9, 3)
    caplog.clear()
    assert read_back(arrays(IMAGES, one_hot, multi_label=False)).shape == (9,) and not caplog.text
    with pytest.raises(ValueError, match="With multi_label=False, each row of `labels` must hold one 1"):
        arrays(IMAGES, np.ones((12, 3)), multi_label=False)


def test_labels_that_leave_out_a_class_are_said(caplog):
    arrays(IMAGES, np.arange(12) % 3 + 1)
    assert "1 of 4 classes have no image: 0" in caplog.text


def test_given_splits_are_kept():
    source = arrays(IMAGES, np.arange(12) % 3, test=(IMAGES[:5], [[0], [1], [2], [0], [1]]), validation=(IMAGES[:2], [2, 2]))
    assert {name: split.size for name, split in source.splits.items()} == {"train": 12, "validation": 2, "test": 5}
    np.testing.assert_array_equal(read_back(source, "validation"), [2, 2])
    assert sorted(read_back(source, "test")) == [0, 0, 1, 1, 2]
    with pytest.raises(ValueError, match="same form"):
        arrays(IMAGES, np.arange(12) % 3, test=(IMAGES[:, :5], np.arange(12) % 3))
    with pytest.raises(ValueError, match="`test` must be a tuple"):
        arrays(IMAGES, np.arange(12) % 3, test=IMAGES)


@pytest.mark.parametrize(
    "count, rule",
    [(2, "at least 3 are needed. Received: 2 training images"), (4, "validation_fraction=0.1 of 3 images is 0.*at least 0.33")],
)
def test_too_few_images_for_three_splits_say_what_to_pass(count, rule):
    with pytest.raises(ValueError, match=rule):
        arrays(IMAGES[:count], np.zeros(count, int))


def test_missing_scikit_learn_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        digits()
