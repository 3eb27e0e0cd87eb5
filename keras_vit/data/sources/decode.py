"""Decodes images in a `tf.data` pipeline: with TensorFlow where its result is close to Pillow's, else with Pillow."""

import io

import numpy as np
import tensorflow as tf

from keras_vit.data.augmentation.crops import cut
from keras_vit.data.preprocessing import open_image, orientation, read_image


def decode(contents, plain, window=None):
    """Decodes an image to uint8 `(rows, columns, 3)`.

    Args:
        contents: string tensor. The bytes of the image's file.
        plain: bool tensor. Whether to decode with TensorFlow, see `is_plain`.
        window: function that takes the image's (rows, columns), an int32 tensor, and returns the (top, left, rows, columns) of the window
            to decode. Defaults to None, the whole image.
    """

    def by_tensorflow():
        if window is None:
            return decode_jpeg(contents)
        return tf.cond(tf.io.is_jpeg(contents), lambda: decode_window(contents, window), lambda: cut(decode_jpeg(contents), window))

    def by_pillow():
        image = tf.numpy_function(decode_by_pillow, [contents], tf.uint8, stateful=False)
        return cut(tf.ensure_shape(image, (None, None, 3)), window)

    image = tf.cond(plain, by_tensorflow, by_pillow)
    image.set_shape((None, None, 3))
    return image


def decode_by_pillow(contents):
    # As an object, because NumPy's bytes type drops zero bytes at the end.
    with open_image(io.BytesIO(np.asarray(contents, object).item())) as image:
        image.load()
        return np.array(read_image(image))


def decode_jpeg(contents):
    # Pillow uses the accurate transform. TensorFlow's default differs from it by a few levels.
    return tf.image.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")


def decode_window(contents, window):
    """Decodes only a window of a JPEG image. The result equals the window of the whole image."""
    shape = tf.image.extract_jpeg_shape(contents)
    top, left, rows, columns = tf.unstack(window(shape[:2]))
    # Color is stored at half the resolution: pixels at the border of the window also depend on those outside.
    begin, end = tf.maximum(left - 2, 0), tf.minimum(left + columns + 2, shape[1])
    larger = tf.stack([top, begin, rows, end - begin])
    image = tf.image.decode_and_crop_jpeg(contents, larger, channels=3, dct_method="INTEGER_ACCURATE")
    return image[:, left - begin : left - begin + columns]


def is_plain(file):
    """Returns whether TensorFlow decodes an image as Pillow does, but faster: an upright JPEG, or a PNG of 8-bit RGB.

    Args:
        file: path or binary file of the image. For a damaged file the result is False.
    """
    try:
        with open_image(file) as image:
            return plain_form(image) and orientation(image) == 1
    except Exception:  # a decoder may raise anything on a damaged file
        return False


def plain_form(image):
    """Returns whether TensorFlow can decode the format of a Pillow image."""
    return (image.format, image.mode) in (("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"))
