"""Decodes images in a `tf.data` pipeline: by TensorFlow where it is as exact as Pillow, else by Pillow."""

import io

import numpy as np
import tensorflow as tf

from keras_vit.data.augmentation.crops import cut
from keras_vit.data.preprocessing import orientation, read_image


def decode(contents, plain, window=None):
    """Returns an image as uint8 `(rows, columns, 3)`.

    Args:
        contents: string tensor. The bytes of the image's file.
        plain: bool tensor. Whether TensorFlow decodes it, see `is_plain`.
        window: function from the image's (rows, columns), an int32 tensor, to the (top, left, rows, columns) that are returned; None for
            all of the image.
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
    from PIL import Image

    # As an object: NumPy's own bytes lose the zeros at their end.
    with Image.open(io.BytesIO(np.asarray(contents, object).item())) as image:
        image.load()
        return np.array(read_image(image))


def decode_jpeg(contents):
    # The accurate transform is Pillow's: TensorFlow's default is up to some levels away from it.
    return tf.image.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")


def decode_window(contents, window):
    """Returns a window of a JPEG image, equal to that of the whole image, whose other rows and columns are not computed."""
    shape = tf.image.extract_jpeg_shape(contents)
    top, left, rows, columns = tf.unstack(window(shape[:2]))
    # Color is stored at half the size: the pixels at the border are computed from those beside them.
    begin, end = tf.maximum(left - 2, 0), tf.minimum(left + columns + 2, shape[1])
    larger = tf.stack([top, begin, rows, end - begin])
    image = tf.image.decode_and_crop_jpeg(contents, larger, channels=3, dct_method="INTEGER_ACCURATE")
    return image[:, left - begin : left - begin + columns]


def is_plain(file):
    """Whether TensorFlow decodes an image as Pillow does, but faster: an upright JPEG, or a PNG of 8-bit RGB.

    Args:
        file: path or binary file of the image. If it is damaged the answer is False.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            return plain_form(image) and orientation(image) == 1
    except Exception:  # a decoder may raise anything on a damaged file
        return False


def plain_form(image):
    """Whether the format of a Pillow image is one that TensorFlow decodes."""
    return (image.format, image.mode) in (("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"))
