"""The devices and processes that train together."""

import dataclasses

import keras


@dataclasses.dataclass
class _Cluster:
    """The processes that train together on TensorFlow.

    Attributes:
        index: int. Number of this process.
        count: int. Number of processes.
        strategy: `tf.distribute.Strategy` of all of them, or None if this process is alone.
    """

    index: int = 0
    count: int = 1
    strategy: object = None


CLUSTER = _Cluster()


def enter_cluster(index, count, strategy):
    """Records that this process is number `index` of `count` that train together with a strategy of `tf.distribute`."""
    CLUSTER.index, CLUSTER.count, CLUSTER.strategy = index, count, strategy


def processes():
    """Returns (index of this process, number of processes) of a training run; (0, 1) for a single process.

    Process 0, the chief, writes the files of a run.

    Example:
    >>> keras_vit.runtime.processes()
    (0, 1)
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.process_index(), jax.process_count()
    return CLUSTER.index, CLUSTER.count


def replicas():
    """Returns the number of replicas in the current scope of `tf.distribute`; 1 outside of a scope and on other backends."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def in_replica():
    """Returns whether the caller runs in one of several replicas of `tf.distribute`."""
    if replicas() == 1:
        return False
    import tensorflow as tf

    return tf.distribute.get_replica_context() is not None


def model_mesh():
    """Returns the device mesh over which heads and hidden units are sharded (tensor parallelism on JAX), or None."""
    if keras.backend.backend() != "jax":
        return None
    mesh = getattr(keras.distribution.distribution(), "device_mesh", None)
    return mesh if mesh is not None and "model" in mesh.axis_names else None
