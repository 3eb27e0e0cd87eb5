"""Augmentation of single images: functions `(image, seed) -> image` on uint8 `(rows, columns, 3)`."""

import math
from collections.abc import Callable

import tensorflow as tf

from keras_vit.data.augmentation import pixels


def flip() -> Callable:
    """Returns the augmentation that flips half of the images, left to right."""
    return lambda image, seed: tf.where(tf.random.stateless_uniform((), seed) < 0.5, tf.reverse(image, [1]), image)


def color_jitter(brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0) -> Callable:
    """Returns color jitter: brightness, contrast and saturation change in random order, by factors of up to `1 +- strength`.

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
    """Returns 3-Augment: each image becomes gray, solarized or blurred (radius from 0.1 to 2).

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
    """Returns random erasing: the augmentation that replaces a rectangle by noise.

    Args:
        probability: float. Share of the images that are changed.
        area: (least, most) share of the image's area.
        ratio: (least, most) height / width, log-uniform. Ten rectangles are drawn, and the first that is smaller than the image is taken.
        mean: three floats, the noise's mean in 0..255. timm erases after normalization, with standard normal noise: this is the same
            before it, up to the cut at 0 and 255.
        std: three floats, the noise's standard deviation in 0..255.

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
