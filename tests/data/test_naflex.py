"""Batches of images in their own aspect ratios."""

import pathlib

import keras
import numpy as np
import pytest
from helpers import requires_tensorflow
from PIL import Image

import keras_vit
from keras_vit.data.sequences import sequence_grid

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "naflex" / "sizes.npz"
LENGTHS, BUDGET = (8, 16), 64
pytestmark = requires_tensorflow  # tf.data and NumPy, on every backend the same


@pytest.fixture(scope="module")
def model():
    return keras_vit.VisionTransformer(
        (32, 32, 3), 8, 16, 1, 2, 32, num_classes=2, naflex=True, preprocessing={"interpolation": "bilinear"}
    )


def images(count=30):
    random = np.random.default_rng(0)
    made = [random.integers(0, 256, (6, 5 + i % 9, 3), dtype="uint8") for i in range(count)]
    return [np.array(Image.fromarray(image).resize((8 * image.shape[1], 40 + i), Image.Resampling.BICUBIC)) for i, image in enumerate(made)]


def load(model, **more):
    arguments = {"max_tokens": LENGTHS, "tokens_per_batch": BUDGET, "augmentation": "flip", "seed": 3, **more}
    return keras_vit.data.naflex((images(), np.arange(30) % 2), model, **arguments)


def assert_same(found, wanted):
    for one, other in zip(keras.tree.flatten(found), keras.tree.flatten(wanted), strict=True):
        np.testing.assert_array_equal(one, other)


def test_sizes_are_those_of_the_reference():
    golden = np.load(GOLDEN)
    for length in ("64", "256", "576"):
        found = [16 * np.array(sequence_grid(size, 16, int(length))) for size in golden["images"]]
        np.testing.assert_array_equal(found, golden[length])


def test_batches_are_functions_of_seed_and_step(model):
    data = load(model)
    steps = data.steps_per_epoch
    # 22 training images: eight of 8 tokens, four of 16, eight of 8.
    batches = list(data.train.as_numpy_iterator())
    assert data.sizes["train"] == 22 and steps == 3
    assert sorted(inputs["patches"].shape[:2] for inputs, _ in batches) == [(4, 16), (8, 8), (8, 8)]
    following = list(data.train.as_numpy_iterator())  # the second epoch
    resumed = load(model).train_from(2).take(4).as_numpy_iterator()
    for found, wanted in zip(resumed, (batches + following)[2:], strict=True):
        assert_same(found, wanted)
    other = next(load(model, seed=4).train.as_numpy_iterator())[0]["patches"]
    assert other.shape != batches[0][0]["patches"].shape or (other != batches[0][0]["patches"]).any()
    first, second = (load(model, shard=(index, 2)).train_from(0).take(3).as_numpy_iterator() for index in (0, 1))
    for one, two, whole in zip(first, second, batches):
        assert_same(keras.tree.map_structure(lambda *parts: np.concatenate(parts), one, two), whole)


def test_every_image_once_an_epoch(model):
    """The first pixels tell images apart: those of an epoch are all different."""
    data = load(model, max_tokens=16, augmentation="none")
    seen = [row.tobytes() for inputs, _ in data.train.as_numpy_iterator() for row in inputs["patches"]]
    assert len(seen) == len(set(seen)) == 20


def test_transform_gives_what_the_batches_hold(model, tmp_path):
    for number, image in enumerate(images(12)):
        folder = tmp_path / "ab"[number % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:02}.png")
    data = keras_vit.data.naflex(tmp_path, model, max_tokens=16, tokens_per_batch=32, test_fraction=0.5)
    found, _ = zip(*data.test.as_numpy_iterator())
    found = {key: np.concatenate([batch[key] for batch in found]) for key in found[0]}
    assert data.class_names == ("a", "b")
    by_name = {"ab"[i % 2]: [image for j, image in enumerate(images(12)) if j % 2 == i % 2] for i in range(2)}
    transform = keras_vit.data.naflex_transform(model, max_tokens=16)
    every = transform(by_name["a"] + by_name["b"])
    for row in range(len(found["grid"])):  # Pillow rounds to whole numbers
        distance = np.abs(every["patches"] - found["patches"][row]).max(axis=(1, 2))
        assert distance.min() < 2.0
        twin = distance.argmin()
        np.testing.assert_array_equal(every["grid"][twin], found["grid"][row])
        np.testing.assert_array_equal(every["mask"][twin], found["mask"][row])
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(data.train, validation_data=data.validation, verbose=0)


def test_bad_input(model):
    fixed = keras_vit.VisionTransformer((32, 32, 3), 8, 16, 1, 2, 32, num_classes=2)
    with pytest.raises(ValueError, match="naflex=True"):
        load(fixed)
    with pytest.raises(ValueError, match="naflex=True"):
        keras_vit.data.naflex_transform(fixed)
    for more, message in (
        (dict(augmentation="deit"), "neither crop nor mix"),
        (dict(tokens_per_batch=8), "hold at least one image"),
        (dict(tokens_per_batch=4096), "at most 176"),
        (dict(max_tokens=0), "max_tokens"),
        (dict(seed=-1), "seed"),
        (dict(seed=None), "`seed` must be an int"),
        (dict(shard=(2, 2)), "shard"),
        (dict(shard=2), "`shard` must be .index, count."),
    ):
        with pytest.raises(ValueError, match=message):
            load(model, **more)
    with pytest.raises(ValueError, match="Pass a single image as"):
        keras_vit.data.naflex_transform(model)(images()[0])
