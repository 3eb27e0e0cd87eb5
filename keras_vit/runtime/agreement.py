"""A check that all processes of one training run have the same settings, model and data."""

import json
import zlib

import keras
import numpy as np

from keras_vit.runtime.devices import CLUSTER, processes


def check_agreement(facts):
    """Checks that all processes of a training run have the same values. Every process must call it.

    Args:
        facts: dict from a name, for the error, to a value that `json` can write.

    Raises:
        ValueError: if a value differs between workers. The error names it, and the workers that differ from worker 0.
    """
    if processes()[1] == 1:
        return
    digests = [zlib.crc32(json.dumps(value, sort_keys=True, default=str).encode()) for value in facts.values()]
    rows = _gathered_on_jax(digests) if keras.backend.backend() == "jax" else _gathered_on_tensorflow(digests)
    for (name, value), column in zip(facts.items(), zip(*rows)):
        if others := [number for number, digest in enumerate(column) if digest != column[0]]:
            raise ValueError(
                f"All workers must have the same {name}; worker 0 and {', '.join(map(str, others))} differ. "
                f"Received: {str(value)[:300]} here"
            )


def _gathered_on_jax(digests):
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.asarray(digests, "uint32"))


def _gathered_on_tensorflow(digests):
    import tensorflow as tf

    strategy = CLUSTER.strategy

    def gather():
        return strategy.gather(strategy.run(tf.constant, args=([digests], tf.int64)), axis=0)

    with strategy.scope():
        rows = tf.function(gather, autograph=False)().numpy()
    return rows[:: len(rows) // processes()[1]]
