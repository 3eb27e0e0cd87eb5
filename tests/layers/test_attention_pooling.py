import math

import numpy as np
import pytest
from helpers import assert_close, check_layer, random_inputs, randomize, to_numpy

from keras_vit.layers import AttentionPooling

gelu = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))))


@pytest.mark.parametrize(
    "config", [{"num_heads": 2, "mlp_dim": 12}, {"num_heads": 4, "mlp_dim": 8, "activation": "gelu_tanh", "norm_epsilon": 1e-3}]
)
def test_layer(config, other_process):
    check_layer(AttentionPooling, config, (2, 5, 8), output_shape=(2, 8), other_process=other_process, half_tolerance=0.05)


def test_values():
    (tokens,) = random_inputs((2, 5, 8))
    layer = AttentionPooling(num_heads=2, mlp_dim=12, norm_epsilon=1e-3)
    layer.build(tokens.shape)
    randomize(layer)
    w = {"/".join(w.path.split("/")[1:]): to_numpy(w).astype("float64") for w in layer.weights}
    query = (w["probe"][0] @ w["query/kernel"] + w["query/bias"]).reshape(2, 4)
    key, value = np.split(tokens @ w["key_value/kernel"] + w["key_value/bias"], 2, axis=-1)
    key, value = key.reshape(2, 5, 2, 4), value.reshape(2, 5, 2, 4)
    scores = np.exp(np.einsum("hd,bnhd->bhn", query, key) / math.sqrt(4))
    mixed = np.einsum("bhn,bnhd->bhd", scores / scores.sum(-1, keepdims=True), value).reshape(2, 8)
    pooled = mixed @ w["projection/kernel"] + w["projection/bias"]
    normed = (pooled - pooled.mean(-1, keepdims=True)) / np.sqrt(pooled.var(-1, keepdims=True) + 1e-3)
    normed = normed * w["norm/gamma"] + w["norm/beta"]
    hidden = gelu(normed @ w["mlp/fc1/kernel"] + w["mlp/fc1/bias"])
    assert_close(layer(tokens), pooled + hidden @ w["mlp/fc2/kernel"] + w["mlp/fc2/bias"])


def test_initial_weights():
    """Xavier uniform for the probe (1, 1, D) and for each (D, D) kernel."""
    layer = AttentionPooling(num_heads=4, mlp_dim=64)
    layer.build((None, 5, 64))
    bound = math.sqrt(6 / 128)
    for kernel in (layer.query.kernel, layer.key_value.kernel, layer.projection.kernel):
        assert 0.98 * bound < np.abs(to_numpy(kernel)).max() <= bound
    assert 0.8 * math.sqrt(6 / 65) < np.abs(to_numpy(layer.probe)).max() <= math.sqrt(6 / 65)


@pytest.mark.parametrize(
    "config, argument",
    [
        ({"num_heads": 0, "mlp_dim": 8}, "num_heads"),
        ({"num_heads": 3, "mlp_dim": 8}, "num_heads"),
        ({"num_heads": 2, "mlp_dim": 0}, "mlp_dim"),
        ({"num_heads": 2, "mlp_dim": 8, "activation": "gleu"}, "activation"),
    ],
)
def test_bad_arguments(config, argument):
    with pytest.raises(ValueError, match=f"`{argument}` must .* Received: {argument}="):
        AttentionPooling(**config).build((None, 5, 8))
