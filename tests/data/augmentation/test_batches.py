import numpy as np
import pytest
import tensorflow as tf

from keras_vit.data.augmentation import batches

SEEDS = tf.constant([[0, i] for i in range(200)], tf.int64)


def dot(row, column, size=9):
    """One bright pixel on black, as a batch of 200."""
    image = np.zeros((size, size, 3), "float32")
    image[row, column] = 255.0
    return tf.constant(np.repeat(image[None], 200, axis=0))


def center_of_light(images):
    light = images.numpy()[..., 0]
    rows, columns = np.mgrid[: light.shape[1], : light.shape[2]]
    total = light.sum(axis=(1, 2))
    return (light * rows).sum(axis=(1, 2)) / total, (light * columns).sum(axis=(1, 2)) / total


def test_nothing_asked_for_changes_nothing():
    images = tf.random.stateless_uniform((200, 7, 6, 3), (0, 0), 0.0, 255.0)
    changed, _ = batches.affine()(images, None, SEEDS)
    np.testing.assert_allclose(changed, images, atol=1e-3)


def test_shift_moves_by_its_share_at_most():
    changed, _ = batches.affine(shift=0.25)(dot(4, 4, size=8 + 1), None, SEEDS)
    rows, columns = center_of_light(changed)
    for offset in (rows - 4, columns - 4):
        assert np.abs(offset).max() <= 0.25 * 9 + 1e-3
        assert offset.min() < -1.8 and offset.max() > 1.8
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.2  # the axes are drawn apart


def test_a_window_of_the_padded_image_is_cut_out_anywhere():
    changed, _ = batches.pad_and_crop(2)(dot(4, 4), None, SEEDS)
    assert set(np.unique(changed)) == {0.0, 255.0} and np.all((changed.numpy() > 0).sum(axis=(1, 2, 3)) == 3)  # one pixel
    rows, columns = center_of_light(changed)
    assert set(rows) == set(columns) == {2.0, 3.0, 4.0, 5.0, 6.0}
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.2  # the axes are drawn apart


def test_cutout_covers_a_square_about_any_pixel():
    size, side = 8, 4
    changed, _ = batches.cutout(side / size)(tf.fill((200, size, size, 3), 9.0), None, SEEDS)
    black = changed.numpy()[..., 0] == 0.0
    assert np.all(changed.numpy()[~black] == 9.0)
    rows, columns = black.any(axis=2), black.any(axis=1)
    np.testing.assert_array_equal(black, rows[:, :, None] & columns[:, None])
    # Centers are drawn from the image's pixels: squares of 4 begin at -2 to 5, and what lies outside is cut off.
    spans = {tuple(np.flatnonzero(row)[[0, -1]]) for row in (*rows, *columns)}
    assert spans == {(max(low, 0), min(low + 3, size - 1)) for low in range(-2, 6)}


def test_rotation_turns_about_the_center_within_its_angle():
    changed, _ = batches.affine(rotation=30.0)(dot(4, 8), None, SEEDS)
    rows, columns = center_of_light(changed)
    angles = np.degrees(np.arctan2(rows - 4, columns - 4))
    assert np.abs(angles).max() <= 33.0 and angles.min() < -25.0 and angles.max() > 25.0
    np.testing.assert_allclose(np.hypot(rows - 4, columns - 4), 4.0, atol=0.5)
    unmoved, _ = batches.affine(rotation=30.0)(dot(4, 4), None, SEEDS)
    np.testing.assert_allclose(np.stack(center_of_light(unmoved)), 4.0, atol=1e-3)


def test_scale_resizes_about_the_center():
    changed, _ = batches.affine(scale=0.5)(dot(4, 7), None, SEEDS)
    light = changed.numpy().sum(axis=(1, 2, 3)) > 0
    rows, columns = (part[light] for part in center_of_light(changed))
    np.testing.assert_allclose(rows, 4.0, atol=1e-3)
    assert columns.min() < 6.2 and columns.max() > 7.5


def test_shear_slants_rows():
    changed, _ = batches.affine(shear=0.5)(dot(8, 4), None, SEEDS)
    rows, columns = center_of_light(changed)
    np.testing.assert_allclose(rows, 8.0, atol=0.3)
    assert columns.min() < 2.8 and columns.max() > 5.2


