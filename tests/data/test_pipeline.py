import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_vit
from keras_vit.data import Augmentation, load
from keras_vit.data.augmentation import mixup
from keras_vit.training import Recipe


@pytest.fixture(scope="module")
def numbered():
    """100 images of which each shows its own number."""
    return np.arange(100)[:, None, None, None] * np.ones((1, 4, 4, 1)), np.arange(100) % 5


def take(dataset, count):
    return [tuple(part.numpy() for part in batch) for batch in dataset.take(count)]


def test_what_it_returns(numbered):
    data = load(numbered, batch_size=16)
    assert data.class_names == ("0", "1", "2", "3", "4")
    assert data.image_shape == (4, 4, 3)
    assert data.sizes == {"train": 72, "validation": 8, "test": 20}
    assert data.steps_per_epoch == 4
    images, labels = next(iter(data.train))
    assert images.dtype == "float32" and images.shape == (16, 4, 4, 3)
    assert labels.dtype == "int64" and labels.shape == (16,)
    np.testing.assert_array_equal(images.numpy()[:, 0, 0, 0] % 5, labels)


def test_cardinality_is_known(numbered):
    data = load(numbered, batch_size=16)
    assert data.train.cardinality() == data.steps_per_epoch and data.train_from(0).cardinality() == -1  # unknown: endless
    assert data.test.cardinality() == 2
    assert [len(labels) for _, labels in data.test] == [16, 4]


def test_splits_are_apart_and_complete(numbered):
    data = load(numbered, batch_size=8)
    parts = [take(data.train, data.steps_per_epoch), take(data.validation, -1), take(data.test, -1)]
    numbers = [int(n) for part in parts for images, _ in part for n in images[:, 0, 0, 0]]
    assert sorted(numbers) == list(range(100))


def test_order_is_a_function_of_seed_and_epoch(numbered):
    def epochs(seed):
        data = load(numbered, batch_size=8, seed=seed)
        return np.array([[images[:, 0, 0, 0] for images, _ in data.train.as_numpy_iterator()] for _ in range(2)]).reshape(2, -1)

    first, again, other = epochs(0), epochs(0), epochs(1)
    np.testing.assert_array_equal(first, again)
    assert (first[0] != first[1]).any() and (first[0] != other[0]).any()
    assert sorted(first[0]) == sorted(first[1]) == sorted(other[0])


def test_each_pass_is_the_next_epoch(numbered):
    data = load(numbered, batch_size=12, augmentation="digits+mixup(0.2)", seed=1)

    def same(one, other):
        return all((a.numpy() == b.numpy()).all() for row, column in zip(one, other, strict=True) for a, b in zip(row, column))

    assert same(list(data.train.take(2)), data.train_from(0).take(2))  # a look, which does not count
    for epoch in range(2):
        assert same(data.train, data.train_from(epoch * 6).take(6))
    assert same(data.train.repeat(3), data.train_from(12).take(18))


@pytest.mark.parametrize("policy", ["digits", "digits+mixup(0.2)"])
def test_fit_as_everyone_types_it(numbered, policy):
    """It trains as on the endless data, bit for bit; validation labels have the form of the training labels."""
    data, weights = load(numbered, batch_size=12, augmentation=policy), []
    assert data.train.element_spec[1] == data.validation.element_spec[1] == data.test.element_spec[1]
    loss = "categorical_crossentropy" if "mixup" in policy else "sparse_categorical_crossentropy"
    for batches, options in ((data.train, {}), (data.train_from(0), {"steps_per_epoch": data.steps_per_epoch})):
        keras.utils.set_random_seed(0)
        model = keras_vit.VisionTransformer(data.image_shape, 4, 8, 1, 2, 16, num_classes=5)
        model.compile("sgd", loss, metrics=["accuracy"])
        history = model.fit(batches, validation_data=data.validation, epochs=2, verbose=0, shuffle=False, **options).history
        assert len(history["val_accuracy"]) == 2
        weights.append(model.get_weights())
    for one, other in zip(*weights):
        np.testing.assert_array_equal(one, other)


def test_any_step_can_be_the_first():
    data = load("digits", batch_size=500, augmentation="digits", seed=3, image_size=8)
    for there, here in zip(take(data.train_from(0), 5)[3:], take(data.train_from(3), 2)):
        np.testing.assert_array_equal(there[0], here[0])
        np.testing.assert_array_equal(there[1], here[1])


def test_augmentation_differs_between_epochs_and_spares_the_test(numbered):
    images = np.random.default_rng(0).random((100, 8, 8, 3)) * 255
    plain, changed = (load((images, numbered[1]), batch_size=72, augmentation=name) for name in ("none", "digits"))
    (a, _), (b, _) = take(changed.train_from(0), 2)
    (c, _), (d, _) = take(plain.train_from(0), 2)
    np.testing.assert_array_equal(np.sort(c, axis=0), np.sort(d, axis=0))
    assert np.abs(np.sort(a, axis=0) - np.sort(b, axis=0)).max() > 1.0
    for one, other in zip(take(plain.test, -1), take(changed.test, -1)):
        np.testing.assert_array_equal(one[0], other[0])


