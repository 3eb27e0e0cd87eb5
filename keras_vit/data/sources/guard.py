"""Keeps a run going when a file is damaged or removed after it was checked."""

import logging
import threading

import numpy as np
import tensorflow as tf

from keras_vit.messages import IMAGE_LOST, IMAGES_LOST

log = logging.getLogger("keras_vit")


def guarded(read, size, name_of, strict):
    """Wraps a function that reads images: if an image cannot be read, the next readable one takes its place.

    Only this image changes, so that a run can still resume at any step.

    Args:
        read: function that takes an index and a window, see `Split`, and returns an image and its label.
        size: int. Number of images.
        name_of: function that returns the path of the file at an index, as text.
        strict: bool. Whether to raise an error instead.
    """
    stand_ins, lock = {}, threading.Lock()

    def find(index):
        with lock:
            if strict:
                raise ValueError(f"{IMAGE_LOST}. Received: {name_of(index)}")
            if not (index in stand_ins and whole(stand_ins[index])):
                known = index in stand_ins
                following = ((index + step) % size for step in range(1, size))
                other = next((other for other in following if whole(other)), None)
                if other is None:
                    raise ValueError(f"{IMAGES_LOST}. Received: {name_of(index)}")
                stand_ins[int(index)] = np.int64(other)
                if not known:
                    log.warning(f"Skipped: {IMAGE_LOST}, {len(stand_ins)} so far: {name_of(index)}. It is replaced by {name_of(other)}")
            return stand_ins[index]

    def whole(index):
        try:
            with tf.device("CPU"):
                read(tf.constant(index, tf.int64), None)
            return True
        except Exception:  # a decoder may raise anything on a damaged file
            return False

    def read_guarded(index, window=None):
        def stand_in(index):
            return read(tf.ensure_shape(tf.numpy_function(find, [index], tf.int64), ()), window)

        # Errors can only be caught in a `tf.data.Dataset`, hence a data set of one image. It takes 0.05 ms.
        one = tf.data.Dataset.from_tensors(index)
        images = one.map(lambda index: read(index, window)).ignore_errors().concatenate(one.map(stand_in))
        return images.take(1).get_single_element()

    return read_guarded
