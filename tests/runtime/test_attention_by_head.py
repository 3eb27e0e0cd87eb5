import keras
import numpy as np
import pytest
from helpers import assert_close, attention_by_definition, random_inputs, requires_tensorflow, to_numpy, value_and_gradients
from keras import ops

from keras_vit import VisionTransformer
from keras_vit.layers import MultiHeadSelfAttention
from keras_vit.runtime import attention_by_head as module

not_torch = pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch has a kernel of its own")


@not_torch
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 3e-2)])
@pytest.mark.parametrize("rows", [4, 7, 100])
def test_equals_the_definition(monkeypatch, rows, dtype, tolerance):
    monkeypatch.setattr(module, "ROWS", rows)
    inputs = random_inputs((2, 3, 11, 4), (2, 3, 11, 4), (2, 3, 11, 4))
    expected, expected_gradients = value_and_gradients(attention_by_definition, *map(ops.convert_to_tensor, inputs))
    outputs, gradients = value_and_gradients(module.attention_by_head, *(ops.cast(x, dtype) for x in inputs))
    assert keras.backend.standardize_dtype(outputs.dtype) == dtype
    assert_close(outputs, expected, tolerance)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert_close(gradient, wanted, 2 * tolerance)


@not_torch
@pytest.mark.parametrize("options", [{}, {"qk_norm": True}])
def test_the_layer_takes_it_for_long_sequences(monkeypatch, options):
    layer = MultiHeadSelfAttention(2, **options)
    (tokens,) = random_inputs((2, 9, 8))
    expected = layer(tokens)
    monkeypatch.setattr(module, "LONG", 9)
    calls = []
    monkeypatch.setattr(
        module, "attention_by_head", lambda *inputs, original=module.attention_by_head: calls.append(1) or original(*inputs)
    )
    assert_close(layer(tokens), expected)
    assert_close(layer(tokens, num_queries=1), to_numpy(expected)[:, :1])
    assert len(calls) == 1  # one query holds no square of scores
    assert_close(layer(tokens[:, :8]), layer(tokens[:, :8]))
    assert len(calls) == 1


def test_dropout_of_weights_needs_them_all(monkeypatch):
    monkeypatch.setattr(module, "LONG", 9)
    layer = MultiHeadSelfAttention(2, attention_dropout_rate=0.5)
    (tokens,) = random_inputs((2, 9, 8))
    monkeypatch.setattr(module, "attention_by_head", None)
    assert not np.allclose(to_numpy(layer(tokens, training=True)), to_numpy(layer(tokens, training=True)))


@requires_tensorflow
@pytest.mark.parametrize("remat", [False, True])
def test_a_model_trains_by_it(monkeypatch, remat):
    def trained():
        keras.utils.set_random_seed(0)
        model = VisionTransformer((8, 12, 3), 2, 8, 2, 2, 16, num_classes=3, remat=remat, dtype="float32")
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", jit_compile=False)
        images = 255.0 * np.random.default_rng(0).uniform(size=(6, 8, 12, 3))
        losses = model.fit(images, np.arange(6) % 3, batch_size=3, epochs=2, verbose=0, shuffle=False).history["loss"]
        return [*losses, *model.predict(images, verbose=0).ravel()]

    expected = trained()
    monkeypatch.setattr(module, "LONG", 25)
    np.testing.assert_allclose(trained(), expected, rtol=1e-5)


@requires_tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_open_batch_training_and_xla(monkeypatch, jit_compile):
    """With a batch that is open, as `fit` has it, and XLA, which knows all shapes."""
    import tensorflow as tf

    monkeypatch.setattr(module, "ROWS", 4)
    inputs = [tf.constant(x) for x in random_inputs((2, 3, 11, 4), (2, 3, 11, 4), (2, 3, 11, 4))]
    shape = (2 if jit_compile else None, 3, 11, 4)

    @tf.function(input_signature=[tf.TensorSpec(shape)] * 3, jit_compile=jit_compile)
    def gradients(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(module.attention_by_head(*inputs) ** 3)
        return tape.gradient(loss, inputs)

    for gradient, wanted in zip(gradients(*inputs), value_and_gradients(attention_by_definition, *inputs)[1], strict=True):
        assert_close(gradient, wanted, 1e-5)
