import keras
import numpy as np
from helpers import requires_tensorflow, run_and_operations, to_numpy

from keras_vit.runtime import updates
from keras_vit.runtime.step import tracing

pytestmark = requires_tensorflow
COMPILED = {"XlaLaunch", "_XlaRun", "PartitionedCall", "StatefulPartitionedCall"}  # before and after TensorFlow's optimization


def test_updates_are_compiled_if_that_pays(monkeypatch):
    import tensorflow as tf

    weights = [keras.Variable(np.ones(4, "float32"))]

    class Own(keras.optimizers.SGD):
        """May do what XLA cannot compile."""

    def operations(optimizer, run=lambda function, args: function(*args)):
        optimizer.build(weights)

        def apply(gradient):
            with tracing("training"):
                updates.apply_updates(optimizer, [gradient], weights)

        return run_and_operations(tf.function(lambda gradient: run(apply, (gradient,))), tf.ones(4))[1]

    assert not operations(keras.optimizers.SGD()) & COMPILED
    monkeypatch.setattr(updates, "WORTH_COMPILING", 0)
    before = to_numpy(weights[0]).copy()
    assert operations(keras.optimizers.SGD(0.5)) & COMPILED
    np.testing.assert_allclose(to_numpy(weights[0]), before - 0.5)
    assert not operations(Own()) & COMPILED
    strategy = tf.distribute.OneDeviceStrategy("cpu:0")
    with strategy.scope():
        optimizer = keras.optimizers.SGD()
    assert not operations(optimizer, strategy.run) & COMPILED
