import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_vit
from keras_vit.data import evaluation_transform
from keras_vit.data.augmentation import crops

generator = np.random.default_rng(0)
SMOOTH = np.asarray(Image.fromarray(generator.integers(0, 256, (9, 12, 3)).astype("uint8")).resize((120, 90), Image.Resampling.BICUBIC))


def gradient(rows, columns):
    """An image whose red is the row's, and whose green is the column's, number."""
    down, right = np.mgrid[:rows, :columns]
    return tf.constant(np.stack([down, right, 0 * down], axis=-1).astype("uint8"))


def boxes(crop, rows, columns, count=300):
    """What parts of the image a crop takes: (areas, proportions), from the ramps that it shows."""
    image = gradient(rows, columns)
    run = tf.function(lambda seed: crop(image, seed, (32, 32)))
    shown = np.array([run(tf.constant([3, i], tf.int64)) for i in range(count)]).astype(float)
    height = (shown[:, 24, 16, 0] - shown[:, 8, 16, 0]) * 2  # the border is bent by antialiasing
    width = (shown[:, 16, 24, 1] - shown[:, 16, 8, 1]) * 2
    return height * width / (rows * columns), width / height


@pytest.mark.parametrize("crop", [crops.inception_crop(), crops.random_resized_crop((0.05, 1.0))])
def test_random_crops_take_the_published_areas_and_proportions(crop):
    areas, proportions = boxes(crop, 200, 240)
    assert 0.03 < areas.min() < 0.15 and 0.85 < areas.max() < 1.05
    assert 0.65 < proportions.min() < 0.85 and 1.2 < proportions.max() < 1.5
    assert 0.3 < areas.mean() < 0.6


def test_area_is_an_argument():
    areas, _ = boxes(crops.random_resized_crop((0.5, 0.6)), 200, 200, count=50)
    assert 0.42 < areas.min() and areas.max() < 0.68


def test_an_image_too_long_for_any_proportion_is_cut_in_its_center():
    image = gradient(20, 250)
    shown = crops.random_resized_crop((0.9, 1.0))(image, (0, 0), (20, 20)).numpy()
    np.testing.assert_allclose(shown[:, 10, 1], 125.5, atol=2)
    assert 20 < np.ptp(shown[..., 1].astype(int)) < 28


def test_resize_and_crop_moves_a_window_over_the_whole_image():
    image, run = gradient(100, 200), crops.resize_and_crop(448 / 384)
    shown = np.array([run(image, (0, i), (48, 48)) for i in range(100)]).astype(float)
    tops, heights = shown[:, 0, 0, 0], shown[:, -1, 0, 0] - shown[:, 0, 0, 0]
    np.testing.assert_allclose(heights, 100 * 47 / 56, atol=2)
    assert tops.min() < 2 and tops.max() > 11


def test_simple_random_crop_reflects_at_the_borders():
    image = gradient(48, 64)
    shown = np.array([crops.simple_random_crop(4)(image, (0, i), (48, 48)) for i in range(60)]).astype(int)
    firsts = set(np.unique(shown[:, 0, 24, 0]))
    assert firsts <= {0, 1, 2, 3, 4} and {0, 4} <= firsts
    assert shown[shown[:, 0, 24, 0] == 4][0][4, 24, 0] in (0, 8)


@pytest.mark.parametrize(
    "mode, fraction, interpolation", [("center", 0.875, "bicubic"), ("center", 1.0, "bilinear"), ("squash", 0.9, "bicubic")]
)
@pytest.mark.parametrize("shape", [(90, 120), (120, 75), (33, 32)])
def test_evaluation_crop_is_the_evaluation_transform(shape, mode, fraction, interpolation):
    model = keras_vit.VisionTransformer((32, 32, 3), 16, 8, 1, 1, 8, num_classes=2)
    preprocessing = {**model.preprocessing, "crop_mode": mode, "crop_fraction": fraction, "interpolation": interpolation}
    model.preprocessing = preprocessing
    image = np.asarray(Image.fromarray(SMOOTH).resize(shape[::-1]))
    expected = evaluation_transform(model)(image)
    crop = tf.function(crops.evaluation_crop(preprocessing))  # a graph, as in `tf.data`
    ours = crop(tf.constant(image), None, (32, 32)).numpy()
    assert ours.shape == (32, 32, 3)
    assert np.abs(ours.astype(float) - expected).max() <= 2.0


def test_unknown_preprocessing_is_refused():
    with pytest.raises(ValueError, match="`crop_mode` must be one of"):
        crops.evaluation_crop({"interpolation": "bicubic", "crop_mode": "corner", "crop_fraction": 1.0})
