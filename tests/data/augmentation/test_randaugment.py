import numpy as np
import pytest
import tensorflow as tf

from keras_vit.data.augmentation import pixels
from keras_vit.data.augmentation.randaugment import BIG_VISION, TIMM, rand_augment

IMAGE = tf.constant(np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype("uint8"))

# Written down from big_vision's `level_to_arg` (pp/autoaugment.py) and timm's `LEVEL_TO_ARG`, for magnitudes.
ARGUMENTS = [
    (BIG_VISION, "rotate", {0: 0.0, 9: 27.0, 15: 45.0}),
    (BIG_VISION, "posterize", {0: 0, 9: 3, 15: 6}),
    (BIG_VISION, "solarize", {0: 0, 9: 230, 15: 384}),
    (BIG_VISION, "solarize_add", {0: 0, 9: 99, 15: 165}),
    (BIG_VISION, "color", {0: 0.1, 9: 1.72, 15: 2.8}),
    (BIG_VISION, "shear_x", {0: 0.0, 9: 0.27, 15: 0.45}),
    (BIG_VISION, "translate_y", {0: 0.0, 9: 90.0, 15: 150.0}),
    (BIG_VISION, "cutout", {0: 0, 9: 36, 15: 60}),
    (TIMM, "posterize", {0: 4, 9: 1}),
    (TIMM, "solarize", {0: 256, 9: 26}),
    (TIMM, "solarize_add", {0: 0, 9: 99}),
    (TIMM, "sharpness", {0: 0.0, 9: 0.81}),
    (TIMM, "translate_x", {0: 0.0, 9: 0.405}),
]


@pytest.mark.parametrize("table, name, expected", ARGUMENTS)
def test_magnitudes_mean_what_they_mean_there(table, name, expected):
    for magnitude, value in expected.items():
        assert float(table[name].argument(tf.constant(float(magnitude)))) == pytest.approx(value, abs=1e-5)


def test_there_are_the_published_operations():
    assert len(BIG_VISION) == 16 and len(TIMM) == 15 and set(BIG_VISION) - set(TIMM) == {"cutout"}


def test_one_operation_is_drawn_of_all_with_equal_chances():
    table = {name: BIG_VISION[name] for name in ("invert", "equalize", "autocontrast", "posterize")}
    run = tf.function(lambda seed: rand_augment(1, 5, operations=table)(IMAGE, seed))
    results = [pixels.invert(IMAGE), pixels.equalize(IMAGE), pixels.autocontrast(IMAGE), pixels.posterize(IMAGE, 2)]
    counts = np.zeros(4)
    for i in range(160):
        shown = run(tf.constant([1, i], tf.int64)).numpy()
        counts += [np.array_equal(shown, result) for result in results][:4]
    assert counts.min() > 20


def test_signs_and_probability():
    run = tf.function(lambda seed: rand_augment(1, 10, probability=0.5, operations={"rotate": BIG_VISION["rotate"]})(IMAGE, seed))
    kinds = []
    for i in range(100):
        shown = run(tf.constant([1, i], tf.int64)).numpy()
        candidates = [IMAGE, pixels.rotate(IMAGE, 30.0), pixels.rotate(IMAGE, -30.0)]
        kinds.append([np.array_equal(shown, c) for c in candidates].index(True))
    counts = np.bincount(kinds, minlength=3)
    assert 35 < counts[0] < 65 and min(counts[1:]) > 12
