import numpy as np
import pytest
from helpers import randomize

import keras_vit
from keras_vit.training import predict_dataset

TINY = dict(input_shape=(8, 8, 3), patch_size=4, hidden_dim=8, num_layers=1, num_heads=2, mlp_dim=16, num_classes=3)


def batches(count=50, size=8):
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(0, 255, (count, 8, 8, 3)).astype("float32"), np.eye(3)[rng.integers(0, 3, count)]
    return [(images[i : i + size], labels[i : i + size]) for i in range(0, count, size)], images, labels.argmax(axis=-1)


@pytest.mark.parametrize("activation", ["softmax", None])
def test_predictions_and_the_surest_mistakes(activation):
    model = randomize(keras_vit.VisionTransformer(**TINY, classifier_activation=activation))
    parts, images, labels = batches()
    found = predict_dataset(model, parts, most_shown=5)
    expected = np.asarray(model.predict(images, verbose=0))
    expected = expected if activation else np.exp(expected) / np.exp(expected).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    np.testing.assert_array_equal(found.labels, labels)
    wrong = expected.argmax(axis=-1) != labels
    surest = np.argsort(-np.where(wrong, expected.max(axis=-1), 0))[:5]
    assert wrong.sum() > 5 and set(found.shown) == set(surest)
    for number, image in found.shown.items():
        np.testing.assert_array_equal(image, images[number])
    assert found.images_per_second > 0


def test_without_mistakes_the_least_certain():
    model = randomize(keras_vit.VisionTransformer(**TINY))
    parts, images, _ = batches()
    probabilities = model.predict(images, verbose=0)
    right = np.eye(3)[probabilities.argmax(axis=-1)]
    parts = [(part, right[8 * i : 8 * i + len(part)]) for i, (part, _) in enumerate(parts)]
    found = predict_dataset(model, parts, most_shown=4)
    assert set(found.shown) == set(np.argsort(probabilities.max(axis=-1))[:4])
    assert predict_dataset(model, parts[:1]).images_per_second is None


def test_batches_of_tf_data_on_every_backend():
    data = keras_vit.data.load("digits", batch_size=128)
    model = randomize(keras_vit.VisionTransformer(**TINY | {"input_shape": data.image_shape, "num_classes": 10}))
    assert predict_dataset(model, data.test).probabilities.shape == (data.sizes["test"], 10)
