import keras
import numpy as np
import pytest
from helpers import check_layer, random_inputs, to_numpy

from keras_vit.layers import Dropout


@pytest.mark.parametrize("config", [{"rate": 0.0}, {"rate": 0.5}])
def test_layer(config, other_process):
    check_layer(Dropout, config, (8, 3, 4), output_shape=(8, 3, 4), other_process=other_process, random=config["rate"] > 0.0)


def test_it_drops_as_the_layer_of_keras():
    x, rate = np.ones((64, 64), "float32"), 0.2
    ours, theirs = (to_numpy(layer(rate, seed=1)(x, training=True)) for layer in (Dropout, keras.layers.Dropout))
    np.testing.assert_array_equal(ours, theirs)
    assert set(np.unique(ours)) == {np.float32(0.0), np.float32(1.25)} and abs((ours == 0).mean() - rate) < 0.03


def test_identity_at_inference():
    (x,) = random_inputs((4, 3))
    np.testing.assert_array_equal(to_numpy(Dropout(0.9)(x)), x)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan"), "0.5", None])
def test_bad_rate(rate):
    with pytest.raises(ValueError, match=r"`rate` must lie in \[0, 1\)\. Received: rate="):
        Dropout(rate)
