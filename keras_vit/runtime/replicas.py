"""What Keras 3 lacks under `tf.distribute`, mended in the trainer that our models share.

Each method below is here for one fault of Keras 3.15, and `tests/training/mirrored.py` shows the fault: should a release of Keras mend it,
that test fails, and the method can go.
"""

import contextlib
import functools
import json
import zlib

import keras
import numpy as np

from keras_vit.runtime import kernels

SEED_STRIDE = 1_000_003  # between the seeds of two replicas
_cluster = (0, 1)
_strategy = None  # of all processes that train together, on TensorFlow


def replicas():
    """Returns over how many replicas the current scope of `tf.distribute` divides a batch; 1 outside of any, and on other backends."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def model_mesh():
    """Returns the mesh of devices that heads and hidden units are divided over (tensor parallel, on JAX), or None."""
    if keras.backend.backend() != "jax":
        return None
    mesh = getattr(keras.distribution.distribution(), "device_mesh", None)
    return mesh if mesh is not None and "model" in mesh.axis_names else None


def enter_cluster(index, count, strategy):
    """Says that this process is number `index` of `count` that train together by a strategy of `tf.distribute`."""
    global _cluster, _strategy
    _cluster, _strategy = (index, count), strategy


def processes():
    """Returns the number of this process among those that train together, and how many they are: (0, 1) if it is alone.

    Process 0, the chief, writes what a run leaves.
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.process_index(), jax.process_count()
    return _cluster


