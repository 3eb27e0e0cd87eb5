"""RandAugment: applies a few random operations of one strength to each image. Only the operations that are drawn are computed."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_vit.data.augmentation import pixels


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation of `pixels`, with the function that maps a magnitude of 0 to 10 (or more) to its argument.

    Args:
        apply: function of an image and, if `argument` is given, of the argument.
        argument: function that maps the magnitude, a float32 scalar, to the argument; or None without an argument. Defaults to None.
        signed: bool. Whether half of the draws negate the argument. Defaults to False.
        fills: bool. Whether the operation uncovers pixels, and therefore accepts `fill` and `interpolation`. Defaults to False.
    """

    apply: Callable
    argument: Callable | None = None
    signed: bool = False
    fills: bool = False


def whole(most: int):
    return lambda magnitude: tf.floor(magnitude / 10.0 * most)


def share(most: float):
    return lambda magnitude: magnitude / 10.0 * most


def enhancement(magnitude: float):
    return magnitude / 10.0 * 1.8 + 0.1


# The operations and strengths of AutoAugment's code for TPUs, which big_vision (pp/autoaugment.py) uses for all ViTs of AugReg.
BIG_VISION = {
    "autocontrast": Operation(pixels.autocontrast),
    "equalize": Operation(pixels.equalize),
    "invert": Operation(pixels.invert),
    "rotate": Operation(pixels.rotate, share(30.0), signed=True, fills=True),
    "posterize": Operation(pixels.posterize, lambda magnitude: tf.minimum(whole(4)(magnitude), 8.0)),
    "solarize": Operation(pixels.solarize, whole(256)),
    "color": Operation(pixels.color, enhancement),
    "contrast": Operation(pixels.contrast, enhancement),
    "brightness": Operation(pixels.brightness, enhancement),
    "sharpness": Operation(pixels.sharpness, enhancement),
    "shear_x": Operation(pixels.shear_x, share(0.3), signed=True, fills=True),
    "shear_y": Operation(pixels.shear_y, share(0.3), signed=True, fills=True),
    "translate_x": Operation(pixels.translate_x, share(100.0), signed=True, fills=True),
    "translate_y": Operation(pixels.translate_y, share(100.0), signed=True, fills=True),
    "cutout": Operation(pixels.cutout, whole(40)),
    "solarize_add": Operation(pixels.solarize_add, whole(110)),
}


def relative(change, axis):
    """Returns a translation by a fraction of the image's side, as in timm."""
    return lambda image, part, **options: change(image, part * tf.cast(tf.shape(image)[axis], tf.float32), **options)


def stronger(change):
    """Returns an enhancement that does not change the image at magnitude 0, and strengthens or weakens it at higher ones."""
    return Operation(lambda image, offset: change(image, tf.maximum(0.1, 1.0 + offset)), share(0.9), signed=True)


# `_RAND_INCREASING_TRANSFORMS` of timm (data/auto_augment.py): a greater magnitude is always a greater change.
TIMM = {
    "autocontrast": Operation(pixels.autocontrast),
    "equalize": Operation(pixels.equalize),
    "invert": Operation(pixels.invert),
    "rotate": Operation(pixels.rotate, share(30.0), signed=True, fills=True),
    "posterize": Operation(pixels.posterize, lambda magnitude: 4.0 - whole(4)(magnitude)),
    "solarize": Operation(pixels.solarize, lambda magnitude: 256.0 - whole(256)(magnitude)),
    "solarize_add": Operation(pixels.solarize_add, whole(110)),
    "color": stronger(pixels.color),
    "contrast": stronger(pixels.contrast),
    "brightness": stronger(pixels.brightness),
    "sharpness": stronger(pixels.sharpness),
    "shear_x": Operation(pixels.shear_x, share(0.3), signed=True, fills=True),
    "shear_y": Operation(pixels.shear_y, share(0.3), signed=True, fills=True),
    "translate_x": Operation(relative(pixels.translate_x, 1), share(0.45), signed=True, fills=True),
    "translate_y": Operation(relative(pixels.translate_y, 0), share(0.45), signed=True, fills=True),
}


def rand_augment(
    num_ops: int = 2,
    magnitude: float = 10,
    magnitude_std: float = 0.0,
    probability: float = 1.0,
    operations: Any = BIG_VISION,
    fill: tuple[int, int, int] = (128, 128, 128),
    interpolation: str = "nearest",
) -> Callable:
    """Returns RandAugment: a function `(image, seed) -> image` on uint8.

    Args:
        num_ops: int. Number of operations per image, drawn with replacement. Defaults to 2.
        magnitude: float. Strength of all operations. 10 is the maximum of AutoAugment's scale; AugReg goes up to 20. Defaults to 10.
        magnitude_std: float. If not 0, each magnitude is drawn from a normal distribution with this standard deviation and clipped to
            0..10, as in timm. Defaults to 0.0.
        probability: float. Probability that a drawn operation is applied. Defaults to 1.0.
        operations: dict of `Operation`: `BIG_VISION` or `TIMM`. Defaults to `BIG_VISION`.
        fill: three ints. Color of uncovered pixels. Defaults to gray.
        interpolation: "nearest" or "bilinear", for rotation, shear and translation. timm alternates between bilinear and bicubic. Defaults
            to "nearest".

    Reference:
        Cubuk et al., "RandAugment", 2020. The defaults are those of big_vision's `randaug`.

    Example:
    >>> import tensorflow as tf
    >>> rand_augment(2, 10)(tf.zeros((32, 32, 3), "uint8"), (0, 1)).shape
    TensorShape([32, 32, 3])
    """

    def branch(operation, image, strength, sign, center):
        options = {"fill": fill, "interpolation": interpolation} if operation.fills else {}
        if operation.apply is pixels.cutout:
            options = {"fill": fill, "center": center}
        if operation.argument is None:
            return operation.apply(image, **options)
        argument = operation.argument(strength)
        return operation.apply(image, argument * sign if operation.signed else argument, **options)

    def change(image, seed):
        shape = image.shape
        for draws in tf.unstack(tf.random.stateless_uniform((num_ops, 5), seed)):
            strength = tf.constant(magnitude, tf.float32)
            if magnitude_std:
                noise = tf.math.ndtri(tf.clip_by_value(draws[3], 1e-6, 1 - 1e-6))
                strength = tf.clip_by_value(magnitude + magnitude_std * noise, 0.0, 10.0)
            number = tf.cast(draws[0] * len(operations), tf.int32)
            if probability < 1.0:
                number = tf.where(draws[4] < probability, number, len(operations))
            sign = tf.where(draws[1] < 0.5, -1.0, 1.0)
            branches = [
                lambda operation=operation, image=image, strength=strength, sign=sign, draws=draws: branch(
                    operation, image, strength, sign, draws[2:4]
                )
                for operation in operations.values()
            ]
            image = tf.ensure_shape(tf.switch_case(number, [*branches, lambda image=image: image]), shape)
        return image

    return change
