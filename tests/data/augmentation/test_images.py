import numpy as np
import tensorflow as tf

from keras_vit.data.augmentation import images, pixels

IMAGE = tf.constant(np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype("uint8"))


def drawn(change, count, image=IMAGE):
    run = tf.function(lambda seed: change(image, seed))
    return [run(tf.constant([7, i], tf.int64)).numpy() for i in range(count)]


def test_flip_mirrors_half_of_the_images():
    shown = drawn(images.flip(), 200)
    mirrored = [np.array_equal(image, IMAGE[:, ::-1]) for image in shown]
    assert all(m or np.array_equal(image, IMAGE) for m, image in zip(mirrored, shown))
    assert 0.35 < np.mean(mirrored) < 0.65


def test_three_augment_is_one_of_three():
    gray, solarized = np.repeat(pixels.gray(IMAGE), 3, axis=-1), pixels.solarize(IMAGE, 128.0).numpy()
    shown = drawn(images.three_augment(), 90)
    kinds = [0 if np.array_equal(i, gray) else 1 if np.array_equal(i, solarized) else 2 for i in shown]
    assert min(np.bincount(kinds, minlength=3)) > 15
    blurred = [image.astype(float).std() for image, kind in zip(shown, kinds) if kind == 2]
    assert max(blurred) < IMAGE.numpy().std() + 1 and min(blurred) < 0.5 * IMAGE.numpy().std()


def test_color_jitter_stays_within_its_factors():
    flat = tf.fill((8, 8, 3), tf.constant(100, tf.uint8))
    levels = np.array([image[0, 0, 0] for image in drawn(images.color_jitter(brightness=0.3), 100, flat)])
    assert 69 <= levels.min() < 78 and 122 < levels.max() <= 130
    np.testing.assert_array_equal(drawn(images.color_jitter(), 1)[0], IMAGE)


def test_random_erasing_erases_one_rectangle_of_the_published_sizes():
    black = tf.zeros((40, 40, 3), tf.uint8)
    areas, proportions = [], []
    shown = drawn(images.random_erasing(0.5), 200, black)
    for image in shown:
        rows, columns = np.nonzero(image.any(axis=-1))
        if len(rows):
            height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert len(rows) > 0.9 * height * width  # noise, a few of whose pixels are black
            areas.append(height * width / 1600)
            proportions.append(height / width)
    assert 0.35 < len(areas) / 200 < 0.65
    assert 0.012 < min(areas) < 0.06 and 0.25 < max(areas) < 0.37
    assert 0.25 < min(proportions) < 0.6 and 1.7 < max(proportions) < 3.8
