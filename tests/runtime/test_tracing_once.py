"""The first step of training and of evaluation is traced once, not twice."""

import collections

import keras
import numpy as np
import pytest
from helpers import requires_tensorflow

import keras_vit
from keras_vit.training import AdamW

pytestmark = requires_tensorflow
TRACED = collections.Counter()
IMAGES, LABELS = np.zeros((6, 8, 8, 3), "uint8"), np.arange(6) % 3


class Counting(keras_vit.VisionTransformer):
    def train_step(self, data):
        TRACED["training"] += 1
        return super().train_step(data)

    def test_step(self, data):
        TRACED["evaluation"] += 1
        return super().test_step(data)


def counting(**arguments):
    model = Counting((8, 8, 3), 4, 8, 1, 2, 8, num_classes=3)
    TRACED.clear()
    arguments = dict(loss="sparse_categorical_crossentropy", metrics=["accuracy"]) | arguments
    model.compile(AdamW(1e-3, use_ema=True), jit_compile=False, **arguments)
    return model


@pytest.mark.parametrize("arguments", [{}, {"weighted_metrics": ["accuracy"], "steps_per_execution": 2}], ids=["plain", "weighted"])
def test_fit(arguments):
    model = counting(**arguments)
    history = model.fit(IMAGES, LABELS, 3, sample_weight=np.ones(6), validation_data=(IMAGES, LABELS), verbose=0).history
    assert TRACED == {"training": 1, "evaluation": 1} and "val_accuracy" in history


def test_batch_by_batch():
    model = counting()
    for _ in range(2):
        model.train_on_batch(IMAGES, LABELS), model.test_on_batch(IMAGES, LABELS)
    assert TRACED == {"training": 1, "evaluation": 1}


def test_evaluation_makes_no_optimizer_state():
    model = counting()
    model.evaluate(IMAGES, LABELS, verbose=0)
    assert TRACED == {"evaluation": 1} and not model.optimizer.built


def test_metrics_that_make_their_variables_late_train_and_labels_of_unknown_rank_get_keras_own_error():
    import tensorflow as tf

    model = counting(metrics=[keras.metrics.F1Score()], loss="categorical_crossentropy")
    batches = tf.data.Dataset.from_tensor_slices((IMAGES, np.eye(3, dtype="float32")[LABELS])).batch(3)
    assert len(model.fit(batches, verbose=0).history["f1_score"]) == 1
    unknown = batches.map(lambda x, y: (x, tf.py_function(lambda y: y, [y], tf.float32)))
    model.compile("sgd", lambda y, p: tf.reduce_mean((y - p) ** 2), metrics=[keras.metrics.MeanSquaredError()], jit_compile=False)
    with pytest.raises(ValueError, match="unknown rank"):  # Keras's own error
        model.fit(unknown, verbose=0)
