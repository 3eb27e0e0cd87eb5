import gc
import inspect

import keras
import numpy as np
import pytest
from helpers import requires_tensorflow, to_numpy

import keras_vit
from keras_vit.runtime.keras_seams import create_with
from keras_vit.runtime.trainer import FunctionalModel


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


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="how Keras trains on JAX")
def test_keras_wraps_the_state_of_every_step():
    """Should a release of Keras not do so, `_JAXTrainer` can go."""
    assert "self._jax_state = {" in inspect.getsource(inspect.unwrap(keras.Model.fit))
    inputs = keras.Input((2,))
    for model, wrapped in ((keras.Model(inputs, inputs), True), (FunctionalModel(inputs, inputs), False)):
        model._jax_state = {"trainable_variables": [1.0]}
        assert (type(model._jax_state["trainable_variables"]) is not list) == wrapped


def test_while_a_model_is_quantized_and_loaded_collections_are_short(monkeypatch, tmp_path):
    """Should a release of Keras not collect garbage for each kernel, `quick_deletion` can go."""
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    found = []
    monkeypatch.setattr(gc, "collect", lambda *args: found.append(len(gc.get_objects())))
    gc.unfreeze()
    every = len(gc.get_objects())
    layer.quantize("int8")
    assert max(found) > every / 2
    found.clear()
    model = keras_vit.VisionTransformer((8, 8, 3), 4, 8, 1, 2, 16, num_classes=3)
    model.quantize("int8", filters="qkv|fc1")
    model.save(tmp_path / "model.keras")
    keras.saving.load_model(tmp_path / "model.keras")
    assert len(found) >= 4 and max(found) < every / 2
    assert gc.get_freeze_count() == 0
