import math

import keras
import numpy as np
import pytest
from helpers import to_numpy
from keras import ops

from keras_vit.layers import activations

X = ops.linspace(-6.0, 6.0, 101)
EXACT = np.array([0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in to_numpy(X).tolist()])
TANH = np.array([0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) for x in to_numpy(X).tolist()])
QUICK = to_numpy(X) / (1 + np.exp(-1.702 * to_numpy(X)))


@pytest.mark.parametrize("name, expected", [("gelu", EXACT), ("gelu_tanh", TANH), ("quick_gelu", QUICK)])
def test_values(name, expected):
    np.testing.assert_allclose(to_numpy(activations.get(name)(X)), expected, atol=1e-6)


def test_the_two_gelus_differ_by_a_little():
    assert 4e-4 < np.abs(EXACT - TANH).max() < 5e-4


@pytest.mark.parametrize("identifier", ["gelu", "gelu_tanh", activations.quick_gelu, keras.activations.relu, None])
def test_config_round_trip(identifier):
    config = activations.config(identifier)
    assert activations.config(activations.get(config) if config else config) == config or isinstance(config, str)
    np.testing.assert_array_equal(to_numpy(activations.get(config)(X)), to_numpy(activations.get(identifier)(X)))


def test_unknown_name():
    with pytest.raises(ValueError, match="`activation` must be .* Received: activation='gleu'"):
        activations.get("gleu")
