import numpy as np
import pytest
from helpers import assert_close, check_layer, random_inputs, randomize, to_numpy

from keras_vit.layers import LayerScale


@pytest.mark.parametrize("config, shape", [({}, (2, 3, 4)), ({"init": 0.5}, (6, 4))])
def test_layer(config, shape, other_process):
    check_layer(LayerScale, config, shape, output_shape=shape, other_process=other_process)


def test_values():
    (x,) = random_inputs((2, 3, 4))
    layer = LayerScale(1e-4)
    assert_close(layer(x), x * 1e-4, 1e-6)
    randomize(layer)
    assert_close(layer(x), x * to_numpy(layer.gamma), 1e-6)
    assert np.shape(layer.gamma) == (4,)
