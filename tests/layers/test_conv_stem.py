import math

import numpy as np
import pytest
from helpers import assert_close, check_layer, random_inputs, randomize, to_numpy

from keras_vit.layers import ConvStem


@pytest.mark.parametrize(
    "config, input_shape, output_shape",
    [
        ({"filters": (4, 8), "strides": (2, 2)}, (2, 8, 12, 3), (2, 2, 3, 8)),
        ({"filters": [4, 6, 8], "strides": [2, 1, 3], "norm_epsilon": 1e-3}, (2, 9, 13, 1), (2, 2, 3, 8)),
    ],
)
def test_layer(config, input_shape, output_shape, other_process):
    layer = check_layer(ConvStem, config, input_shape, output_shape=output_shape, other_process=other_process)
    assert layer.stride == math.prod(config["strides"])
    assert layer.compute_output_shape((None, None, None, 3)) == (None, None, None, 8)


def test_values():
    """Padding of one pixel on every side, moving statistics at inference, ReLU."""
    (images,) = random_inputs((1, 5, 6, 2))
    layer = ConvStem((3,), (2,), norm_epsilon=1e-3)
    layer.build(images.shape)
    randomize(layer)
    weights = {weight.path.split("/")[-1]: to_numpy(weight).astype("float64") for weight in layer.weights}
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)])
    expected = np.zeros((1, 3, 3, 3))
    for i in range(3):
        for j in range(3):
            expected[:, i, j] = np.einsum("brck,rckd->bd", padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3], weights["kernel"])
    expected = (expected - weights["moving_mean"]) / np.sqrt(weights["moving_variance"] + 1e-3) * weights["gamma"] + weights["beta"]
    assert_close(layer(images), np.maximum(expected, 0))


def test_training_uses_the_batch_and_moves_the_statistics():
    (images,) = random_inputs((2, 8, 8, 3))
    layer = ConvStem((4,), (2,))
    before = to_numpy(layer(images, training=False))
    mean = to_numpy(layer.norm_0.moving_mean)
    assert not np.allclose(to_numpy(layer(images, training=True)), before)
    assert not np.allclose(to_numpy(layer.norm_0.moving_mean), mean)


@pytest.mark.parametrize(
    "config, argument",
    [
        ({"filters": 8, "strides": (2,)}, "filters"),
        ({"filters": (8,), "strides": 2}, "strides"),
        ({"filters": (8.0,), "strides": (2,)}, "filters"),
        ({"filters": ("8",), "strides": (2,)}, "filters"),
        ({"filters": (8,), "strides": (0,)}, "strides"),
        ({"filters": (8, 8), "strides": (2,)}, "filters"),
        ({"filters": (), "strides": ()}, "filters"),
    ],
)
def test_bad_arguments(config, argument):
    with pytest.raises(ValueError, match=rf"`{argument}`.* must be .* Received: {argument}="):
        ConvStem(**config)
