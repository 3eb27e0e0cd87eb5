import math

import numpy as np
import pytest
from helpers import assert_close, check_layer, random_inputs, randomize, to_numpy
from keras import ops

from keras_vit.layers import MultiHeadSelfAttention
from keras_vit.layers.multi_head_self_attention import QKVInitializer

CONFIGS = [
    {"num_heads": 2},
    {"num_heads": 4, "use_qkv_bias": "query_value"},
    {"num_heads": 2, "qk_norm": True, "output_norm": True, "norm_epsilon": 1e-3},
]


@pytest.mark.parametrize("config", CONFIGS)
def test_layer(config, other_process):
    check_layer(MultiHeadSelfAttention, config, (2, 5, 8), output_shape=(2, 5, 8), other_process=other_process, half_tolerance=0.05)


def normalize(x, gamma, beta, epsilon):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * gamma + beta


def loop_attention(layer, tokens):
    """One sample, head and query at a time, in float64."""
    weights = {"/".join(w.path.split("/")[-2:]): to_numpy(w).astype("float64") for w in layer.weights}
    batch, count, width = tokens.shape
    heads = layer.num_heads
    head_dim = width // heads
    bias = weights.get("qkv/bias", np.zeros(3 * width))
    if layer.use_qkv_bias == "query_value":
        bias = np.concatenate([bias[:width], np.zeros(width), bias[width:]])
    mixed = np.zeros(tokens.shape)
    for b in range(batch):
        qkv = tokens[b].astype("float64") @ weights["qkv/kernel"] + bias
        for h in range(heads):
            q, k, v = (qkv[:, part * width + h * head_dim :][:, :head_dim] for part in range(3))
            if layer.qk_norm:
                q = normalize(q, weights["query_norm/gamma"], weights["query_norm/beta"], layer.norm_epsilon)
                k = normalize(k, weights["key_norm/gamma"], weights["key_norm/beta"], layer.norm_epsilon)
            for i in range(count):
                scores = np.exp([q[i] @ k[j] / math.sqrt(head_dim) for j in range(count)])
                mixed[b, i, h * head_dim : (h + 1) * head_dim] = scores / scores.sum() @ v
    if layer.output_norm:
        mixed = normalize(mixed, weights["norm/gamma"], weights["norm/beta"], layer.norm_epsilon)
    return mixed @ weights["projection/kernel"] + weights["projection/bias"]


@pytest.mark.parametrize("config", CONFIGS)
def test_values_in_every_form_of_the_call(config):
    (tokens,) = random_inputs((2, 5, 8))
    layer = MultiHeadSelfAttention(**config)
    layer.build(tokens.shape)
    randomize(layer)
    expected = loop_attention(layer, tokens)
    assert_close(layer(tokens), expected)
    assert_close(layer(tokens.reshape(10, 8), batch_size=2), expected.reshape(10, 8))
    assert_close(layer(tokens, num_queries=2), expected[:, :2])
    assert_close(layer(tokens.reshape(10, 8), batch_size=2, num_queries=1), expected[:, :1].reshape(2, 8))


def test_scores_do_not_overflow_in_float16():
    (tokens,) = random_inputs((2, 5, 8))
    layer = MultiHeadSelfAttention(2, dtype="mixed_float16")
    layer.build(tokens.shape)
    randomize(layer, scale=3.0)
    assert np.isfinite(to_numpy(layer(10 * tokens))).all()


@pytest.mark.parametrize("rate", ["dropout_rate", "attention_dropout_rate"])
def test_dropout_while_training(rate):
    (tokens,) = random_inputs((2, 5, 8))
    layer = MultiHeadSelfAttention(2, **{rate: 0.5})
    plain, dropped = to_numpy(layer(tokens)), to_numpy(layer(tokens, training=True))
    assert not np.allclose(plain, dropped)
    assert (dropped == 0).any() == (rate == "dropout_rate")


def test_initial_weights():
    layer = MultiHeadSelfAttention(4)
    layer.build((None, 5, 64))
    bound = math.sqrt(6 / 128)
    kernels = [*np.split(to_numpy(layer.qkv.kernel), 3, axis=1), to_numpy(layer.projection.kernel)]
    for i, kernel in enumerate(kernels):
        assert 0.98 * bound < np.abs(kernel).max() <= bound and abs(kernel.std() / (bound / math.sqrt(3)) - 1) < 0.05
        assert not any(np.allclose(kernel, other) for other in kernels[:i])
    assert not to_numpy(layer.qkv.bias).any() and not to_numpy(layer.projection.bias).any()


def test_without_key_bias():
    """The weights are those of queries and values; LoRA, quantization and a Dense of all three biases agree."""
    (tokens,) = random_inputs((2, 5, 8))
    layer, full = MultiHeadSelfAttention(2, use_qkv_bias="query_value"), MultiHeadSelfAttention(2)
    layer.build(tokens.shape)
    full.build(tokens.shape)
    randomize(layer)
    assert [tuple(w.shape) for w in layer.qkv.trainable_weights] == [(8, 24), (16,)]
    full.qkv.kernel.assign(layer.qkv.kernel)
    full.qkv.bias.assign(ops.concatenate([layer.qkv.query_value_bias[:8], ops.zeros(8), layer.qkv.query_value_bias[8:]]))
    for mine, other in zip(layer.projection.weights, full.projection.weights):
        other.assign(mine)
    assert_close(layer(tokens), to_numpy(full(tokens)))
    for attention in (layer, full):
        attention.qkv.enable_lora(2)
        attention.qkv.lora_kernel_a.assign(np.ones((8, 2)))
        attention.qkv.lora_kernel_b.assign(0.01 * np.arange(48).reshape(2, 24))
    lora = to_numpy(full(tokens))
    assert_close(layer(tokens), lora)
    store = {}
    layer.qkv.save_own_variables(store)
    assert {key: tuple(value.shape) for key, value in store.items()}["1"] == (16,)
    for attention in (layer, full):
        attention.qkv.quantize("int8")
    assert_close(layer(tokens), to_numpy(full(tokens)))
    assert np.abs(to_numpy(layer(tokens)) - lora).max() < 0.1


def test_initializer_round_trip():
    initializer = QKVInitializer(seed=3)
    again = QKVInitializer.from_config(initializer.get_config())
    np.testing.assert_array_equal(ops.convert_to_numpy(initializer((4, 12))), ops.convert_to_numpy(again((4, 12))))


@pytest.mark.parametrize(
    "config, argument",
    [
        ({"num_heads": 0}, "num_heads"),
        ({"num_heads": 2.0}, "num_heads"),
        ({"num_heads": 3}, "num_heads"),
        ({"num_heads": 2, "use_qkv_bias": "key"}, "use_qkv_bias"),
        ({"num_heads": 2, "dropout_rate": 1.0}, "dropout_rate"),
        ({"num_heads": 2, "attention_dropout_rate": -0.5}, "attention_dropout_rate"),
    ],
)
def test_bad_arguments(config, argument):
    with pytest.raises(ValueError, match=f"`{argument}` must .* Received: {argument}="):
        MultiHeadSelfAttention(**config).build((None, 5, 8))
