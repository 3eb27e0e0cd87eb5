"""Batches as structures of tensors, on TensorFlow."""

import keras


def map_tensors(function, values):
    """Returns the structure `values` with `function` applied to its tensors."""
    return keras.tree.map_structure(lambda value: None if value is None else function(value), values)


def rows(values):
    """Returns the number of images in a batch, a scalar tensor."""
    import tensorflow as tf

    return tf.shape(next(value for value in keras.tree.flatten(values) if value is not None))[0]


def cut(values, start, size):
    """Returns `size` rows from `start` on."""
    import tensorflow as tf

    def piece(value):
        others = value.shape.rank - 1
        return tf.slice(value, [start] + [0] * others, [size] + [-1] * others)

    return map_tensors(piece, values)


def never_empty(values):
    """Returns the batch, with one black image if it is empty: convolutions and their gradients fail on no images."""
    import tensorflow as tf

    def fill(value):
        if value.shape[0] is not None:
            return value
        return tf.cond(tf.shape(value)[0] > 0, lambda: value, lambda: tf.zeros((1, *value.shape[1:]), value.dtype))

    return map_tensors(fill, values)
