"""A source that caches its decoded images, for repeated passes over the data."""

import dataclasses

import numpy as np
import tensorflow as tf

from keras_vit.data.sources.source import Split


def decoded_once(source, most_bytes=2 * 2**30):
    """Returns a source that keeps decoded images in memory, up to a limit.

    Args:
        source: a `Source`. Splits whose images are in memory stay as they are.
        most_bytes: int. Memory for decoded images. Images beyond this limit are decoded each time. Defaults to 2 GiB.

    Returns:
        A `Source` with the same images.
    """
    kept, left = {}, [int(most_bytes)]

    def keeping(split):
        if split.same_shape:
            return split
        number = len(readers)

        def keep(index, image, label):
            if (number, int(index)) not in kept and image.nbytes <= left[0]:
                left[0] -= image.nbytes
                kept[number, int(index)] = image, label
            return image, label

        def read(index):
            def call(function, *values, types):
                return tf.numpy_function(function, [index, *values], types, stateful=True)

            def decode():
                image, label = split.read(index)
                return call(keep, image, label, types=(tf.uint8, tf.int64))

            known = call(lambda index: np.bool_((number, int(index)) in kept), types=tf.bool)
            image, label = tf.cond(known, lambda: call(lambda index: kept[number, int(index)], types=(tf.uint8, tf.int64)), decode)
            return tf.ensure_shape(image, (None, None, 3)), tf.ensure_shape(label, ())

        return Split(split.size, read, same_shape=False)

    readers = {}  # two splits may be the same
    for split in source.splits.values():
        if id(split) not in readers:
            readers[id(split)] = keeping(split)
    return dataclasses.replace(source, splits={name: readers[id(split)] for name, split in source.splits.items()})