@pytest.mark.parametrize(
    "arguments, rule",
    [
        (dict(source="digit"), "Unknown data source, and no folder of this name; there is 'digits'. Received: 'digit'"),
        (dict(augmentation="flips"), "Unknown augmentation"),
        (dict(batch_size=0), "`batch_size` must lie between 1 and the 1294 training images. Received: batch_size=0"),
        (dict(batch_size=2000), "`batch_size` must lie between"),
        (dict(seed=-1), "`seed` must"),
        (dict(image_size=0), "`image_size` must"),
    ],
)
def test_wrong_arguments_are_refused(arguments, rule):
    with pytest.raises(ValueError, match=rule):
        load(**{"source": "digits"} | arguments)


def test_repeated_augmentation_shows_fewer_images_in_several_versions():
    images = np.arange(12, dtype="float32")[:, None, None, None] * np.ones((1, 8, 8, 3), "float32") * 20
    noise = lambda images, labels, seeds: (images + tf.cast(seeds[:, 1] % 997, tf.float32)[:, None, None, None], labels)  # noqa: E731
    plain = Augmentation("", batch=(noise,))
    options = dict(batch_size=4, validation_fraction=0.1, test_fraction=0.1)
    for repeats in (1, 2):
        data = load((images, np.arange(12) % 2), augmentation=dataclasses.replace(plain, repeats=repeats), **options)
        epoch = np.concatenate([batch.numpy() for batch, _ in data.train.take(data.steps_per_epoch)])[:, 0, 0, 0]
        assert len(set(epoch)) == len(epoch)  # no two versions are the same
        whole = load((images, np.arange(12) % 2), augmentation=Augmentation("", repeats=repeats), **options)
        shown = np.concatenate([batch.numpy() for batch, _ in whole.train.take(data.steps_per_epoch)])[:, 0, 0, 0]
        assert len(set(shown)) == len(shown) // repeats
        np.testing.assert_array_equal(shown[::repeats], shown[repeats - 1 :: repeats])  # versions follow each other


def test_several_labels_an_image():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 8, 8, 3), dtype="uint8"), rng.integers(0, 2, (40, 3))
    data = load((images, labels), batch_size=8, augmentation=Augmentation("", batch=(mixup(0.2),)))
    assert data.class_names == ("0", "1", "2")
    found = np.concatenate([target for _, target in data.splits["train"]])
    assert found.dtype == "float32" and set(found.ravel()) == {0.0, 1.0} and (found.sum(axis=-1) != 1).any()
    mixed = np.concatenate([target for _, target in data.train_from(0).take(3)])
    assert mixed.shape == (24, 3) and mixed.min() >= 0 and mixed.max() <= 1
    model = keras_vit.VisionTransformer((8, 8, 3), 4, 8, 1, 2, 16, num_classes=3, classifier_activation="sigmoid")
    recipe = Recipe("", batch_size=8, epochs=1, loss="sigmoid")
    recipe.compile(model, data.steps_per_epoch, metrics=["binary_accuracy"])
    history = model.fit(data.train, verbose=0).history
    assert 0.0 < history["loss"][0] < 4.0
    with pytest.raises(ValueError, match=r"`labels` of shape \(n, classes\) must be 0 or 1. Received: values from 0 to 2"):
        load((images, labels * 2))


def test_fewer_training_images_are_the_first_ones():
    every, few = load("digits", batch_size=10), load("digits", batch_size=10, train_images=50)
    assert few.sizes == every.sizes | {"train": 50} and few.steps_per_epoch == 5
    one, other = (np.concatenate([labels for _, labels in data.splits["train"]]) for data in (every, few))
    np.testing.assert_array_equal(one[:50], other)
    assert np.bincount(other, minlength=10).min() >= 4
    with pytest.raises(ValueError, match="`train_images` must lie between 1 and the 1294 there are. Received: train_images=0"):
        load("digits", train_images=0)


@pytest.mark.parametrize(
    "source, rule",
    [
        ([1, 2, 3], "tuple .images, labels.. Received: list of 3 values"),
        ({"images": 1}, "name, the path of a folder, or a tuple .images, labels. of arrays. Received: source of type dict"),
        (tf.data.Dataset.range(3), "Received: source of type"),
    ],
)
def test_sources_of_no_known_kind_are_refused(source, rule):
    with pytest.raises(ValueError, match=rule):
        load(source)


def test_arrays_in_lists_and_as_keras_gives_them(numbered):
    images, labels = numbered
    assert load([images, labels], 10).sizes == {"train": 72, "validation": 8, "test": 20}
    assert load(((images, labels[:, None]), (images[:9], labels[:9, None])), 10).sizes == {"train": 90, "validation": 10, "test": 9}


@pytest.mark.parametrize("augmentation", ["none", "digits"])  # read by batches, and image by image
def test_the_shards_of_machines_make_up_the_batch(augmentation):
    def batch_of(step, **options):
        images, labels = next(iter(load("digits", batch_size=12, augmentation=augmentation, **options).train_from(step)))
        return images.numpy(), labels.numpy()

    for step in (0, 110):  # in the first epoch and in the second
        whole, parts = batch_of(step), [batch_of(step, shard=(index, 3)) for index in range(3)]
        for column, pieces in zip(whole, zip(*parts)):
            np.testing.assert_array_equal(column, np.concatenate(pieces))
    for shard in ((3, 3), (0, 5)):
        with pytest.raises(ValueError, match="`shard` must be"):
            load("digits", batch_size=12, shard=shard)
