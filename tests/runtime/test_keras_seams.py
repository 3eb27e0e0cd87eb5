import inspect

import keras
import numpy as np
import pytest
from helpers import requires_tensorflow, to_numpy

from keras_vit.runtime.keras_seams import create_with


def uncreated():
    with keras.StatelessScope(initialize_variables=False):
        layer = keras.layers.Dense(2)
        layer.build((None, 3))
    return layer.kernel


def test_a_variable_is_created_with_given_values():
    kernel = uncreated()
    create_with(kernel, lambda shape, dtype: keras.ops.full(shape, 7.0, dtype))
    with keras.StatelessScope():
        pass  # its end creates variables
    np.testing.assert_array_equal(to_numpy(kernel), np.full((3, 2), 7.0))


@requires_tensorflow
def test_keras_cannot_create_a_variable_by_assigning_to_it():
    """Should a release of Keras do so on TensorFlow, as it does on JAX, `create_with` can go."""
    with pytest.raises(AttributeError):
        uncreated().assign(np.ones((3, 2)))


def test_callbacks_of_keras_have_no_public_way_to_choose_the_first_epoch():
    source = inspect.getsource(keras.callbacks.BackupAndRestore)
    assert "self.model._initial_epoch = " in source
