import keras
import numpy as np
from helpers import to_numpy

from keras_vit.layers import Dropout, TransformerEncoderBlock
from keras_vit.runtime.seeds import SeedGenerator, generators_of, given


def test_it_draws_as_the_generator_of_keras():
    ours, theirs = SeedGenerator(7), keras.random.SeedGenerator(7)
    for _ in range(3):
        np.testing.assert_array_equal(to_numpy(ours.next()), to_numpy(theirs.next()))
    np.testing.assert_array_equal(to_numpy(ours.state), to_numpy(theirs.state))
    assert ours.get_config()["seed"] == 7


def test_a_given_seed_is_drawn_and_the_state_stays():
    one, other = SeedGenerator(1), SeedGenerator(2)
    seed, state = one.next(), to_numpy(one.state)
    with given([one], [seed]):
        for _ in range(2):
            np.testing.assert_array_equal(to_numpy(one.next()), to_numpy(seed))
        with given([other], [seed]):  # a block within a block
            np.testing.assert_array_equal(to_numpy(one.next()), to_numpy(other.next()))
        assert not np.array_equal(to_numpy(other.next()), to_numpy(seed))
    np.testing.assert_array_equal(to_numpy(one.state), state)
    assert not np.array_equal(to_numpy(one.next()), to_numpy(seed))


def test_random_layers_own_such_generators():
    block = TransformerEncoderBlock(2, 16, dropout_rate=0.1, attention_dropout_rate=0.1, drop_path_rate=0.1)
    block.build((None, 5, 8))
    generators = generators_of(block)
    # Two of the MLP, two of the attention, and the two paths.
    assert len(generators) == 6 and {type(generator) for generator in generators} == {SeedGenerator}
    assert not generators_of(TransformerEncoderBlock(2, 16)) and Dropout(0.0).seed_generator is None
    assert [variable.name for variable in Dropout(0.1).variables] == ["seed_generator_state"]