def test_an_affine_image_depends_on_its_own_seed_alone():
    images = tf.random.stateless_uniform((200, 8, 8, 3), (0, 0), 0.0, 255.0)
    change = batches.affine(rotation=10.0, scale=0.1, shift=0.08, shear=0.1)
    together, _ = change(images, None, SEEDS)
    alone, _ = change(images[7:8], None, SEEDS[7:8])
    np.testing.assert_array_equal(together[7:8], alone)
    assert np.abs(together[0] - change(images[:1], None, SEEDS[1:2])[0][0]).max() > 1.0


def noise(size=8):
    return tf.random.stateless_uniform((200, size, size, 3), (0, 0), 0.0, 255.0)


def test_mirror_mirrors_half_of_the_images():
    images = noise()
    changed, _ = batches.mirror()(images, None, SEEDS)
    mirrored = np.all(changed == images[:, :, ::-1], axis=(1, 2, 3))
    assert np.all(mirrored | np.all(changed == images, axis=(1, 2, 3)))
    assert 0.35 < mirrored.mean() < 0.65


def test_a_mirrored_image_depends_on_its_own_seed_alone():
    images = noise()
    together, _ = batches.mirror()(images, None, SEEDS)
    alone, _ = batches.mirror()(images[7:8], None, SEEDS[7:8])
    np.testing.assert_array_equal(together[7:8], alone)


def constants(count=6, size=8):
    """Images of which each is its number, and their labels."""
    return tf.range(count, dtype=tf.float32)[:, None, None, None] * tf.ones((1, size, size, 3)), tf.eye(count)


def test_mixup_mixes_each_image_with_its_neighbors_in_one_ratio():
    ratios = []
    for seeds in [SEEDS[i : i + 6] for i in range(0, 190)]:
        images, labels = batches.mixup(0.2)(*constants(), seeds)
        ratio = labels[1, 1].numpy()
        np.testing.assert_allclose(labels, ratio * np.eye(6) + (1 - ratio) * np.roll(np.eye(6), 1, axis=0), atol=1e-6)
        np.testing.assert_allclose(images[3], np.full((8, 8, 3), 3 * ratio + 2 * (1 - ratio)), atol=1e-5)
        ratios.append(ratio)
    ratios = np.array(ratios)
    assert ratios.min() >= 0.5 and ratios.max() <= 1.0
    draws = np.random.default_rng(0).beta(0.2, 0.2, 100_000)
    np.testing.assert_allclose(np.quantile(ratios, [0.2, 0.5]), np.quantile(np.maximum(draws, 1 - draws), [0.2, 0.5]), atol=0.08)


def test_cutmix_keeps_labels_and_areas_together():
    areas = []
    for seeds in [SEEDS[i : i + 6] for i in range(0, 190)]:
        images, labels = batches.cutmix(1.0)(*constants(size=20), seeds)
        assert set(np.unique(images[1])) <= {1.0, 4.0}  # its own and its partner's, from the batch in reverse
        kept = (images[1].numpy() == 1.0).mean()
        np.testing.assert_allclose(labels[1], [0, kept, 0, 0, 1 - kept, 0], atol=1e-6)
        rows, columns = np.nonzero(images[1, ..., 0].numpy() == 4.0)
        assert len(rows) == 0 or len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)  # one rectangle
        areas.append(kept)
    assert np.min(areas) < 0.3 and np.max(areas) > 0.9


def test_mixup_or_cutmix_switches():
    kinds = []
    for seeds in [SEEDS[i : i + 6] for i in range(0, 100)]:
        images, labels = batches.mixup_or_cutmix(0.8, 1.0, 0.3)(*constants(size=16), seeds)
        np.testing.assert_allclose(labels.numpy().sum(axis=-1), 1.0, atol=1e-6)
        kinds.append(set(np.unique(images[1])) <= {1.0, 4.0})
    assert 0.15 < np.mean(kinds) < 0.5


def test_wrong_alphas_are_refused():
    with pytest.raises(ValueError, match="One alpha must be greater than 0"):
        batches.mixup_or_cutmix(0.0, 0.0)
