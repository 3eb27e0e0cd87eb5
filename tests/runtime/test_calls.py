import keras
import numpy as np
from helpers import random_inputs, requires_torch, to_numpy

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
def test_hooks_and_quantised_kernels_are_not_passed_over():
    (tokens,) = random_inputs((2, 5, 8))
    block = TransformerEncoderBlock(2, 16)
    expected = to_numpy(block(tokens))
    seen = []
    handle = block.mlp.fc1.register_forward_hook(lambda layer, inputs, output: seen.append(tuple(output.shape)))
    np.testing.assert_array_equal(to_numpy(block(tokens)), expected)
    assert seen == [(10, 16)]
    handle.remove()
    assert bare(block.mlp.fc1) == block.mlp.fc1.call
    block.mlp.fc1.quantize("int8")
    assert bare(block.mlp.fc1) is block.mlp.fc1
    outputs = to_numpy(block(tokens))
    assert not np.array_equal(outputs, expected)
    np.testing.assert_allclose(outputs, expected, atol=0.05)


def test_elsewhere_as_keras_does_it():
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    assert (bare(layer) is layer) == (keras.backend.backend() != "torch")
