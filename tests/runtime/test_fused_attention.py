import keras
import pytest
from helpers import (
    assert_close,
    attention_by_definition,
    random_inputs,
    requires_jax,
    requires_torch,
    to_numpy,
    value_and_gradients,
)
from keras import ops

from keras_vit.layers import MultiHeadSelfAttention
from keras_vit.runtime import fused_attention


@pytest.fixture
def cudnn(monkeypatch):
    """Stands XLA's attention in for cuDNN's, which computes no gradient for odd numbers of tokens; gives the numbers that it saw."""
    import jax

    seen = []

    def attend(query, key, value, *, implementation, attend=jax.nn.dot_product_attention, **options):
        assert implementation == "cudnn"
        seen.append((query.shape[1], key.shape[1]))
        return attend(query, key, value, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", attend)
    return seen


@requires_jax
@pytest.mark.parametrize("asked, tokens, padded", [(5, 5, (6, 6)), (1, 5, (2, 6)), (4, 4, (4, 4)), (1, 4, (2, 4))])
def test_cudnn_equals_the_definition_with_its_gradient(cudnn, asked, tokens, padded):
    inputs = [ops.convert_to_tensor(x) for x in random_inputs((2, 3, asked, 8), (2, 3, tokens, 8), (2, 3, tokens, 8))]
    expected, expected_gradients = value_and_gradients(attention_by_definition, *inputs)
    outputs, gradients = value_and_gradients(fused_attention.fused_attention, *inputs)
    assert_close(outputs, expected)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        assert_close(gradient, wanted, 1e-5)
    assert cudnn == [(asked, tokens), padded]


@requires_jax
def test_on_a_processor_there_is_no_cudnn(caplog):
    query = ops.zeros((2, 3, 5, 8), "bfloat16")
    assert not fused_attention.exists(query, query) and not caplog.records
    assert not fused_attention._by_cudnn_works.__wrapped__(8, "bfloat16")
    assert "cuDNN has no attention for heads of width 8 in bfloat16" in caplog.text


@requires_jax
def test_on_a_gpu_half_precision_takes_it_on_one_device(cudnn, monkeypatch):
    import jax

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(fused_attention, "_by_cudnn_works", fused_attention._by_cudnn_works.__wrapped__)
    query = ops.zeros((2, 3, 5, 8), "bfloat16")
    found = []
    jax.jit(lambda query: found.append(fused_attention.exists(query, query)) or query)(query)  # while a step is traced
    assert found == [True] and cudnn == [(4, 4)]
    assert not fused_attention.exists(ops.cast(query, "float32"), query)
    monkeypatch.setattr(keras.distribution, "distribution", lambda: "of several devices")
    assert not fused_attention.exists(query, query)


@requires_jax
def test_the_layer_takes_it(cudnn, monkeypatch):
    (tokens,) = random_inputs((2, 5, 16))
    layer = MultiHeadSelfAttention(2)
    expected = layer(tokens)
    monkeypatch.setattr(fused_attention, "exists", lambda query, key, bias: True)
    assert_close(layer(tokens), expected)
    assert_close(layer(tokens, num_queries=1), to_numpy(expected)[:, :1])
    assert cudnn == [(5, 5), (1, 5)]


@requires_torch
def test_torch_takes_its_own_for_long_sequences_on_a_processor(monkeypatch):
    query, key, value = (ops.convert_to_tensor(x) for x in random_inputs((2, 3, 5, 8), (2, 3, 5, 8), (2, 3, 5, 8)))
    assert not fused_attention.exists(query, key)
    monkeypatch.setattr(fused_attention, "LONG", 5)
    assert fused_attention.exists(query, key) and not fused_attention.exists(query[:, :, :1], key)
    assert_close(fused_attention.fused_attention(query, key, value), attention_by_definition(query, key, value))


@requires_torch
def test_torch_takes_its_own_on_another_device():
    (query,) = random_inputs((2, 3, 5, 8))
    query = ops.convert_to_tensor(query).to("meta")
    assert fused_attention.exists(query, query)
    assert keras.ops.shape(fused_attention.fused_attention(query, query, query)) == (2, 3, 5, 8)
