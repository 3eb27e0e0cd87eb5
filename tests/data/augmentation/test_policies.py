import numpy as np
import pytest
import tensorflow as tf

from keras_vit.data import AUGMENTATIONS, Augmentation, load

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 40, 48, 3)).astype("uint8")


SAME_CODE = {"light2", "medium1", "medium2", "strong1"}  # rows that differ from strong2 in numbers only


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name not in SAME_CODE])
def test_every_policy_runs_repeats_itself_and_goes_on_anywhere(name):
    data = load((IMAGES, np.arange(12) % 2), batch_size=2, augmentation=name, seed=5, image_size=32)
    first = list(data.train_from(0).take(6).as_numpy_iterator())
    for (images, labels), (again, labels_again) in zip(first[3:], data.train_from(3).take(3).as_numpy_iterator()):
        np.testing.assert_array_equal(images, again)
        np.testing.assert_array_equal(labels, labels_again)
    images, labels = first[0]
    assert images.shape == (2, 32, 32, 3) and images.dtype == "float32" and len(labels) == 2
    assert images.min() >= 0.0 and images.max() <= 255.0
    if data.train.element_spec[1].shape.rank == 1:
        assert labels.dtype == "int64" and set(labels) <= {0, 1}
    else:
        assert labels.shape == (2, 2) and data.test.element_spec[1].shape.rank == 2
        np.testing.assert_allclose(labels.sum(axis=-1), 1.0, atol=1e-6)


def test_every_policy_names_its_source():
    assert all(policy.source for policy in AUGMENTATIONS.values())
    assert {"none", "digits", "inception", "light1", "strong2", "deit", "deit3", "better_plain", "finetune"} <= set(AUGMENTATIONS)


def test_an_augmentation_of_ones_own():
    policy = Augmentation("mine", image=(lambda image, seed: 255 - image,))
    plain, mine = (next(iter(load((IMAGES, np.arange(12) % 2), 4, name).train))[0] for name in ("none", policy))
    np.testing.assert_array_equal(plain, 255.0 - mine)


def test_a_keras_layer_or_a_function_is_taken_and_its_price_is_said(caplog):
    import keras

    for augmentation in (keras.layers.RandomBrightness((-0.5, -0.4)), lambda images: images * 0.5):
        data = load((IMAGES, np.arange(12) % 2), 4, augmentation)
        assert tf.reduce_max(next(iter(data.train))[0]) < 160.0
        assert "a resumed run will not see the same images" in caplog.text
        caplog.clear()
