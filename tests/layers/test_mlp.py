import math

import numpy as np
import pytest
from helpers import assert_close, check_layer, random_inputs, randomize, to_numpy

from keras_vit.layers import MLP, SwiGLU, quick_gelu

gelu = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))


@pytest.mark.parametrize(
    "layer_class, config, shape",
    [
        (MLP, {"mlp_dim": 12}, (2, 5, 8)),
        (MLP, {"mlp_dim": 12, "activation": "gelu_tanh"}, (10, 8)),
        (MLP, {"mlp_dim": 12, "activation": quick_gelu}, (10, 8)),
        (SwiGLU, {"mlp_dim": 12}, (2, 5, 8)),
        (SwiGLU, {"mlp_dim": 12, "activation": "gelu", "use_norm": True, "norm_epsilon": 1e-3}, (10, 8)),
    ],
)
def test_layer(layer_class, config, shape, other_process):
    check_layer(layer_class, config, shape, output_shape=shape, other_process=other_process)


def weights_of(layer, shape):
    layer.build(shape)
    randomize(layer)
    dense = (layer.fc1.kernel, layer.fc1.bias, layer.fc2.kernel, layer.fc2.bias)
    return (to_numpy(weight).astype("float64") for weight in dense)


def test_mlp_values():
    (x,) = random_inputs((2, 5, 8))
    layer = MLP(12)
    w1, b1, w2, b2 = weights_of(layer, x.shape)
    assert_close(layer(x), gelu(x @ w1 + b1) @ w2 + b2)


def test_swiglu_values():
    """The gate is the first half, as in DINOv2's `w12`."""
    (x,) = random_inputs((2, 5, 8))
    layer = SwiGLU(12)
    w1, b1, w2, b2 = weights_of(layer, x.shape)
    gate, value = np.split(x @ w1 + b1, 2, axis=-1)
    assert_close(layer(x), (gate / (1 + np.exp(-gate)) * value) @ w2 + b2)


def test_norm_before_the_last_product():
    (x,) = random_inputs((2, 5, 8))
    layer = SwiGLU(12, use_norm=True, norm_epsilon=1e-3)
    w1, b1, w2, b2 = weights_of(layer, x.shape)
    gate, value = np.split(x @ w1 + b1, 2, axis=-1)
    hidden = gate / (1 + np.exp(-gate)) * value
    hidden = (hidden - hidden.mean(-1, keepdims=True)) / np.sqrt(hidden.var(-1, keepdims=True) + 1e-3)
    assert_close(layer(x), (hidden * to_numpy(layer.norm.gamma) + to_numpy(layer.norm.beta)) @ w2 + b2)


@pytest.mark.parametrize("layer_class", [MLP, SwiGLU])
def test_dropout_after_both_products(layer_class):
    (x,) = random_inputs((64, 8))
    layer = layer_class(32, dropout_rate=0.25)
    layer.build(x.shape)
    for weight in layer.weights:
        weight.assign(np.ones(weight.shape))
    plain, dropped = to_numpy(layer(x)), to_numpy(layer(x, training=True))
    assert 0.15 < (dropped == 0).mean() < 0.35  # after the second
    kept = dropped[dropped != 0] / 0.75**-1
    assert np.abs(kept - np.broadcast_to(plain, dropped.shape)[dropped != 0]).max() > 1e-3  # after the first


def test_initial_weights():
    layer = MLP(96)
    layer.build((None, 64))
    bound = math.sqrt(6 / (64 + 96))
    for kernel in (layer.fc1.kernel, layer.fc2.kernel):
        kernel = to_numpy(kernel)
        assert 0.98 * bound < np.abs(kernel).max() <= bound and abs(kernel.std() / (bound / math.sqrt(3)) - 1) < 0.05
    for bias in (layer.fc1.bias, layer.fc2.bias):
        assert 0.7e-6 < to_numpy(bias).std() < 1.3e-6


@pytest.mark.parametrize("layer_class", [MLP, SwiGLU])
@pytest.mark.parametrize(
    "config, argument",
    [
        ({"mlp_dim": 0}, "mlp_dim"),
        ({"mlp_dim": 2.5}, "mlp_dim"),
        ({"mlp_dim": 8, "dropout_rate": 1}, "dropout_rate"),
        ({"mlp_dim": 8, "activation": "gleu"}, "activation"),
    ],
)
def test_bad_arguments(layer_class, config, argument):
    with pytest.raises(ValueError, match=f"`{argument}` must .* Received: {argument}="):
        layer_class(**config)