def check_agreement(facts):
    """Refuses to train where processes that train together differ in a fact. Each of them must call this.

    Args:
        facts: dict from what it is to a value that can be written as text.

    Raises:
        ValueError: that names the facts, and the workers that differ from the first.
    """
    if processes()[1] == 1:
        return
    digests = [zlib.crc32(json.dumps(value, sort_keys=True, default=str).encode()) for value in facts.values()]
    if keras.backend.backend() == "jax":
        from jax.experimental import multihost_utils

        rows = multihost_utils.process_allgather(np.asarray(digests, "uint32"))
    else:
        import tensorflow as tf

        def gather():
            return _strategy.gather(_strategy.run(tf.constant, args=([digests], tf.int64)), axis=0)

        with _strategy.scope():
            rows = tf.function(gather, autograph=False)().numpy()
        rows = rows[:: len(rows) // processes()[1]]
    for (name, value), column in zip(facts.items(), zip(*rows)):
        if others := [number for number, digest in enumerate(column) if digest != column[0]]:
            raise ValueError(
                f"All workers must have the same {name}; worker 0 and {', '.join(map(str, others))} differ. "
                f"Received: {str(value)[:300]} here"
            )


def _graph_of(step):
    """Says what the graph is of that a method for a batch makes: see `keras_vit.runtime.kernels`."""

    def decorate(method):
        @functools.wraps(method)
        def traced(self, data):
            with contextlib.ExitStack() as stack:
                stack.enter_context(kernels.graph_of(None if self.jit_compile else step))
                stack.enter_context(kernels.fused_updates(getattr(self, "optimizer", None)))
                stack.enter_context(kernels.faster_precision(self._flatten_layers()))
                return method(self, data)

        return traced

    return decorate


class _ReplicaTrainer:
    """`fit` and `evaluate` on TensorFlow: with several replicas as on one device, and in parts where a batch does not fit into memory.

    Attributes:
        accumulation_steps: int. Parts that a replica computes its batch in, one after another, before a step of the optimizer.
    """

    accumulation_steps = 1

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Keras adds up the replicas' parts of a first batch, which need not have the same shape. Their specification is enough."""
        self._check_scopes()
        strategy = self.distribute_strategy
        if iterator is None or strategy.num_replicas_in_sync == 1:
            return super()._maybe_symbolic_build(iterator, data_batch)

        def of_one_replica(spec):
            return getattr(spec, "_component_specs", (spec,))[0]  # a PerReplicaSpec holds one for each

        spec = keras.tree.map_structure(of_one_replica, iterator._distributed_dataset.element_spec)
        with strategy.scope():
            self._symbolic_build(data_batch=spec)
            if processes()[1] > 1:
                check_agreement(self._facts(iterator))

    def _check_scopes(self):
        """Refuses what Keras would fail on, with messages that do not say why."""
        import tensorflow as tf

        mine, others = self._distribute_strategy, []
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
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

    def _facts(self, iterator):
        """Returns what must be equal on all workers, for training to be that of one device."""
        import tensorflow as tf

        from keras_vit.version import __version__

        dataset = iterator.data_adapter.get_tf_dataset()
        facts = {
            "versions of keras_vit, Keras and TensorFlow": (__version__, keras.__version__, tf.__version__),
            "architecture": [(v.path, tuple(v.shape), v.dtype, v.trainable) for v in self.variables],
            "optimizer": (type(self.optimizer).__name__, self.optimizer.get_config()) if self.optimizer else None,
            "`steps_per_execution` and `accumulation_steps`": (self.steps_per_execution, self.accumulation_steps),
            "batches": (iterator.num_batches, dataset.element_spec),
        }
        # Of a worker's own part only the form can be compared.
        if dataset.options().experimental_distribute.auto_shard_policy != tf.data.experimental.AutoShardPolicy.OFF:
            facts["first batch of data"] = [zlib.crc32(tensor.numpy().tobytes()) for tensor in keras.tree.flatten(list(dataset.take(1)))]
        return facts

    def _make_function(self, step_function):
        """Keras's loop of `steps_per_execution`, its mean of the replicas' metrics and its XLA fail or are inexact with replicas."""
        strategy = self.distribute_strategy
        if strategy.num_replicas_in_sync == 1:
            return super()._make_function(step_function)
        import tensorflow as tf

        def one_step(data):
            with _seeds_by_replica():
                strategy.run(step_function, args=(data,))

        one_step = self._autoconvert_optionals(one_step)

        @tf.autograph.experimental.do_not_convert
        def execute(iterator):
            if self.steps_per_execution == 1:
                one_step(iterator.get_next())
                return tf.constant(1), self.get_metrics_result()

            def step(done, batch):
                one_step(batch.get_value())
                return done + 1, tf.cond(done + 1 < self.steps_per_execution, iterator.get_next_as_optional, lambda: batch)

            done, _ = tf.while_loop(
                lambda done, batch: tf.logical_and(done < self.steps_per_execution, batch.has_value()),
                step,
                [tf.constant(0), iterator.get_next_as_optional()],
            )
            return done, self.get_metrics_result()

        def on_data(data):
            one_step(data)
            return self.get_metrics_result()

        if not self.run_eagerly:
            execute, on_data = tf.function(execute, reduce_retracing=True), tf.function(on_data, reduce_retracing=True)

        def function(iterator):
            if not isinstance(iterator, tf.distribute.DistributedIterator):
                for _, data in zip(range(self.steps_per_execution), iterator):
                    logs = on_data(data)
                return logs
            done, logs = execute(iterator)
            if not done:
                raise StopIteration
            return logs

        return function

    @_graph_of("training")
    def train_step(self, data):
        """Keras weights the replicas' parts of a batch alike, also if they have different numbers of images, and fails on none."""
        count = replicas()
        if count == 1 and self.accumulation_steps == 1:
            return super().train_step(data)
        import tensorflow as tf

        data = keras.utils.unpack_x_y_sample_weight(data)
        rows = _rows(data)
        weight = 1.0
        if count > 1:
            images = tf.cast(rows, "float32")
            weight = count * images / tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, images)
        gradients_of = self._gradients
        if self.jit_compile and count > 1:  # XLA does not compile what replicas do together
            gradients_of = tf.function(gradients_of, jit_compile=True)
        if count > 1 and any(getattr(layer, "synchronized", False) for layer in self._flatten_layers()):
            if self.accumulation_steps > 1 or self.jit_compile:
                raise ValueError(
                    "Replicas that share the statistics of batch normalization cannot do so within parts of a batch, or within XLA. "
                    f"Received: accumulation_steps={self.accumulation_steps}, jit_compile={self.jit_compile}"
                )
            few = "Batch normalization needs an image on every replica: leave the rest of the data out (drop_remainder=True)"
            tf.debugging.assert_positive(rows, few)
        if self.accumulation_steps == 1:
            gradients = gradients_of(*data, images=_never_empty(data[0]) if count > 1 else data[0], weight=weight)
        else:
            gradients = self._in_parts(gradients_of, data, rows, weight)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights))
        return self.get_metrics_result()

    @_graph_of("inference")
    def test_step(self, data):
        if replicas() == 1:
            return super().test_step(data)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = self._predict(x)
        loss = self._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=False)
        self._loss_tracker.update_state(loss * replicas(), sample_weight=_rows(x))
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
        """For every call Keras makes a pipeline of tf.data, which takes longer than a small model. One batch in memory needs none."""
        one_batch = isinstance(x, np.ndarray) and x.dtype.kind in "fiu" and x.ndim > 0 and 0 < len(x) <= (batch_size or 32)
        if not one_batch or steps is not None or callbacks or self.distribute_strategy.num_replicas_in_sync > 1:
            return super().predict(x, batch_size, verbose, steps, callbacks)
        bar = keras.callbacks.CallbackList(add_progbar=verbose != 0, verbose=verbose, epochs=1, steps=1, model=self)
        self.stop_predicting = False
        bar.on_predict_begin()
        bar.on_predict_batch_begin(0)
        # In the precision that the pipeline gives, for which the function may be traced already.
        outputs = self.predict_on_batch(x.astype(keras.config.floatx(), copy=False) if x.dtype.kind == "f" else x)
        bar.on_predict_batch_end(0, {"outputs": outputs})
        bar.on_predict_end()
        return outputs

    @_graph_of("inference")
    def predict_step(self, data):
        if replicas() == 1 or self.jit_compile:  # XLA takes an empty batch
            outputs = super().predict_step(data)
            if not hasattr(self, "outputs"):  # not a graph of layers
                return outputs
            return keras.tree.map_structure(lambda value, spec: keras.ops.cast(value, spec.dtype), outputs, self.output)
        return self._predict(keras.utils.unpack_x_y_sample_weight(data)[0])

    def _predict(self, x):
        rows = _rows(x)
        return _map(lambda value: value[:rows], self(_never_empty(x), training=False))

    def _in_parts(self, gradients_of, data, rows, weight):
        """Returns the gradients of a batch, computed part by part: a loop, so that the memory of one part is enough."""
        import tensorflow as tf

        def add(start, sums, size):
            def part(start, *sums):
                x, y, sample_weight = _map(lambda value: tf.slice(value, [start] + [0] * (value.shape.rank - 1), _first(size, value)), data)
                share = tf.cast(size, "float32") / tf.cast(rows, "float32")
                gradients = gradients_of(x, y, sample_weight, images=x, weight=weight * share)
                return start + size, *(total + gradient for total, gradient in zip(sums, gradients))

            more = tf.while_loop(lambda start, *_: tf.logical_and(size > 0, start + size <= rows), part, [start, *sums])
            return more[0], more[1:]

        start, sums = add(tf.constant(0), [tf.zeros_like(v) for v in self.trainable_weights], rows // self.accumulation_steps)
        return add(start, sums, rows - start)[1]  # what is left where the parts do not divide the batch

    def _gradients(self, x, y, sample_weight, images, weight):
        """Returns the gradients of a batch, or of a part of it, and updates the metrics. `images` is `x`, but never empty."""
        import tensorflow as tf

        rows = _rows(x)
        with tf.GradientTape() as tape:
            y_pred = self(images, training=True)
            if images is not x:
                y_pred = _map(lambda value: value[:rows], y_pred)
            loss = self._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)
            self._loss_tracker.update_state(loss * replicas(), sample_weight=rows)
            loss = self.optimizer.scale_loss(loss * tf.cast(weight, loss.dtype))
        gradients = tape.gradient(loss, self.trainable_weights)
        self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        return gradients


