"""Crops an image of any size to the model's input size, for training and for evaluation.

A crop is a function `(image, seed, size) -> image`. `image` is `(rows, columns, 3)` in 0..255, `seed` is a pair of int64 that determines
the random draw, and `size` is the target's (rows, columns). The result is uint8.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_vit.data.preprocessing import CROP_MODES, covering, evaluation_geometry, middle
from keras_vit.layers import checks

# Names of `model.preprocessing` -> names of tf.image.resize.
METHODS = {
    "nearest": "nearest",
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "lanczos": "lanczos3",
    "lanczos3": "lanczos3",
    "area": "area",
}
EVALUATION = {"interpolation": "bicubic", "crop_mode": "center", "crop_fraction": 0.875}  # the default, without a model


@dataclasses.dataclass(frozen=True)
class WindowCrop:
    """A crop that cuts a window out of the image first, so that the rest does not have to be decoded.

    Args:
        window: function that takes the image's (rows, columns), an int32 tensor, and the seed, and returns (top, left, rows, columns), an
            int32 tensor.
        finish: function that takes the window of the image and the target's size, and returns the result.
    """

    window: Callable
    finish: Callable

    def __call__(self, image, seed, size):
        return self.finish(cut(image, lambda shape: self.window(shape, seed)), size)


def cut(image: Any, window: Callable | None) -> Any:
    """Returns the window of an image, or the image if `window` is None. Arguments as in `WindowCrop`, without the seed."""
    if window is None:
        return image
    top, left, rows, columns = tf.unstack(window(tf.shape(image)[:2]))
    return image[top : top + rows, left : left + columns]


def to_middle(shape: Any) -> Any:
    """Returns the window of `middle` as an int32 tensor."""
    return tf.stack(middle(tf.unstack(shape), tf))


def inception_crop(area: tuple[float, float] = (0.05, 1.0), ratio: tuple[float, float] = (0.75, 1.33)) -> Callable:
    """Returns the Inception crop: a window of random area and aspect ratio, resized without antialiasing.

    Args:
        area: (least, most). Area of the window, as a fraction of the image's. Defaults to (0.05, 1.0).
        ratio: (least, most). Width / height of the window, drawn uniformly. Defaults to (0.75, 1.33).

    Reference:
        `inception_crop` of big_vision (pp/ops_image.py), with the defaults of its `decode_jpeg_and_inception_crop`.

    Example:
    >>> import tensorflow as tf
    >>> inception_crop()(tf.zeros((60, 40, 3), "uint8"), (0, 1), (32, 32)).shape
    TensorShape([32, 32, 3])
    """

    def window(shape, seed):
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            tf.concat([shape, [3]], axis=0),
            tf.zeros((0, 0, 4)),
            seed=seed,
            area_range=area,
            aspect_ratio_range=ratio,
            min_object_covered=0.0,
            use_image_if_no_bounding_boxes=True,
        )
        return tf.concat([begin[:2], extent[:2]], axis=0)

    return WindowCrop(window, lambda image, size: resized(image, size, "bilinear", antialias=False))


def random_resized_crop(
    area: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3), interpolation: str = "bicubic"
) -> Callable:
    """Returns the crop of torchvision and timm: like `inception_crop`, but with log-uniform aspect ratios and antialiasing.

    It draws ten windows and uses the first that lies within the image. If none does, it uses the largest central window with an allowed
    aspect ratio.

    Reference:
        `RandomResizedCrop` of torchvision; Touvron et al., DeiT (2021), uses it with bicubic interpolation.
    """

    def window(shape, seed):
        rows, columns = tf.unstack(tf.cast(shape, tf.float32))
        shares, proportions, *place = tf.unstack(tf.random.stateless_uniform((4, 10), seed))
        areas = rows * columns * (area[0] + (area[1] - area[0]) * shares)
        proportions = tf.exp(math.log(ratio[0]) + math.log(ratio[1] / ratio[0]) * proportions)
        heights, widths = tf.round(tf.sqrt(areas / proportions)), tf.round(tf.sqrt(areas * proportions))
        inside = (heights >= 1) & (widths >= 1) & (heights <= rows) & (widths <= columns)
        drawn = tf.stack([tf.floor(place[0] * (rows - heights + 1)), tf.floor(place[1] * (columns - widths + 1)), heights, widths])
        height, width = tf.minimum(rows, tf.round(columns / ratio[0])), tf.minimum(columns, tf.round(rows * ratio[1]))
        central = tf.stack([(rows - height) // 2, (columns - width) // 2, height, width])
        first = tf.argmax(tf.cast(inside, tf.int32))
        return tf.cast(tf.where(tf.reduce_any(inside), drawn[:, first], central), tf.int32)

    return WindowCrop(window, lambda image, size: resized(image, size, interpolation))


def resize_and_crop(ratio: float = 448 / 384) -> Callable:
    """Returns the crop for fine-tuning: it resizes both sides to `ratio` times the target's, and cuts out a random window.

    Reference:
        Kolesnikov et al., "Big Transfer", 2020, section 3.3; `resize_crop` of big_vision (configs/transfer.py).
    """

    def crop(image, seed, size):
        return window(resized(image, [round(side * ratio) for side in size], "bilinear", antialias=False), seed, size)

    return crop


def simple_random_crop(padding: int = 4) -> Callable:
    """Returns the crop of DeiT-III for ImageNet-21k: it resizes the shorter side to the target's, and cuts out a random window.

    In between, the image is padded by `padding` pixels on each side, which mirror it at its borders.

    Reference:
        Touvron et al., "DeiT III: Revenge of the ViT", 2022, section 3; augment.py of facebookresearch/deit.
    """

    def crop(image, seed, size):
        image = cut(image, to_middle)
        image = resized(image, shorter_side_to(image, size), "bicubic")
        pads = [[padding, padding], [padding, padding], [0, 0]]
        return window(tf.pad(image, pads, mode="REFLECT"), seed, size)

    return crop


def evaluation_crop(preprocessing: dict[str, Any] | None = None) -> Callable:
    """Returns the crop of `evaluation_transform` for `tf.data`, which is not random. Pixels differ from Pillow's by at most two levels.

    Args:
        preprocessing: dict with "interpolation", "crop_mode" and "crop_fraction", such as `model.preprocessing`. Defaults to None:
            bicubic, "center" and 0.875.
    """
    preprocessing = {name: (preprocessing or EVALUATION)[name] for name in EVALUATION}
    checks.one_of("interpolation", preprocessing["interpolation"], METHODS)
    checks.one_of("crop_mode", preprocessing["crop_mode"], CROP_MODES)

    def crop(image, seed, size):
        if preprocessing["crop_mode"] == "center":
            image = cut(image, to_middle)
        given = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float64))
        larger, corner = evaluation_geometry(given, size, preprocessing, tf)
        # In a graph, TensorFlow 2.21 reads a constant size that was cast to int32 as the float that it was before.
        larger, corner = [int(side) if isinstance(side, float) else tf.cast(side, tf.int32) for side in larger], tf.cast(corner, tf.int32)
        image = resized(image, larger, preprocessing["interpolation"])
        top, left = tf.unstack(corner)
        return tf.ensure_shape(image[top : top + size[0], left : left + size[1]], (*size, 3))

    return crop


def resized(image: Any, size: Any, interpolation: str, antialias: bool = True) -> Any:
    """Resizes an image to `size`, a pair of ints or a tensor. The result is uint8."""
    image = tf.round(tf.image.resize(image, size, method=METHODS[interpolation], antialias=antialias))
    if interpolation not in ("nearest", "bilinear", "area"):  # the other filters overshoot
        image = tf.clip_by_value(image, 0.0, 255.0)
    return tf.cast(image, tf.uint8)


def shorter_side_to(image: Any, size: Any) -> Any:
    """Returns the smallest size of the image's aspect ratio that covers `size`, as an int32 pair."""
    return tf.cast(covering(tf.unstack(tf.cast(tf.shape(image)[:2], tf.float64)), size, tf), tf.int32)


def window(image: Any, seed: Any, size: Any) -> Any:
    """Returns a random window of `size`."""
    places = tf.cast(tf.shape(image)[:2] - size + 1, tf.float32)
    top, left = tf.unstack(tf.cast(tf.random.stateless_uniform((2,), seed) * places, tf.int32))
    return tf.ensure_shape(image[top : top + size[0], left : left + size[1]], (*size, 3))
