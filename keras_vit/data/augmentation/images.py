"""Augmentation of single images: functions `(image, seed) -> image` on uint8 `(rows, columns, 3)`."""

import math
from collections.abc import Callable

import tensorflow as tf

from keras_vit.data.augmentation import pixels


def flip() -> Callable:
    """Returns a function that flips half of the images, left to right."""

    def change(image, seed):
        # Of an image of 224 x 224 a reversal takes 0.12 ms, and `tf.where`, which also reverses every image, 0.43.
        flipped = tf.cond(tf.random.stateless_uniform((), seed) < 0.5, lambda: tf.reverse(image, [1]), lambda: image)
        return tf.ensure_shape(flipped, image.shape)

    return change


def color_jitter(brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0) -> Callable:
    """Returns color jitter: it changes brightness, contrast and saturation in random order, by factors between `1 - s` and `1 + s`.

    Args:
        brightness: float. Strength `s` of the change of brightness. Defaults to 0.0.
        contrast: float. Strength of the change of contrast. Defaults to 0.0.
        saturation: float. Strength of the change of saturation. Defaults to 0.0.

    Reference:
        `ColorJitter` of torchvision, on Pillow images.
    """
    strengths = [brightness, contrast, saturation]
    changes = [pixels.brightness, pixels.contrast, pixels.color]

    def change(image, seed):
        shape = image.shape
        order, factors = tf.unstack(tf.random.stateless_uniform((2, 3), seed))
        factors = tf.maximum(1.0 + (2.0 * factors - 1.0) * strengths, 0.0)
        for number in tf.unstack(tf.argsort(order)):
            branches = [lambda i=i, image=image: changes[i](image, factors[i]) for i in range(3)]
            image = tf.ensure_shape(tf.switch_case(number, branches), shape)
        return image

    return change


def three_augment() -> Callable:
    """Returns 3-Augment: it makes each image gray, solarizes it, or blurs it (radius from 0.1 to 2).

    Reference:
        Touvron et al., "DeiT III: Revenge of the ViT", 2022, section 3; augment.py of facebookresearch/deit.
    """

    def change(image, seed):
        which, radius = tf.unstack(tf.random.stateless_uniform((2,), seed))
        branches = [
            lambda: tf.tile(pixels.gray(image), (1, 1, 3)),
            lambda: pixels.solarize(image, 128.0),
            lambda: pixels.gaussian_blur(image, 0.1 + 1.9 * radius),
        ]
        return tf.ensure_shape(tf.switch_case(tf.cast(3.0 * which, tf.int32), branches), image.shape)

    return change


def random_erasing(
    probability: float = 0.25,
    area: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53),
    std: tuple[float, float, float] = (58.395, 57.12, 57.375),
) -> Callable:
    """Returns random erasing: it replaces a rectangle by noise.

    Args:
        probability: float. Fraction of the images that are changed. Defaults to 0.25.
        area: (least, most). Area of the rectangle, as a fraction of the image's. Defaults to (0.02, 1 / 3).
        ratio: (least, most). Height / width of the rectangle, log-uniform. Ten rectangles are drawn, and the first that is smaller than
            the image is used. Defaults to (0.3, 1 / 0.3).
        mean: three floats. Mean of the noise in 0..255. timm erases after normalization, with standard normal noise. The default gives the
            same before normalization, except that values are clipped to 0..255.
        std: three floats. Standard deviation of the noise in 0..255. The default matches that of `mean`.

    Reference:
        Zhong et al., "Random Erasing Data Augmentation", 2020; `RandomErasing(mode="pixel")` of timm.
    """

    def erase(image, seed, draws):
        rows, columns = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
        areas = rows * columns * (area[0] + (area[1] - area[0]) * draws[0])
        proportions = tf.exp(math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * draws[1])
        heights, widths = tf.round(tf.sqrt(areas * proportions)), tf.round(tf.sqrt(areas / proportions))
        fits = (heights < rows) & (widths < columns)
        first = tf.argmax(tf.cast(fits, tf.int32))
        height, width = heights[first], widths[first]
        top, left = tf.floor(draws[2, 0] * (rows - height + 1)), tf.floor(draws[2, 1] * (columns - width + 1))
        down, right = tf.range(rows)[:, None], tf.range(columns)[None]
        inside = (down >= top) & (down < top + height) & (right >= left) & (right < left + width) & tf.reduce_any(fits)
        noise = tf.random.stateless_normal(tf.shape(image), seed) * std + mean
        return tf.where(inside[..., None], tf.cast(tf.clip_by_value(tf.round(noise), 0.0, 255.0), tf.uint8), image)

    def change(image, seed):
        draws = tf.random.stateless_uniform((3, 10), seed)
        erased = tf.cond(draws[2, 2] < probability, lambda: erase(image, seed, draws), lambda: image)
        return tf.ensure_shape(erased, image.shape)

    return change
