import warnings

import keras
import numpy as np
import pytest
from helpers import random_images, requires_tensorflow, tiny

WRONG = {
    (2, 16, 24, 1): "gray. Repeat the channel",
    (2, 16, 24, 4): "four channels, such as RGBA",
    (2, 3, 16, 24): "channels first",
    (2, 16, 24): "no channels",
    (16, 24, 3): r"images\[None\]",
    (2, 24, 24, 3): "evaluation_transform",
    (2,): "images of shape",
}
LABELS = np.array([0, 1])
WAYS = {
    "fit": lambda model, x: model.fit(x, LABELS[: len(x)], verbose=0),
    "evaluate": lambda model, x: model.evaluate(x, LABELS[: len(x)], verbose=0),
    "predict": lambda model, x: model.predict(x, verbose=0),
    "train_on_batch": lambda model, x: model.train_on_batch(x, LABELS[: len(x)]),
    "test_on_batch": lambda model, x: model.test_on_batch(x=x, y=LABELS[: len(x)]),
    "predict_on_batch": lambda model, x: model.predict_on_batch(x),
}


@pytest.fixture(scope="module")
def model():
    """Returns a model that every function was traced for, with images of the right shape."""
    model = tiny()
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    for call in WAYS.values():
        call(model, random_images(model))
    return model


@pytest.mark.parametrize("way", WAYS)
def test_images_of_another_shape_are_refused(model, way):
    for shape, hint in WRONG.items():
        with pytest.raises(ValueError, match=rf"takes images of shape \(any, 16, 24, 3\). Received: .*{hint}"):
            WAYS[way](model, np.zeros(shape, "float32"))
    WAYS[way](model, random_images(model))
    WAYS[way](model, random_images(model).astype("uint8"))


def test_a_call_refuses_them_too(model):
    for shape in WRONG:
        with pytest.raises(ValueError):
            model(np.zeros(shape, "float32"))


@requires_tensorflow
def test_datasets_are_refused_by_what_they_say(model):
    import tensorflow as tf

    images = np.zeros((2, 16, 24, 1), "float32")
    for data in (tf.data.Dataset.from_tensor_slices((images, LABELS)).batch(2), tf.data.Dataset.from_tensors((images, LABELS))):
        with pytest.raises(ValueError, match="gray"):
            model.fit(data, verbose=0)
        with pytest.raises(ValueError, match="gray"):
            model.evaluate(data, verbose=0)


def test_an_open_size_takes_any():
    model = tiny(input_shape=(None, None, 3))
    assert model.predict(np.zeros((1, 8, 32, 3), "uint8"), verbose=0).shape == (1, 5)
    with pytest.raises(ValueError, match="gray"):
        model.predict(np.zeros((1, 8, 32, 1), "uint8"), verbose=0)


@pytest.mark.parametrize("scale, message", [(1 / 255, "multiply them by 255"), (257, "16-bit images by 257"), (np.nan, "not finite")])
def test_other_pixels_are_warned_of_once(scale, message):
    model = tiny()
    images = random_images(model) * scale
    with pytest.warns(UserWarning, match=f"takes pixels from 0 to 255. Received: .*{message}"):
        model.predict(images, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(images, verbose=0)
        tiny(include_preprocessing=False).predict(images, verbose=0)
        tiny().predict(random_images(model), verbose=0)


class Batches(keras.utils.PyDataset):
    def __init__(self, images):
        super().__init__()
        self.images = images

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.images, LABELS


def generator(images):
    yield images, LABELS


def dataset(images):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensors((images, LABELS))


@pytest.mark.parametrize("data", [Batches, generator, dataset])
def test_the_first_batch_is_checked(model, data):
    for shape, hint in ((2, 3, 16, 24), "channels first"), ((2, 16, 24, 1), "gray"), ((2, 24, 24, 3), "evaluation_transform"):
        for way in (model.fit, model.evaluate, model.predict):
            with pytest.raises(ValueError, match=f"The model takes images of shape .*{hint}"):
                way(data(np.zeros(shape, "float32")), verbose=0)
    images = random_images(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*takes pixels")
        assert model.predict(data(images), verbose=0).shape == (2, 5)
        assert np.isfinite(model.evaluate(data(images), verbose=0))
        model.fit(data(images), validation_data=data(images), verbose=0)
    model._warned_of_pixels = False
    with pytest.warns(UserWarning, match="takes pixels from 0 to 255. Received: .*multiply them by 255"):
        model.predict(data((images / 255.0).astype("float32")), verbose=0)
    model._warned_of_pixels = False
