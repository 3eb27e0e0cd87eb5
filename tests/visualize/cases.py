"""What the tests of the explanations share."""

import json
import pathlib

import keras
import numpy as np

import keras_vit

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
FOUND = np.load(GOLDEN / "visualize.npz")


def golden_model(name):
    """Returns the model of one of timm's fixtures and its images."""
    heads = json.loads((GOLDEN / "timm" / name / "ours.json").read_text())["num_heads"]
    model = keras_vit.from_pretrained(GOLDEN / "timm" / name, num_heads=heads, include_preprocessing=False)
    return model, np.load(GOLDEN / "timm" / name / "expected.npz")["images"]


def nested(vit):
    """Returns a Sequential of the user's own around a model without a head, whose softmax is part of a dense layer."""
    layers = [keras.layers.RandomFlip(), keras.layers.Rescaling(0.5), vit, keras.layers.Dense(4, activation="softmax")]
    model = keras.Sequential([keras.Input(vit.input_shape[1:]), *layers])
    model.layers[-1].kernel.assign(np.random.default_rng(1).standard_normal(model.layers[-1].kernel.shape))
    return model
