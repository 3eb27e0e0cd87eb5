import numpy as np
import pytest
import tensorflow as tf

from keras_vit.data import augmentation

SEEDS = tf.constant([[0, i] for i in range(200)], tf.int64)


def dot(row, column, size=9):
    """One bright pixel on black, as a batch of 200."""
    image = np.zeros((size, size, 3), "float32")
    image[row, column] = 255.0
    return tf.constant(np.repeat(image[None], 200, axis=0))


def centre_of_light(images):
    light = images.numpy()[..., 0]
    rows, columns = np.mgrid[: light.shape[1], : light.shape[2]]
    total = light.sum(axis=(1, 2))
    return (light * rows).sum(axis=(1, 2)) / total, (light * columns).sum(axis=(1, 2)) / total


def test_nothing_asked_for_changes_nothing():
    images = tf.random.stateless_uniform((200, 7, 6, 3), (0, 0), 0.0, 255.0)
    changed, _ = augmentation.affine()(images, None, SEEDS)
    np.testing.assert_allclose(changed, images, atol=1e-3)


def test_shift_moves_by_its_share_at_most():
    changed, _ = augmentation.affine(shift=0.25)(dot(4, 4, size=8 + 1), None, SEEDS)
    rows, columns = centre_of_light(changed)
    for offset in (rows - 4, columns - 4):
        assert np.abs(offset).max() <= 0.25 * 9 + 1e-3
        assert offset.min() < -1.8 and offset.max() > 1.8
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.2  # the axes are drawn apart


def test_rotation_turns_about_the_centre_within_its_angle():
    changed, _ = augmentation.affine(rotation=30.0)(dot(4, 8), None, SEEDS)
    rows, columns = centre_of_light(changed)
    angles = np.degrees(np.arctan2(rows - 4, columns - 4))
    assert np.abs(angles).max() <= 33.0 and angles.min() < -25.0 and angles.max() > 25.0
    np.testing.assert_allclose(np.hypot(rows - 4, columns - 4), 4.0, atol=0.5)
    unmoved, _ = augmentation.affine(rotation=30.0)(dot(4, 4), None, SEEDS)
    np.testing.assert_allclose(np.stack(centre_of_light(unmoved)), 4.0, atol=1e-3)


def test_scale_resizes_about_the_centre():
    changed, _ = augmentation.affine(scale=0.5)(dot(4, 7), None, SEEDS)
    light = changed.numpy().sum(axis=(1, 2, 3)) > 0
    rows, columns = (part[light] for part in centre_of_light(changed))
    np.testing.assert_allclose(rows, 4.0, atol=1e-3)
    assert columns.min() < 6.2 and columns.max() > 7.5


def test_shear_slants_rows():
    changed, _ = augmentation.affine(shear=0.5)(dot(8, 4), None, SEEDS)
    rows, columns = centre_of_light(changed)
    np.testing.assert_allclose(rows, 8.0, atol=0.3)
    assert columns.min() < 2.8 and columns.max() > 5.2


@pytest.mark.parametrize("name", augmentation.AUGMENTATIONS)
def test_an_image_depends_on_its_own_seed_alone(name):
    images = tf.random.stateless_uniform((200, 8, 8, 3), (0, 0), 0.0, 255.0)
    for change in augmentation.AUGMENTATIONS[name]:
        together, _ = change(images, None, SEEDS)
        alone, _ = change(images[7:8], None, SEEDS[7:8])
        np.testing.assert_array_equal(together[7:8], alone)
        assert np.abs(together[0] - change(images[:1], None, SEEDS[1:2])[0][0]).max() > 1.0
