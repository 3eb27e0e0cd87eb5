"""The zoo's functions without weights."""

import inspect

import keras
import numpy as np
import pytest
from helpers import TINY, assert_close, random_images

import keras_vit
from keras_vit import zoo
from keras_vit.presets import PRESETS

SMALL = {"input_shape": (32, 32, 3), "hidden_dim": 16, "num_layers": 1, "num_heads": 2, "mlp_dim": 8}


@pytest.mark.parametrize("name", PRESETS)
def test_a_function_for_each_preset(name):
    function = getattr(keras_vit, name)
    assert name in keras_vit.__all__ and function.__name__ == name and function.__doc__.startswith(f"Returns {name}")
    parameters = inspect.signature(function).parameters
    assert set(parameters) >= {"weights", *inspect.signature(keras_vit.VisionTransformer).parameters}
    assert all(parameters[key].default == value for key, value in PRESETS[name].items())


def test_every_argument_can_be_overridden():
    model = keras_vit.ViTB16(**SMALL, patch_size=8, pooling="gap", class_token=False, num_classes=3, name="mine")
    config = model.get_config()
    assert model.output_shape == (None, 3) and model.name == "mine"
    assert all(config[key] == value for key, value in SMALL.items())


@pytest.mark.parametrize(
    "name, overrides, output",
    [
        ("ViTTi16", {}, 1000),
        ("ViTTi16", {"num_classes": 7}, 7),
        ("ViTTi16", {"include_top": False}, 16),
        ("DINOv2S14", {"input_shape": (28, 28, 3)}, 16),
        ("DINOv2S14", {"input_shape": (28, 28, 3), "num_classes": 7}, 7),
        ("SigLIPB16", {"num_classes": 7, "classifier_activation": "sigmoid"}, 7),
        ("DeiTTi16Distilled", {"num_classes": 7}, 7),
    ],
)
def test_heads(name, overrides, output):
    model = getattr(keras_vit, name)(**{**SMALL, **overrides})
    images = random_images(model)
    assert tuple(model(images).shape) == (2, output) and model.name == name.lower()


def test_example_of_the_readme():
    """Build, compile, fit: the line that everything serves."""
    model = keras_vit.ViTB16(**{**TINY, "num_classes": 3})
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=keras.backend.backend() == "jax")
    assert np.isfinite(model.fit(random_images(model), np.array([0, 1]), verbose=0).history["loss"]).all()


def test_create_by_name():
    keras.utils.set_random_seed(1)
    created = zoo.create("ViTB16", **SMALL, patch_size=8, include_top=False)
    keras.utils.set_random_seed(1)
    model = keras_vit.ViTB16(**SMALL, patch_size=8, include_top=False)
    images = random_images(model)
    assert_close(created(images), model(images), 0)
    with pytest.raises(ValueError, match="ViTB16"):
        zoo.create("VitB16")


def test_positional_arguments_as_in_keras_applications():
    with pytest.raises(ValueError, match="takes keyword arguments only. Received: True, 'imagenet'. Write ViTTi16"):
        keras_vit.ViTTi16(True, "imagenet")


def test_docstrings_give_the_defaults_of_the_preset():
    documented = ("weights", "num_classes", "input_shape", "include_top", "pooling", "classifier_activation", "include_preprocessing")
    for name in PRESETS:
        text = getattr(keras_vit, name).__doc__
        assert all(f"        {argument}: " in text for argument in (*documented, "dropout_rate", "drop_path_rate"))
        assert f"Defaults to {PRESETS[name].get('input_shape', (224, 224, 3))}." in text


@pytest.mark.parametrize("overrides", [{"class": 3}, {"drop_rate": 0.1}, {"image_size": 224}])
def test_unknown_arguments(overrides):
    with pytest.raises((TypeError, ValueError), match=next(iter(overrides))):
        keras_vit.ViTTi16(**overrides)
