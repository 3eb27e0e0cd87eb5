import keras
import numpy as np
import pytest
from helpers import random_inputs, requires_torch, to_numpy

from keras_vit import VisionTransformer
from keras_vit.layers import TransformerEncoderBlock
from keras_vit.runtime.calls import bare


@requires_torch
def test_on_torch_a_sublayer_is_called_without_what_keras_does_around_it(monkeypatch):
    calls = []
    original = keras.layers.Layer.__call__
    monkeypatch.setattr(
        keras.layers.Layer, "__call__", lambda self, *args, **kwargs: calls.append(self.name) or original(self, *args, **kwargs)
    )
    (tokens,) = random_inputs((2, 5, 8))
    block = TransformerEncoderBlock(2, 16, qk_norm=True)
    block(tokens)
    calls.clear()
    block(tokens)
    assert calls == [block.name]


@requires_torch
def test_hooks_and_quantized_kernels_are_not_passed_over():
    (tokens,) = random_inputs((2, 5, 8))
    block = TransformerEncoderBlock(2, 16)
    expected = to_numpy(block(tokens))
    seen = []
    handle = block.mlp.fc1.register_forward_hook(lambda layer, inputs, output: seen.append(tuple(output.shape)))
    np.testing.assert_array_equal(to_numpy(block(tokens)), expected)
    assert seen == [(10, 16)]
    handle.remove()
    assert bare(block.mlp.fc1) is not block.mlp.fc1
    block.mlp.fc1.quantize("int8")
    assert bare(block.mlp.fc1) is block.mlp.fc1
    outputs = to_numpy(block(tokens))
    assert not np.array_equal(outputs, expected)
    np.testing.assert_allclose(outputs, expected, atol=0.05)


@requires_torch
@pytest.mark.parametrize("change", ["plain", "no bias", "activation", "lora", "float64 inputs"])
def test_a_dense_layer_adds_its_bias_in_the_product(change):
    options = {"no bias": {"use_bias": False}, "activation": {"activation": "relu"}}.get(change, {})
    layer = keras.layers.Dense(3, bias_initializer="normal", **options)
    layer.build((None, 8))
    if change == "lora":
        layer.enable_lora(2, b_initializer="normal")
    (inputs,) = random_inputs((5, 8))
    inputs = keras.ops.convert_to_tensor(inputs, "float64" if change == "float64 inputs" else "float32")
    expected, found = layer.call(inputs), bare(layer)(inputs)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(to_numpy(found), to_numpy(expected), atol=1e-6)


@requires_torch
def test_torch_compiles_a_model_as_one_graph():
    import torch

    # Keras's own layer of the preprocessing asks TensorFlow, if it is imported, whether it is in a graph.
    model = VisionTransformer((8, 8, 3), 4, 8, 1, 2, 16, num_classes=3, include_preprocessing=False)
    (images,) = random_inputs((2, 8, 8, 3))
    images = keras.ops.convert_to_tensor(images)
    compiled = torch.compile(lambda x: model(x, training=True), fullgraph=True, backend="eager")  # raises where a graph would break
    np.testing.assert_allclose(to_numpy(compiled(images)), to_numpy(model(images)), atol=1e-6)


def test_elsewhere_as_keras_does_it():
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    assert (bare(layer) is layer) == (keras.backend.backend() != "torch")
