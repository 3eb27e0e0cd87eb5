"""The seeds of random layers: different on each replica, and the same again when a block is recomputed."""

import contextlib
import contextvars

import keras

from keras_vit.runtime.devices import replicas

STRIDE = 1_000_003  # between the seeds of two replicas
_given = contextvars.ContextVar("seeds", default=None)


class SeedGenerator(keras.random.SeedGenerator):
    """Keras's generator of seeds, aware of replicas and of recomputation.

    Keras's own generator has one state for all replicas of `tf.distribute`, so that all would drop the same units. This one adds an
    offset for each replica. The first replica, and a single device, draw Keras's seeds.

    Args:
        seed: int or None.
    """

    def next(self, ordered=True):
        if _given.get() and self in _given.get():
            return _given.get()[self]
        seed = super().next(ordered)
        if replicas() == 1:
            return seed
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        number = context.replica_id_in_sync_group if context else 0
        return seed + tf.stack([tf.cast(number, seed.dtype) * STRIDE, tf.zeros((), seed.dtype)])


@contextlib.contextmanager
def given(generators, seeds):
    """While active, each generator returns the seed given for it, and its state does not change."""
    token = _given.set({**(_given.get() or {}), **dict(zip(generators, seeds))})
    try:
        yield
    finally:
        _given.reset(token)


def generators_of(layer):
    """Returns the generators of a layer's sublayers."""
    layers = layer._flatten_layers(include_self=False)
    return [sublayer.seed_generator for sublayer in layers if getattr(sublayer, "seed_generator", None) is not None]
