"""Text embeddings become a head, with the scale and bias of a checkpoint."""

import pathlib

import keras
import numpy as np
import pytest
from helpers import assert_close, random_inputs, randomize, to_numpy
from safetensors.numpy import load_file

import keras_vit

NAMES = ["a cat", "a dog", "a bird"]


def tower(**more):
    return randomize(keras_vit.VisionTransformer((16, 16, 3), 8, 16, 1, 2, 32, **{"include_top": False, **more}))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def texts(*shape):
    return np.random.default_rng(1).normal(size=shape or (3, 16))


def test_sigmoid_of_scaled_cosines(tmp_path):
    (images,), path = random_inputs((2, 16, 16, 3)), tmp_path / "texts.npz"
    np.savez(path, embeddings=texts(), class_names=NAMES)
    np.savez(tmp_path / "checkpoint.npz", **{"params/t": np.float32([1.5]), "params/b": np.float32([-2.0])})
    model = tower(pooling="map", class_token=False, prefix_positions=False)
    classifier = keras_vit.zero_shot(model, path, checkpoint=tmp_path / "checkpoint.npz")
    cosines = unit(to_numpy(model(images))) @ unit(texts()).T
    assert_close(classifier(images), 1 / (1 + np.exp(-(np.exp(1.5) * cosines - 2.0))))
    classifier.save(tmp_path / "classifier.keras")
    loaded = keras.saving.load_model(tmp_path / "classifier.keras")
    assert loaded.class_names == tuple(NAMES) and loaded.config.unit_feature
    assert_close(loaded.predict(images, verbose=0), classifier(images))


def test_scores_of_a_file_of_transformers():
    folder = pathlib.Path(__file__).parent / "golden" / "naflex" / "transformers_Siglip2Model"
    golden, file = np.load(folder / "expected.npz"), load_file(folder / "model.safetensors")
    model = keras_vit.from_pretrained(folder, include_preprocessing=False)
    classifier = keras_vit.zero_shot(model, texts(), NAMES, checkpoint=folder)
    cosines = unit(golden["pooled"]) @ unit(texts()).T
    logits = np.exp(file["logit_scale"]) * cosines + file["logit_bias"]
    assert_close(classifier({key: golden[key] for key in ("patches", "grid", "mask")}), 1 / (1 + np.exp(-logits)))


def test_softmax_with_a_projection():
    (images,), embeddings = random_inputs((2, 16, 16, 3)), texts(3, 4, 12)
    model, projection = tower(), texts(16, 12)
    wanted = unit(to_numpy(model(images)) @ projection) @ unit(unit(embeddings).mean(axis=1)).T
    wanted = np.exp(np.exp(2.0) * wanted)
    wanted /= wanted.sum(axis=-1, keepdims=True)
    assert_close(keras_vit.zero_shot(model, embeddings, NAMES, logit_scale=2.0, projection=projection)(images), wanted)
    # A head that is the projection, as in timm's CLIP.
    head = tower(include_top=True, num_classes=3, classifier_activation=None)
    features = unit(to_numpy(head(images)))
    for classes in (3, 4):  # as many as the projection has outputs, and more
        wanted = np.exp(np.exp(2.0) * features @ unit(texts(classes, 3)).T)
        assert_close(keras_vit.zero_shot(head, texts(classes, 3), logit_scale=2.0)(images), wanted / wanted.sum(axis=-1, keepdims=True))


def test_bad_input(tmp_path):
    model, path = tower(), tmp_path / "texts.npz"
    np.savez(path, vectors=texts())
    cases = [
        (model, texts(), {}, "`logit_scale` is needed"),
        (model, texts(3, 8), dict(logit_scale=1.0), "one width. Received: 16 and 8"),
        (model, texts()[0], dict(logit_scale=1.0), "Received: shape"),
        (model, 0 * texts(), dict(logit_scale=1.0), "not zero"),
        (model, texts(), dict(logit_scale=1.0, class_names=NAMES[:2]), "2 names, 3 text embeddings"),
        (model, path, dict(logit_scale=1.0), "array 'embeddings'. Received: vectors"),
        (tower(pooling=None), texts(), dict(logit_scale=1.0), "pooling=None"),
        (keras.Sequential([model]), texts(), dict(logit_scale=1.0), "a Sequential"),
        (model, texts(), dict(logit_scale=1.0, projection=texts(8, 16)), "`projection`"),
        (model, texts(), dict(logit_scale=1.0, projection=np.full((16, 16), np.nan)), "finite matrix"),
        (model, NAMES, dict(logit_scale=1.0), "must be an array of numbers, or the path of an npz file. Received: a list"),
        (model, tmp_path / "missing.npz", dict(logit_scale=1.0), "no such file .*texts.npz"),
        (model, texts(), dict(logit_scale=100.0), "logarithm .* pass 4.6052"),
        (model, texts(), dict(logit_scale=1.0, logit_bias=float("nan")), "`logit_bias` must be a number"),
    ]
    for model, given, more, message in cases:
        with pytest.raises(ValueError, match=message):
            keras_vit.zero_shot(model, given, **more)
