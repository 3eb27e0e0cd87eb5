import keras
import numpy as np
import pytest
from helpers import check_layer, random_inputs, to_numpy

from keras_vit.layers import DropPath


@pytest.mark.parametrize("config, shape", [({}, (2, 3, 4)), ({"rate": 0.5}, (8, 3)), ({"rate": 0.25}, (8, 3, 2, 4))])
def test_layer(config, shape, other_process):
    check_layer(DropPath, config, shape, output_shape=shape, other_process=other_process, random=bool(config))


def test_samples_are_dropped_whole_and_the_others_scaled():
    rate, batch = 0.2, 5000
    result = to_numpy(DropPath(rate, seed=1)(np.ones((batch, 3, 2), "float32"), training=True))
    per_sample = result.reshape(batch, -1)
    assert (per_sample == per_sample[:, :1]).all()
    assert set(np.unique(result)) == {np.float32(0.0), np.float32(1.25)}
    assert abs((per_sample[:, 0] == 0).mean() - rate) < 0.02
    assert abs(result.mean() - 1) < 0.03


def test_identity_at_inference():
    (x,) = random_inputs((4, 3))
    np.testing.assert_array_equal(to_numpy(DropPath(0.9)(x)), x)


def test_the_seed_of_keras_decides_where_no_other_is_given():
    def drawn():
        keras.utils.set_random_seed(3)
        return to_numpy(DropPath(0.5)(np.ones((64, 1), "float32"), training=True))

    np.testing.assert_array_equal(drawn(), drawn())


def test_half_precision_does_not_change_the_rate():
    """A draw in bfloat16 would round to 1, and then never drop."""
    result = to_numpy(DropPath(0.01, seed=1, dtype="bfloat16")(np.ones((20000, 1), "float32"), training=True))
    assert 0.007 < (result == 0).mean() < 0.013


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan"), "0.5", None])
def test_bad_rate(rate):
    with pytest.raises(ValueError, match=r"`rate` must lie in \[0, 1\)\. Received: rate="):
        DropPath(rate)
