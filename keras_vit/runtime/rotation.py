"""Rotation of queries and keys by angles that Keras must not round to half precision."""

import functools

import keras
from keras import ops

from keras_vit.runtime.fused import fused
from keras_vit.runtime.step import step


def rotate(query, key, rotation):
    """Returns queries and keys whose pairs of channels (j, j + head_dim / 2) are rotated, computed in float32.

    On TensorFlow's CPU, XLA compiles it to one pass through memory, in a third of the time.

    Args:
        query, key: float tensors of shape `(batch, heads, tokens, head_dim)`. Queries may be the first tokens only.
        rotation: float tensor of shape `(2, ..., tokens, head_dim)`: cosines, and sines whose first half is negative.
    """
    if step() and len(rotation.shape) == 3:
        return _by_fixed(query, key, rotation)
    each = functools.partial(fused, _rotated) if step() else _rotated
    return each(query, rotation), each(key, rotation)


def _rotated(x, rotation):
    rotation = ops.cast(rotation, keras.backend.result_type(x.dtype, "float32"))
    if x.shape[-2] is None or x.shape[-2] != rotation.shape[-2]:  # queries may be the first tokens, of a number unknown
        rotation = rotation[..., : ops.shape(x)[-2], :]
    first, second = ops.split(ops.cast(x, rotation.dtype), 2, axis=-1)
    cos, sin = ops.unstack(rotation, num=2, axis=0)
    return ops.cast(ops.concatenate([first, second], axis=-1) * cos + ops.concatenate([second, first], axis=-1) * sin, x.dtype)


def _by_fixed(query, key, rotation):
    """Rotates by angles that need no gradient: the gradients of queries and keys are turned back."""
    import tensorflow as tf

    @tf.custom_gradient
    def rotated(query, key):
        cos, sin = tf.unstack(rotation)
        return _compiled()(query, key, rotation), lambda *upstream: _compiled()(*upstream, tf.stack([cos, -sin]))

    return rotated(query, key)


@functools.cache
def _compiled():
    import tensorflow as tf

    def both(query, key, rotation):
        return _rotated(query, rotation), _rotated(key, rotation)

    return tf.function(both, jit_compile=True, autograph=False)


class Unrounded:
    """A tensor that Keras hands to `call` as it is. It would round any float argument of a layer to the layer's compute type."""

    def __init__(self, tensor):
        self.tensor = tensor


def unrounded(x):
    """Returns a tensor as an argument of a layer that keeps its type; None, and what is symbolic, as it is."""
    return x if x is None or keras.backend.is_keras_tensor(x) or isinstance(x, Unrounded) else Unrounded(x)


def as_tensor(x):
    """Returns the tensor that `unrounded` was given."""
    return ops.convert_to_tensor(x.tensor) if isinstance(x, Unrounded) else x