def _describe(strategy):
    return f"{type(strategy).__name__} of {strategy.num_replicas_in_sync} replicas"


def _map(function, values):
    """Returns the structure `values` with `function` applied to its tensors."""
    return keras.tree.map_structure(lambda value: None if value is None else function(value), values)


def _rows(values):
    import tensorflow as tf

    return tf.shape(next(value for value in keras.tree.flatten(values) if value is not None))[0]


def _first(size, value):
    """Returns the shape of the first `size` rows, for `tf.slice`."""
    return [size] + [-1] * (value.shape.rank - 1)


def _never_empty(values):
    """Returns a batch that may be empty with one black image in place of none, on which convolutions and their gradients fail."""
    import tensorflow as tf

    def fill(value):
        if value.shape[0] is not None:
            return value
        return tf.cond(tf.shape(value)[0] > 0, lambda: value, lambda: tf.zeros((1, *value.shape[1:]), value.dtype))

    return _map(fill, values)


@contextlib.contextmanager
def _seeds_by_replica():
    """While active, random numbers differ from replica to replica: Keras's generators have one state on all. The first keeps its own."""
    import tensorflow as tf

    draw = keras.random.SeedGenerator.next

    def next(self, ordered=True):
        seed, context = draw(self, ordered), tf.distribute.get_replica_context()
        number = context.replica_id_in_sync_group if context else 0
        return seed + tf.stack([tf.cast(number, seed.dtype) * SEED_STRIDE, tf.zeros((), seed.dtype)])

    keras.random.SeedGenerator.next = next
    try:
        yield
    finally:
        keras.random.SeedGenerator.next = draw


class _Plain:
    pass


ReplicaTrainer = _ReplicaTrainer if keras.backend.backend() == "tensorflow" else _Plain
