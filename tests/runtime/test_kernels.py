import keras
import numpy as np
import pytest
from helpers import assert_close, random_inputs, randomise, requires_tensorflow, run_and_operations, to_numpy

from keras_vit import VisionTransformer
from keras_vit.layers import LayerNormalization, activations
from keras_vit.layers.resnet_stem import GroupNormalization, StandardizedConv2D
from keras_vit.runtime import kernels

pytestmark = requires_tensorflow
COMPILED = {"XlaLaunch", "_XlaRun", "PartitionedCall", "StatefulPartitionedCall"}  # before and after TensorFlow's optimisation


def value_and_gradients(function, step, x, upstream, weights=()):
    """Returns what a traced function gives, and the gradients of its input and of the weights."""
    import tensorflow as tf

    @tf.function
    def run(x):
        with kernels.graph_of(step), tf.GradientTape() as tape:
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
        randomise(function)
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
        randomise(layer)

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
        with kernels.graph_of("training"), tf.GradientTape() as tape:
            tape.watch(x)
            y = activations.get("gelu")(x)
        return tape.gradient(y, x)

    graph = run.get_concrete_function(tf.TensorSpec((None, 8))).graph
    forward, backward = [op for op in graph.get_operations() if "Partitioned" in op.type]
    upstream, *kept = (tensor.name for tensor in backward.inputs)
    assert kept == [tensor.name for tensor in forward.inputs] and "ones_like" in upstream


def small_model():
    keras.utils.set_random_seed(0)
    return randomise(VisionTransformer((8, 8, 3), 4, 32, 2, 2, 64, num_classes=3, classifier_activation=None), scale=0.2)


def fit(optimizer, **compiled):
    model = small_model()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, **compiled)
    images, labels = 255.0 * random_inputs((12, 8, 8, 3))[0], np.arange(12) % 3
    # The last batch is smaller.
    losses = model.fit(images, labels, batch_size=5, epochs=2, shuffle=False, verbose=0).history["loss"]
    return model, losses


def test_fit_by_fused_kernels_is_fit(monkeypatch):
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)
    compiled = []
    monkeypatch.setattr(kernels, "_fused", lambda function, fused=kernels._fused: compiled.append(function) or fused(function))
    updates = []
    monkeypatch.setattr(
        kernels, "_compiles", lambda optimizer, compiles=kernels._compiles: updates.append(compiles(optimizer)) or updates[-1]
    )
    model, losses = fit("adamw")
    assert len({*compiled}) == 2 and updates and all(updates)  # GELU, normalization
    assert "apply" not in vars(model.optimizer)
    compiled.clear(), updates.clear()
    plain, expected = fit("adamw", run_eagerly=True)
    assert not compiled and not updates
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for weight, wanted in zip(model.weights, plain.weights, strict=True):
        # AdamW's step is the sign of a gradient at first, whose rounding it enlarges where it is next to nothing.
        assert np.mean(np.abs(to_numpy(weight) - to_numpy(wanted))) < 1e-5
    fit("sgd", jit_compile=True)
    assert not compiled and not updates  # XLA has all


def test_a_call_is_of_keras_forms():
    import tensorflow as tf

    model = small_model()
    graph = tf.function(lambda x: model(x, training=True)).get_concrete_function(tf.TensorSpec((None, 8, 8, 3))).graph
    assert not {op.type for op in graph.get_operations()} & COMPILED


