"""What our models add to Keras's trainer: fast steps on TensorFlow's CPU, replicas, and gradient accumulation.

All of it overrides public methods of `keras.Model`, except for three private ones: `_maybe_symbolic_build`,
`_make_function` and, on OpenVINO, `_get_compiled_model`. On JAX it knows one private attribute, `_jax_state`.
"""

from typing import Any

import keras

from keras_vit.runtime import accumulation, batch, distributed, openvino, prediction, tracing_once
from keras_vit.runtime.agreement import check_agreement
from keras_vit.runtime.devices import processes, replicas
from keras_vit.runtime.freed_memory import keep_freed_memory
from keras_vit.runtime.step import tracing
from keras_vit.runtime.switch import fast_paths
from keras_vit.runtime.updates import apply_updates


class _Trainer:
    """The trainer on every backend: steps are traced again after `use_fast_paths`."""

    _traced_with_fast_paths = True

    def make_train_function(self, force=False):
        self._forget_steps()
        keep_freed_memory()
        return super().make_train_function(force)

    def make_test_function(self, force=False):
        self._forget_steps()
        return super().make_test_function(force)

    def make_predict_function(self, force=False):
        self._forget_steps()
        return super().make_predict_function(force)

    def _forget_steps(self):
        if self._traced_with_fast_paths != fast_paths():
            self.train_function = self.test_function = self.predict_function = None
            self._traced_with_fast_paths = fast_paths()


class _TensorFlowTrainer(_Trainer):
    """The trainer on TensorFlow. Several replicas train as one device does.

    Attributes:
        accumulation_steps: int. Number of micro-batches that a replica computes, one after another, before the optimizer's update.
    """

    accumulation_steps = 1

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        distributed.check_scopes(self)
        strategy = self.distribute_strategy
        if self._distribute_strategy is None:
            data = data_batch if iterator is None else iterator._distributed_dataset.element_spec
            return tracing_once.make_variables_of_metrics(self, data)
        if iterator is None or strategy.num_replicas_in_sync == 1:
            return super()._maybe_symbolic_build(iterator, data_batch)
        with strategy.scope():
            self._symbolic_build(data_batch=distributed.specification(iterator))
            if processes()[1] > 1:
                check_agreement(distributed.facts(self, iterator))

    def make_train_function(self, force=False):
        if self._distribute_strategy is None:
            tracing_once.make_variables_of_optimizer(self)
        return super().make_train_function(force)

    def _make_function(self, step_function):
        if self.distribute_strategy.num_replicas_in_sync == 1:
            return super()._make_function(step_function)
        return distributed.make_function(self, step_function)

    def train_step(self, data):
        with self._tracing("training"):
            gradients = self._gradients(keras.utils.unpack_x_y_sample_weight(data))
            apply_updates(self.optimizer, gradients, self.trainable_weights)
            return self.get_metrics_result()

    def _gradients(self, data):
        import tensorflow as tf

        count, gradients_of, weight = replicas(), self._gradients_of, None
        if count > 1:
            size = batch.rows(data)
            weight = distributed.share(size)
            distributed.check_synchronized(self, size)
            if self.jit_compile:  # XLA compiles no communication between replicas
                gradients_of = tf.function(gradients_of, jit_compile=True)
        if self.accumulation_steps > 1:
            return accumulation.accumulated(gradients_of, data, self.accumulation_steps, self.trainable_weights, weight)
        return gradients_of(*data, images=batch.never_empty(data[0]) if count > 1 else data[0], weight=weight)

    def _gradients_of(self, x, y, sample_weight, images, weight):
        return accumulation.gradients(self, x, y, sample_weight, images, weight)

    def test_step(self, data):
        with self._tracing("inference"):
            if replicas() == 1:
                return super().test_step(data)
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
            y_pred = self._predict_some(x)
            loss = self._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=False)
            self._loss_tracker.update_state(loss * replicas(), sample_weight=batch.rows(x))
            return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def predict_step(self, data):
        with self._tracing("inference"):
            if replicas() > 1 and not self.jit_compile:  # XLA accepts an empty batch
                return self._predict_some(keras.utils.unpack_x_y_sample_weight(data)[0])
            outputs = super().predict_step(data)
            if not hasattr(self, "outputs"):  # not a functional model
                return outputs
            return keras.tree.map_structure(lambda value, spec: keras.ops.cast(value, spec.dtype), outputs, self.output)

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
        """Generates predictions, see `keras.Model.predict`. One batch in memory needs no `tf.data` pipeline."""
        one_device = self.distribute_strategy.num_replicas_in_sync == 1
        if fast_paths() and one_device and steps is None and not callbacks and prediction.is_one_batch(x, batch_size):
            return prediction.predict_one_batch(self, x, verbose)
        return super().predict(x, batch_size, verbose, steps, callbacks)

    def _predict_some(self, x):
        """Returns the predictions for a batch that may be empty."""
        size = batch.rows(x)
        return batch.map_tensors(lambda value: value[:size], self(batch.never_empty(x), training=False))

    def _tracing(self, kind):
        return tracing(None if self.jit_compile else kind)


class _JAXTrainer(_Trainer):
    """The trainer on JAX, whose state Keras sets as an attribute in every step."""

    def __setattr__(self, name, value):
        if name == "_jax_state":  # only read and replaced; Keras would wrap its lists value by value: 0.4 ms in a step of ViT-Ti/16
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)


class _OpenVINOTrainer(openvino.Inference, _Trainer):
    pass


_TRAINERS = {"tensorflow": _TensorFlowTrainer, "jax": _JAXTrainer, "openvino": _OpenVINOTrainer}
Trainer: Any = _TRAINERS.get(keras.backend.backend(), _Trainer)


class FunctionalModel(Trainer, keras.Model):
    """A functional model that predicts as fast as a `VisionTransformer`. Arguments as of `keras.Model`."""
