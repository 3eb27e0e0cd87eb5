import keras
import numpy as np
import pytest
from helpers import (
    assert_close,
    check_layer,
    random_inputs,
    randomize,
    requires_jax,
    requires_tensorflow,
    requires_torch,
    run_and_operations,
    to_numpy,
    value_and_gradients,
)
from keras import ops

from keras_vit import VisionTransformer
from keras_vit.layers import LayerNormalization
from keras_vit.one_dnn import one_dnn
from keras_vit.runtime import normalization
from keras_vit.runtime.step import tracing


def test_layer(other_process):
    check_layer(LayerNormalization, {"epsilon": 1e-6}, (2, 5, 8), output_shape=(2, 5, 8), other_process=other_process)


@requires_jax
@pytest.mark.parametrize("dtype, tolerance", [("bfloat16", 1e-2), ("float16", 2e-3)])
def test_as_on_a_gpu_in_one_pass(dtype, tolerance, monkeypatch):
    (inputs,) = random_inputs((2, 5, 64))
    inputs = ops.cast(3.0 * inputs + 2.0, dtype)
    layer = LayerNormalization(dtype=dtype)
    layer.build(inputs.shape)
    randomize(layer)
    expected, gradients = value_and_gradients(layer, inputs)
    monkeypatch.setattr(normalization, "half_on_gpu", lambda x: True)
    outputs, found = value_and_gradients(layer, inputs)
    for a, b in ((outputs, expected), (found[0], gradients[0])):
        assert a.dtype == b.dtype
        a, b = (to_numpy(ops.cast(x, "float32")) for x in (a, b))
        assert np.linalg.norm(a - b) < tolerance * np.linalg.norm(b)


@requires_torch
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_on_torch_in_one_kernel(dtype):
    (inputs,) = random_inputs((2, 5, 64))
    layer, keras_form = LayerNormalization(dtype=dtype), keras.layers.LayerNormalization(epsilon=1e-6, dtype=dtype)
    for each in (layer, keras_form):
        each.build(inputs.shape)
        randomize(each)
    outputs, expected = layer(inputs), keras_form(inputs)
    assert outputs.dtype == expected.dtype
    assert_close(ops.cast(outputs, "float32"), ops.cast(expected, "float32"), 1e-5 if dtype == "float32" else 3e-2)


@requires_tensorflow
@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-6), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("batch", [None, 3])
@pytest.mark.parametrize("shape", [(64,), (5, 64)])
def test_one_kernel_gives_the_same(dtype, tolerance, batch, shape):
    import tensorflow as tf

    layer = LayerNormalization(epsilon=1e-6, dtype=dtype)
    layer.build((None, *shape))
    randomize(layer)
    x = tf.cast(2.0 * random_inputs((3, *shape))[0] + 1.0, dtype)

    @tf.function(input_signature=[tf.TensorSpec((batch, *shape), dtype)])
    def fused(x):
        with tracing("inference"):
            return layer(x)

    result, operations = run_and_operations(fused, x)
    assert fused.get_concrete_function().output_shapes == (batch, *shape)
    if one_dnn():
        assert "_MklLayerNorm" in operations and "SquaredDifference" not in operations
    centered = to_numpy(x) - to_numpy(x).mean(-1, keepdims=True)
    expected = centered / np.sqrt(np.square(centered).mean(-1, keepdims=True) + 1e-6) * to_numpy(layer.gamma) + to_numpy(layer.beta)
    assert_close(result, expected, tolerance)


@requires_tensorflow
@pytest.mark.parametrize("options", [{"center": False}, {"scale": False}, {"axis": 1}])
def test_other_forms_are_left_to_keras(options):
    import tensorflow as tf

    layer, (x,) = LayerNormalization(**options), random_inputs((3, 5, 8))
    expected = layer(x)
    with tracing("inference"):
        assert_close(tf.function(layer)(tf.constant(x)), expected)


@requires_tensorflow
def test_who_runs_it():
    """`predict` and `evaluate` do; a call, which may be exported or differentiated, and XLA do not."""
    import tensorflow as tf

    model = randomize(VisionTransformer((8, 8, 3), 4, 32, 2, 2, 64, num_classes=3), scale=0.1)
    model.compile(loss="sparse_categorical_crossentropy", jit_compile=False)
    images, labels = 255.0 * random_inputs((5, 8, 8, 3))[0], np.arange(5) % 3
    expected = keras.ops.convert_to_numpy(model(images))
    predicted, operations = run_and_operations(lambda x: model.predict(x, batch_size=3, verbose=0), images)
    assert ("_MklLayerNorm" in operations) == one_dnn()
    assert_close(predicted, expected)
    loss, operations = run_and_operations(lambda: model.evaluate(images, labels, batch_size=5, verbose=0))
    assert ("_MklLayerNorm" in operations) == one_dnn()
    assert loss == pytest.approx(-np.log(expected[np.arange(5), labels]).mean(), rel=1e-5)

    _, operations = run_and_operations(tf.function(lambda x: model(x, training=False)), tf.constant(images))
    assert not operations & {"_MklLayerNorm", "FusedBatchNormV3"}
    assert "FusedBatchNormV3" not in {node.op for node in concrete(model).graph.as_graph_def().node}
    model.compile(loss="sparse_categorical_crossentropy", jit_compile=True)
    _, operations = run_and_operations(model.predict_on_batch, images)
    assert not operations & {"_MklLayerNorm", "FusedBatchNormV3"}


def concrete(model):
    import tensorflow as tf

    return tf.function(model).get_concrete_function(tf.TensorSpec((None, 8, 8, 3)))
