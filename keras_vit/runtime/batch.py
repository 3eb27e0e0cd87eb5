"""Functions of batches, which are nested structures of TensorFlow tensors."""

import keras


def map_tensors(function, values):
    """Returns the structure with `function` applied to each tensor; None stays None."""
    return keras.tree.map_structure(lambda value: None if value is None else function(value), values)


def rows(values):
    """Returns the number of images in a batch, a scalar tensor."""
    import tensorflow as tf

    return tf.shape(next(value for value in keras.tree.flatten(values) if value is not None))[0]


def cut(values, start, size):
    """Returns `size` rows of a batch, from row `start`."""
    import tensorflow as tf

    def piece(value):
        others = value.shape.rank - 1
        return tf.slice(value, [start] + [0] * others, [size] + [-1] * others)

    return map_tensors(piece, values)


def never_empty(values):
    """Returns the batch, or one black image in place of an empty batch, on which convolutions and their gradients fail."""
    import tensorflow as tf

    def fill(value):
        if value.shape[0] is not None:
            return value
        return tf.cond(tf.shape(value)[0] > 0, lambda: value, lambda: tf.zeros(tf.concat([[1], tf.shape(value)[1:]], 0), value.dtype))

    return map_tensors(fill, values)
