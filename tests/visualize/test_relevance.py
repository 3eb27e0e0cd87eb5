import keras
import numpy as np
import pytest
from helpers import VARIANTS, all_or, assert_close, random_images, requires_tensorflow, tiny
from visualize.cases import FOUND, golden_model, nested

from keras_vit.visualize import relevance


@pytest.mark.parametrize("name", all_or("plain", "gap")(["plain", "non_square_image", "deit3", "qk_norm", "gap"]))
def test_as_the_reference(name):
    model, images = golden_model(name)
    expected, (rows, columns) = FOUND[f"{name}_relevance"], model.grid_size
    patches = rows * columns
    read = expected[:, -patches:].mean(axis=1) - 1.0 / patches if name == "gap" else expected[:, 0]
    found = relevance(model, images, target=int(FOUND["target"]), batch_size=1)
    assert_close(found, read[:, -patches:].reshape(2, rows, columns), 2e-5)


@requires_tensorflow  # the choice is Python's
def test_the_class_is_the_predicted_one_a_number_or_a_name():
    model = tiny(num_classes=3)
    images = random_images(model)
    best = np.argmax(model.predict(images, verbose=0), axis=-1)
    np.testing.assert_allclose(relevance(model, images), relevance(model, images, target=best), rtol=1e-5)
    each = [relevance(model, images, target=i) for i in range(3)]
    assert np.abs(each[0] - each[1]).max() > 1e-3 * each[0].max()
    np.testing.assert_allclose(relevance(model, images, target=[2, 0], batch_size=1), np.stack([each[2][0], each[0][1]]), rtol=1e-4)
    model.class_names = ("ant", "bee", "cow")
    np.testing.assert_allclose(relevance(model, images, target=("cow", "ant")), np.stack([each[2][0], each[0][1]]), rtol=1e-4)
    for target, message in (
        (3, "from 0 to 2, or its name. Received: target=3"),
        ("dog", "target='dog'. Classes are 'ant', 'bee', 'cow'"),
        ([0], "one for each of the 2 images. Received: 1"),
    ):
        with pytest.raises(ValueError, match=message):
            relevance(model, images, target=target)


@requires_tensorflow  # the search is Keras's
def test_of_a_model_of_the_user_s_own():
    """The score is what stands before a softmax, wherever that is."""
    vit = tiny(include_top=False)
    images, outer = random_images(vit), nested(vit)
    linear = keras.layers.Dense(4)
    logits = keras.Sequential([keras.Input((16, 24, 3)), keras.layers.Rescaling(0.5), vit, linear])
    linear.set_weights(outer.layers[-1].get_weights())
    expected = relevance(logits, images, target=1)
    assert expected.max() > 0
    assert_close(relevance(outer, images, target=1), expected, 1e-5)
    assert_close(relevance(keras.Sequential([logits, keras.layers.Softmax()]), images, target=1), expected, 1e-5)
    assert_close(relevance(keras.Sequential([outer]), images, target=1), expected, 1e-5)
    classifier = tiny()
    around = keras.Sequential([keras.layers.Rescaling(0.5), classifier])
    assert_close(relevance(around, images, target=1), relevance(classifier, images * 0.5, target=1), 1e-5)


def test_of_every_kind_of_model():
    for name in all_or("map")(["map", "token_gap", "distilled", "post_norm", "mae", "resnet_stem", "pre_logits", "random"]):
        model = tiny(**VARIANTS[name])
        found = relevance(model, random_images(model), target=0)
        assert found.shape == (2, 2, 3) and found.min() >= 0 and found.max() > 0, name


@requires_tensorflow
def test_in_half_precision():
    plain, half = tiny(), tiny(dtype="mixed_bfloat16")
    images = random_images(plain)
    assert_close(relevance(half, images, target=0), relevance(plain, images, target=0), 0.2)


def test_without_a_head():
    for model in (tiny(include_top=False), keras.Sequential([tiny(include_top=False)])):
        with pytest.raises(ValueError, match="needs a model with a head.*use `attention_rollout`"):
            relevance(model, np.ones((1, 16, 24, 3)))
    with pytest.raises(ValueError, match="must be a keras_vit.VisionTransformer"):
        relevance(keras.Sequential([keras.layers.Flatten()]), np.ones((1, 16, 24, 3)))
