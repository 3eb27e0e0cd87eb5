import numpy as np
import pytest
from helpers import check_layer, random_inputs, requires_tensorflow, to_numpy

from keras_vit.layers import PatchDropout

# rate, patches, kept
COUNTS = [(0.5, 10, 5), (0.5, 9, 4), (0.9, 20, 2), (0.3, 10, 7), (0.99, 10, 1), (0.7, 1, 1)]


def numbered(batch, tokens):
    return np.broadcast_to(np.arange(tokens, dtype="float32")[None, :, None], (batch, tokens, 2))


@pytest.mark.parametrize("config", [{}, {"rate": 0.5, "num_prefix_tokens": 1}])
def test_layer(config, other_process):
    check_layer(PatchDropout, config, (2, 7, 8), output_shape=(2, 7, 8), other_process=other_process, random=bool(config))


@pytest.mark.parametrize("rate, patches, kept", COUNTS)
def test_how_many_are_kept(rate, patches, kept):
    assert PatchDropout(rate, num_prefix_tokens=2)(numbered(3, 2 + patches), training=True).shape[1] == 2 + kept


@requires_tensorflow
@pytest.mark.parametrize("rate, patches, kept", COUNTS)
def test_how_many_are_kept_of_an_open_number(rate, patches, kept):
    import tensorflow as tf

    layer = PatchDropout(rate, num_prefix_tokens=2)
    call = tf.function(lambda tokens: layer(tokens, training=True), input_signature=[tf.TensorSpec((None, None, 2))])
    check_order(to_numpy(call(numbered(3, 2 + patches))), 2, kept)


def check_order(kept, num_prefix_tokens, count):
    numbers = kept[..., 0]
    assert numbers.shape[1] == num_prefix_tokens + count
    np.testing.assert_array_equal(numbers[:, :num_prefix_tokens], np.broadcast_to(np.arange(num_prefix_tokens), (3, num_prefix_tokens)))
    assert (np.diff(numbers, axis=1) > 0).all()
    np.testing.assert_array_equal(kept[..., 1], numbers)


def test_order_and_prefix_stay():
    check_order(to_numpy(PatchDropout(0.5, num_prefix_tokens=2)(numbered(3, 22), training=True)), 2, 10)


def test_every_patch_has_the_same_chance_and_samples_differ():
    kept = to_numpy(PatchDropout(0.75, seed=1)(numbered(4000, 8), training=True))[..., 0].astype(int)
    np.testing.assert_allclose(np.bincount(kept.ravel(), minlength=8) / 4000, 0.25, atol=0.03)
    assert len(np.unique(kept, axis=0)) == 28  # all pairs


def test_identity_at_inference():
    (tokens,) = random_inputs((2, 5, 4))
    np.testing.assert_array_equal(to_numpy(PatchDropout(0.5)(tokens)), tokens)


@pytest.mark.parametrize(
    "config, argument", [({"rate": 1.0}, "rate"), ({"rate": -0.1}, "rate"), ({"num_prefix_tokens": -1}, "num_prefix_tokens")]
)
def test_bad_arguments(config, argument):
    with pytest.raises(ValueError, match=f"`{argument}` must .* Received: {argument}="):
        PatchDropout(**config)
