import keras
import numpy as np
import pytest
from helpers import assert_close, random_inputs, randomize, requires_tensorflow, to_numpy

from keras_vit import VisionTransformer
from keras_vit.layers import LayerNormalization, activations
from keras_vit.layers.resnet_stem import GroupNormalization, StandardizedConv2D
from keras_vit.one_dnn import one_dnn
from keras_vit.runtime import attention, fused, gelu, normalization, updates
from keras_vit.runtime.step import tracing

pytestmark = requires_tensorflow
COMPILED = {"XlaLaunch", "_XlaRun", "PartitionedCall", "StatefulPartitionedCall"}  # before and after TensorFlow's optimization


def value_and_gradients(function, step, x, upstream, weights=()):
    """Returns what a traced function gives, and the gradients of its input and of the weights."""
    import tensorflow as tf

    @tf.function
    def run(x):
        with tracing(step), tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return [y, *tape.gradient(y, [x, *weights], upstream)]

    return run(x)


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "quick_gelu", "normalization"])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_what_is_fused_is_the_same(name, dtype, tolerance):
    import tensorflow as tf

    x, upstream = (tf.cast(3.0 * value, dtype) for value in random_inputs((7, 64), (7, 64)))
    if name == "normalization":
        function = LayerNormalization(dtype=dtype)
        function.build((None, 64))
        randomize(function)
    else:
        function = activations.get(name)
    weights = getattr(function, "trainable_variables", [])
    expected = value_and_gradients(function, None, x, upstream, weights)
    for result, wanted in zip(value_and_gradients(function, "training", x, upstream, weights), expected, strict=True):
        assert result.dtype == wanted.dtype and result.shape == wanted.shape
        assert_close(result, wanted, tolerance)


@pytest.mark.parametrize("step", ["inference", "training"])
def test_what_is_fused_of_a_hybrid_is_the_same(step):
    x, shortcut, upstream = random_inputs((3, 5, 6, 16), (3, 5, 6, 16), (3, 5, 6, 16))
    norm, conv = GroupNormalization(4), StandardizedConv2D(16, 3, 1, standardization="std", epsilon=1e-5)
    for layer in (norm, conv):
        layer.build((None, 5, 6, 16))
        randomize(layer)

    def run(step):
        weights = norm.trainable_variables + conv.trainable_variables
        return value_and_gradients(lambda x: norm(conv(x), shortcut, relu=True), step, x, upstream, weights)

    for result, wanted in zip(run(step), run(None), strict=True):
        assert_close(result, wanted, 1e-5)


def test_only_the_inputs_are_kept():
    """The backward pass gets what the forward pass got: nothing of a chain of operations outlives it."""
    import tensorflow as tf

    @tf.function
    def run(x):
        with tracing("training"), tf.GradientTape() as tape:
            tape.watch(x)
            y = activations.get("gelu")(x)
        return tape.gradient(y, x)

    graph = run.get_concrete_function(tf.TensorSpec((None, 8))).graph
    forward, backward = [op for op in graph.get_operations() if "Partitioned" in op.type]
    upstream, *kept = (tensor.name for tensor in backward.inputs)
    assert kept == [tensor.name for tensor in forward.inputs] and "ones_like" in upstream


def small_model():
    keras.utils.set_random_seed(0)
    return randomize(VisionTransformer((8, 8, 3), 4, 32, 2, 2, 64, num_classes=3, classifier_activation=None), scale=0.2)


def fit(optimizer, **compiled):
    model = small_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **compiled)
    images, labels = 255.0 * random_inputs((12, 8, 8, 3))[0], np.arange(12) % 3
    # The last batch is smaller.
    losses = model.fit(images, labels, batch_size=5, epochs=2, shuffle=False, verbose=0).history["loss"]
    return model, losses


def test_fit_by_fused_kernels_is_fit(monkeypatch):
    monkeypatch.setattr(updates, "WORTH_COMPILING", 0)
    compiled = []
    monkeypatch.setattr(fused, "_fused", lambda function, fused=fused._fused: compiled.append(function) or fused(function))
    updated = []
    monkeypatch.setattr(
        updates, "_compiles", lambda optimizer, compiles=updates._compiles: updated.append(compiles(optimizer)) or updated[-1]
    )
    model, losses = fit("adamw")
    assert len({*compiled}) == (2 if one_dnn() else 3) and updated and all(updated)  # GELU, normalization, attention's products
    compiled.clear(), updated.clear()
    plain, expected = fit("adamw", run_eagerly=True)
    assert not compiled and not updated
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for weight, wanted in zip(model.weights, plain.weights, strict=True):
        # AdamW's step is the sign of a gradient at first, whose rounding it enlarges where it is next to nothing.
        assert np.mean(np.abs(to_numpy(weight) - to_numpy(wanted))) < 1e-5
    fit("sgd", jit_compile=True)
    assert not compiled and not updated  # XLA has all


def test_without_one_dnn_inference_is_fused_too(monkeypatch):
    """As on processors with AVX2 alone, where TensorFlow does not use oneDNN."""
    images, compiled = 255.0 * random_inputs((5, 8, 8, 3))[0], []
    model = small_model()
    expected = to_numpy(model(images))
    monkeypatch.setattr(fused, "_fused", lambda function, fused=fused._fused: compiled.append(function) or fused(function))
    for module in (attention, gelu, normalization):
        monkeypatch.setattr(module, "one_dnn", lambda: False)
    assert_close(model.predict_on_batch(images), expected)
    assert len({*compiled}) == 3  # GELU, normalization, attention's products


def test_a_call_is_of_keras_forms():
    import tensorflow as tf

    model = small_model()
    graph = tf.function(lambda x: model(x, training=True)).get_concrete_function(tf.TensorSpec((None, 8, 8, 3))).graph
    assert not {op.type for op in graph.get_operations()} & COMPILED
