"""Workarounds for faults of Keras 3.15 under `tf.distribute`, as functions that the trainer calls.

`tests/training/mirrored.py` and `tests/training/workers.py` show each fault. Once a release of Keras fixes one, its test fails, and the
function can be removed.
"""

import zlib

import keras

from keras_vit.runtime.devices import replicas


def specification(iterator):
    """Returns the specification of one replica's share of a batch.

    To build a model, Keras adds the replicas' shares of the first batch; this fails if their shapes differ.
    """

    def of_one_replica(spec):
        return getattr(spec, "_component_specs", (spec,))[0]  # a PerReplicaSpec has one for each replica

    return keras.tree.map_structure(of_one_replica, iterator._distributed_dataset.element_spec)


def check_scopes(model):
    """Checks that a model was built, compiled and called in the scope of one strategy. Keras's own errors do not name the cause.

    Raises:
        ValueError: if the scopes differ.
    """
    import tensorflow as tf

    mine, others = model._distribute_strategy, []
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if optimizer is not None and optimizer._distribution_strategy.num_replicas_in_sync > 1:
        others.append(("compiled", optimizer._distribution_strategy))
    if tf.distribute.has_strategy():
        others.append(("called", tf.distribute.get_strategy()))
    for what, other in others:
        if other is not mine and max(other.num_replicas_in_sync, mine.num_replicas_in_sync if mine else 1) > 1:
            raise ValueError(
                "A model must be built, compiled and called in the scope of the same strategy. "
                f"Received: built {f'in the scope of {_describe(mine)}' if mine else 'outside of any'}, "
                f"{what} in that of {_describe(other)}"
            )


def _describe(strategy):
    return f"{type(strategy).__name__} of {strategy.num_replicas_in_sync} replicas"


def facts(model, iterator):
    """Returns the facts for `check_agreement`: what must be equal on all workers for them to train as one device does."""
    import tensorflow as tf

    from keras_vit.version import __version__

    dataset = iterator.data_adapter.get_tf_dataset()
    found = {
        "versions of keras_vit, Keras and TensorFlow": (__version__, keras.__version__, tf.__version__),
        "architecture": [(v.path, tuple(v.shape), v.dtype, v.trainable) for v in model.variables],
        "optimizer": (type(model.optimizer).__name__, model.optimizer.get_config()) if model.optimizer else None,
        "`steps_per_execution` and `accumulation_steps`": (model.steps_per_execution, model.accumulation_steps),
        "batches": (iterator.num_batches, dataset.element_spec),
    }
    # If each worker reads its own shard, only the structure of the data can be compared.
    if dataset.options().experimental_distribute.auto_shard_policy != tf.data.experimental.AutoShardPolicy.OFF:
        found["first batch of data"] = [zlib.crc32(tensor.numpy().tobytes()) for tensor in keras.tree.flatten(list(dataset.take(1)))]
    return found


def make_function(model, step_function):
    """Returns the function that takes `steps_per_execution` steps of an iterator on all replicas.

    On several replicas, Keras's loop over steps, its mean of metrics and its use of XLA fail or are inexact.
    """
    import tensorflow as tf

    strategy = model.distribute_strategy
    one_step = model._autoconvert_optionals(lambda data: strategy.run(step_function, args=(data,)))

    @tf.autograph.experimental.do_not_convert
    def execute(iterator):
        if model.steps_per_execution == 1:
            one_step(iterator.get_next())
            return tf.constant(1), model.get_metrics_result()

        def step(done, batch):
            one_step(batch.get_value())
            return done + 1, tf.cond(done + 1 < model.steps_per_execution, iterator.get_next_as_optional, lambda: batch)

        done, _ = tf.while_loop(
            lambda done, batch: tf.logical_and(done < model.steps_per_execution, batch.has_value()),
            step,
            [tf.constant(0), iterator.get_next_as_optional()],
        )
        return done, model.get_metrics_result()

    def on_data(data):
        one_step(data)
        return model.get_metrics_result()

    if not model.run_eagerly:
        execute, on_data = tf.function(execute, reduce_retracing=True), tf.function(on_data, reduce_retracing=True)

    def function(iterator):
        if not isinstance(iterator, tf.distribute.DistributedIterator):
            for _, data in zip(range(model.steps_per_execution), iterator):
                logs = on_data(data)
            return logs
        done, logs = execute(iterator)
        if not done:
            raise StopIteration
        return logs

    return function


def check_synchronized(model, rows):
    """Checks that batch normalization over all replicas can be computed.

    Raises:
        ValueError: if micro-batches or XLA are in use.
        tf.errors.InvalidArgumentError: in the step, if a replica has no image.
    """
    import tensorflow as tf

    if not any(getattr(layer, "synchronized", False) for layer in model._flatten_layers()):
        return
    if model.accumulation_steps > 1 or model.jit_compile:
        raise ValueError(
            "Batch normalization over all replicas works neither with micro-batches nor with XLA. "
            f"Received: accumulation_steps={model.accumulation_steps}, jit_compile={model.jit_compile}"
        )
    few = "Batch normalization needs an image on every replica: drop the last, smaller batch (drop_remainder=True)"
    tf.debugging.assert_positive(rows, few)


def share(rows):
    """Returns the weight of a replica's loss. Keras gives all replicas the same weight, even if their numbers of images differ."""
    import tensorflow as tf

    images = tf.cast(rows, "float32")
    return replicas() * images / tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, images)
