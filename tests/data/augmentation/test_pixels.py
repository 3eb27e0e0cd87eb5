"""Every operation against Pillow, which defines it."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from keras_vit.data.augmentation import pixels

generator = np.random.default_rng(0)
NOISE = generator.integers(0, 256, (33, 47, 3)).astype("uint8")
SMOOTH = np.asarray(Image.fromarray(generator.integers(40, 200, (5, 6, 3)).astype("uint8")).resize((47, 33), Image.Resampling.BICUBIC))
IMAGES = {"noise": NOISE, "smooth": SMOOTH, "flat": np.full((33, 47, 3), 90, "uint8"), "two": np.where(NOISE < 60, 10, 200).astype("uint8")}
FILL = (128, 128, 128)


def enhanced(kind):
    return lambda image, factor: kind(image).enhance(factor)


def transformed(*coefficients):
    def transform(image, value, resample=Image.Resampling.NEAREST):
        chosen = [value if c == "v" else c for c in coefficients]
        return image.transform(image.size, Image.Transform.AFFINE, chosen, resample=resample, fillcolor=FILL)

    return transform


def solarized_add(image, addition):
    return image.point([min(255, i + int(addition)) if i < 128 else i for i in range(256)] * 3)


PILLOW = {  # operation: Pillow's, and the strengths to try
    "identity": (lambda image: image, ()),
    "autocontrast": (ImageOps.autocontrast, ()),
    "equalize": (ImageOps.equalize, ()),
    "invert": (ImageOps.invert, ()),
    "posterize": (lambda image, bits: ImageOps.posterize(image, int(bits)), (1, 4, 7, 8)),
    "solarize": (lambda image, threshold: ImageOps.solarize(image, threshold), (0, 100, 128, 255, 256, 384)),
    "solarize_add": (solarized_add, (0, 55, 110, 165)),
    "color": (enhanced(ImageEnhance.Color), (0.0, 0.1, 0.55, 1.0, 1.9, 3.7)),
    "contrast": (enhanced(ImageEnhance.Contrast), (0.0, 0.1, 0.55, 1.0, 1.9, 3.7)),
    "brightness": (enhanced(ImageEnhance.Brightness), (0.0, 0.1, 0.55, 1.0, 1.9, 3.7)),
    "sharpness": (enhanced(ImageEnhance.Sharpness), (0.0, 0.1, 0.55, 1.0, 1.9, 3.7)),
    "shear_x": (transformed(1, "v", 0, 0, 1, 0), (-0.3, -0.1, 0.0, 0.17, 0.6)),
    "shear_y": (transformed(1, 0, 0, "v", 1, 0), (-0.3, -0.1, 0.0, 0.17, 0.6)),
    "translate_x": (transformed(1, 0, "v", 0, 1, 0), (-60.0, -10.0, 0.0, 3.7, 20.0)),
    "translate_y": (transformed(1, 0, 0, 0, 1, "v"), (-60.0, -10.0, 0.0, 3.7, 20.0)),
    "rotate": (
        lambda image, degrees, resample=Image.Resampling.NEAREST: image.rotate(degrees, resample=resample, fillcolor=FILL),
        (-60.0, -30.0, 4.5, 30.0, 45.0),
    ),
}
CASES = [(name, value) for name, (_, values) in PILLOW.items() for value in (values or (None,))]


@functools.cache
def compiled(name):
    return tf.function(getattr(pixels, name))


@pytest.mark.parametrize("name, value", CASES)
@pytest.mark.parametrize("kind", IMAGES)
def test_equal_to_pillow(kind, name, value):
    arguments = () if value is None else (value,)
    expected = np.asarray(PILLOW[name][0](Image.fromarray(IMAGES[kind]), *arguments))
    ours = compiled(name)(tf.constant(IMAGES[kind]), *(tf.constant(a, tf.float32) for a in arguments))
    assert ours.dtype == tf.uint8
    np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y", "rotate"])
@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_bilinear_is_one_level_from_pillow(kind, name):
    reference, values = PILLOW[name]
    for value in values:
        expected = np.asarray(reference(Image.fromarray(IMAGES[kind]), value, Image.Resampling.BILINEAR)).astype(int)
        ours = (
            getattr(pixels, name)(tf.constant(IMAGES[kind]), tf.constant(value, tf.float32), interpolation="bilinear").numpy().astype(int)
        )
        assert np.abs(ours - expected).max() <= 1 and (ours != expected).mean() < 0.1


@pytest.mark.parametrize("radius", [0.1, 0.5, 1.0, 1.7, 2.0])
@pytest.mark.parametrize("kind", IMAGES)
def test_blur_is_near_pillows_which_rounds_in_between(kind, radius):
    expected = np.asarray(Image.fromarray(IMAGES[kind]).filter(ImageFilter.GaussianBlur(radius))).astype(int)
    difference = np.abs(pixels.gaussian_blur(tf.constant(IMAGES[kind]), radius).numpy().astype(int) - expected)
    assert difference.max() <= 3 and difference.mean() < 1.1


def test_posterize_to_nothing_is_black():
    assert not pixels.posterize(tf.constant(NOISE), 0).numpy().any()


def test_cutout_fills_a_square_as_far_as_it_lies_inside():
    cut = pixels.cutout(tf.zeros((20, 30, 3), "uint8"), 4, (0.5, 0.9), fill=(1, 2, 3)).numpy()
    expected = np.zeros((20, 30, 3), "uint8")
    expected[6:14, 23:30] = (1, 2, 3)
    np.testing.assert_array_equal(cut, expected)


def test_gray_is_pillows():
    np.testing.assert_array_equal(pixels.gray(tf.constant(NOISE))[..., 0], np.asarray(Image.fromarray(NOISE).convert("L")))
