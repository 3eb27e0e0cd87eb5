import numpy as np
import pytest
from helpers import assert_close, check_layer, random_inputs, randomize, to_numpy

from keras_vit.layers import ClassToken, RegisterTokens


@pytest.mark.parametrize(
    "layer_class, config, added",
    [(ClassToken, {}, 1), (ClassToken, {"num_tokens": 2}, 2), (RegisterTokens, {}, 4), (RegisterTokens, {"num_tokens": 3, "after": 2}, 3)],
)
def test_layer(layer_class, config, added, other_process):
    layer = check_layer(layer_class, config, (2, 6, 8), output_shape=(2, 6 + added, 8), other_process=other_process)
    assert layer.compute_output_shape((None, None, 8)) == (None, None, 8)


@pytest.mark.parametrize("layer, after", [(ClassToken(2), 0), (RegisterTokens(3), 0), (RegisterTokens(3, after=2), 2)])
def test_order(layer, after):
    (tokens,) = random_inputs((2, 6, 8))
    layer.build(tokens.shape)
    randomize(layer)
    learned = np.broadcast_to(to_numpy(layer.token), (2, layer.num_tokens, 8))
    assert_close(layer(tokens), np.concatenate([tokens[:, :after], learned, tokens[:, after:]], axis=1), 0)


@pytest.mark.parametrize("layer, scale", [(ClassToken(2), 0.0), (RegisterTokens(4), 1e-6)])
def test_initial_weights(layer, scale):
    layer.build((None, 6, 1024))
    assert abs(to_numpy(layer.token).std() - scale) <= 0.1 * scale


@pytest.mark.parametrize(
    "layer_class, config, argument",
    [
        (ClassToken, {"num_tokens": 0}, "num_tokens"),
        (ClassToken, {"num_tokens": 1.0}, "num_tokens"),
        (RegisterTokens, {"num_tokens": -1}, "num_tokens"),
        (RegisterTokens, {"after": -1}, "after"),
        (RegisterTokens, {"after": None}, "after"),
    ],
)
def test_bad_arguments(layer_class, config, argument):
    with pytest.raises(ValueError, match=f"`{argument}` must be .* Received: {argument}="):
        layer_class(**config)