def test_updates_are_compiled_if_that_pays(monkeypatch):
    import tensorflow as tf

    weights = [keras.Variable(np.ones(4, "float32"))]

    class Own(keras.optimizers.SGD):
        """May do what XLA cannot compile."""

    def operations(optimizer, run=lambda function, args: function(*args)):
        optimizer.build(weights)

        def apply(gradient):
            with kernels.graph_of("training"), kernels.fused_updates(optimizer):
                optimizer.apply([gradient], weights)

        return run_and_operations(tf.function(lambda gradient: run(apply, (gradient,))), tf.ones(4))[1]

    assert not operations(keras.optimizers.SGD()) & COMPILED
    monkeypatch.setattr(kernels, "WORTH_COMPILING", 0)
    before = to_numpy(weights[0]).copy()
    assert operations(keras.optimizers.SGD(0.5)) & COMPILED
    np.testing.assert_allclose(to_numpy(weights[0]), before - 0.5)
    assert not operations(Own()) & COMPILED
    strategy = tf.distribute.OneDeviceStrategy("cpu:0")
    with strategy.scope():
        optimizer = keras.optimizers.SGD()
    assert not operations(optimizer, strategy.run) & COMPILED


@pytest.mark.parametrize("policy", ["bfloat16", "mixed_bfloat16"])
def test_bfloat16_goes_through_float32_where_that_is_faster(policy, monkeypatch):
    keras.utils.set_random_seed(0)
    model = randomise(VisionTransformer((8, 8, 3), 4, 32, 2, 2, 64, include_top=False, dtype=policy))
    images = 255.0 * random_inputs((5, 8, 8, 3))[0]

    def predict(fast):
        monkeypatch.setattr(kernels, "_multiplies_bfloat16", lambda: fast)
        model.compile()
        return model.predict(images, verbose=0)

    native, wide = predict(True), predict(False)
    assert native.dtype == wide.dtype == model.output.dtype == "bfloat16"
    exact = VisionTransformer.from_config(model.get_config() | {"dtype": "float32"})
    exact.set_weights([np.asarray(weight).astype("float32") for weight in model.get_weights()])
    np.testing.assert_array_equal(wide, exact.predict(images, verbose=0).astype("bfloat16"))
    assert 0.0 < np.abs(np.float32(native) - np.float32(wide)).max() < 3e-2
    assert {layer.compute_dtype for layer in model.get_layer("block_0")._flatten_layers()} == {"bfloat16"}
    assert {weight.dtype for weight in model.weights} == {"bfloat16" if policy == "bfloat16" else "float32"}


@pytest.mark.parametrize(
    "cpuinfo, fast",
    [
        ("vendor_id: GenuineIntel flags: avx512f avx512_bf16", False),
        ("vendor_id: GenuineIntel flags: avx512_bf16 amx_bf16", True),
        ("vendor_id: GenuineIntel flags: avx2", False),
        ("vendor_id: AuthenticAMD flags: avx512_bf16", True),
        ("vendor_id: AuthenticAMD flags: avx2", False),
        ("Features: asimd bf16", True),
    ],
)
def test_which_processors_multiply_bfloat16(cpuinfo, fast, monkeypatch):
    monkeypatch.setattr(kernels.pathlib.Path, "read_text", lambda path: cpuinfo)
    assert kernels._multiplies_bfloat16.__wrapped__() == fast


def test_mixed_precision_trains_as_float32_where_that_is_faster(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(kernels, "_multiplies_bfloat16", lambda: False)

    def fit(dtype):
        keras.utils.set_random_seed(0)
        model = VisionTransformer((8, 8, 3), 4, 32, 2, 2, 64, num_classes=3, dtype=dtype)
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.fit(255.0 * random_inputs((8, 8, 8, 3))[0], np.arange(8) % 3, batch_size=4, shuffle=False, verbose=0)
        return model.get_weights()

    for weight, wanted in zip(fit("mixed_bfloat16"), fit("float32"), strict=True):
        np.testing.assert_array_equal(weight, wanted)
    layer = LayerNormalization(dtype="mixed_bfloat16")
    with tf.Graph().as_default(), kernels.graph_of("training"):
        with kernels.faster_precision([layer]):
            assert layer.compute_dtype == "float32"
        with tf.distribute.OneDeviceStrategy("cpu:0").scope(), kernels.faster_precision([layer]):
            assert layer.compute_dtype == "bfloat16"
