import keras
import numpy as np
import pytest
from helpers import assert_close, random_inputs, randomize, to_numpy

import keras_vit
from keras_vit.layers import TransformerEncoderBlock
from keras_vit.runtime import attention_by_head, fast_paths, fused_attention, precision, switch, use_fast_paths
from keras_vit.runtime import fused as fused_module
from keras_vit.runtime import prediction as prediction_module
from keras_vit.runtime import updates as updates_module
from keras_vit.runtime.attention import scaled_dot_product_attention
from keras_vit.runtime.calls import bare


@pytest.fixture(autouse=True)
def on_again():
    before = fast_paths()
    use_fast_paths(True)
    yield
    use_fast_paths(before)


@pytest.fixture
def taken(monkeypatch):
    """Returns a list of the fast paths that are taken."""
    taken = []

    def watch(module, name):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *inputs, **options: taken.append(name) or original(*inputs, **options))

    for module, name in (
        (fused_module, "_fused"),
        (attention_by_head, "attention_by_head"),
        (fused_attention, "fused_attention"),
        (updates_module, "_compiles"),
        (prediction_module, "predict_one_batch"),
        (precision, "_widens"),
    ):
        watch(module, name)
    monkeypatch.setattr(attention_by_head, "LONG", 2)
    monkeypatch.setattr(fused_attention, "LONG", 2)
    return taken


def test_fit_and_predict_without_fast_paths(taken):
    images, labels = 255.0 * np.abs(random_inputs((6, 8, 8, 3))[0]), np.arange(6) % 3
    found = {}
    for on in (True, False):
        use_fast_paths(on)
        keras.utils.set_random_seed(0)
        model = keras_vit.VisionTransformer((8, 8, 3), 4, 16, 2, 2, 32, num_classes=3)
        randomize(model, scale=0.2)
        # On TensorFlow the fast paths are for steps without XLA; on JAX a step that is not compiled as a whole takes half a minute.
        model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=keras.backend.backend() == "jax")
        loss = model.fit(images, labels, batch_size=3, verbose=0, shuffle=False).history["loss"][0]
        found[on] = [loss, model.predict(images, verbose=0), *model.get_weights()]
        assert bool(taken) == on
        taken.clear()
    for fast, plain in zip(*found.values(), strict=True):
        np.testing.assert_allclose(fast, plain, rtol=1e-4, atol=1e-5)


def test_models_that_were_called_are_traced_again(taken):
    model = randomize(keras_vit.VisionTransformer((8, 8, 3), 4, 16, 2, 2, 32, num_classes=3, dtype="mixed_bfloat16"), scale=0.2)
    images = 255.0 * np.abs(random_inputs((3, 8, 8, 3))[0])
    fast = model.predict(images, verbose=0)
    assert taken
    taken.clear()
    use_fast_paths(False)
    assert_close(model.predict(images, verbose=0), fast, 3e-2)
    assert not taken
    use_fast_paths(True)
    np.testing.assert_array_equal(model.predict(images, verbose=0), fast)
    assert taken


def test_layers_without_fast_paths(taken):
    tokens, query = random_inputs((2, 5, 16), (2, 2, 5, 8))
    block = TransformerEncoderBlock(2, 32)
    fast = to_numpy(block(tokens, num_queries=1))
    heads = to_numpy(scaled_dot_product_attention(*[keras.ops.convert_to_tensor(query)] * 3))
    taken.clear()
    use_fast_paths(False)
    assert_close(block(tokens, num_queries=1), fast)
    assert_close(scaled_dot_product_attention(*[keras.ops.convert_to_tensor(query)] * 3), heads)
    assert not taken and bare(block.norm1) is block.norm1


def test_the_environment_turns_them_off(monkeypatch):
    monkeypatch.setenv("KERAS_VIT_FAST_PATHS", "0")
    assert not switch._Switch().on
    monkeypatch.setenv("KERAS_VIT_FAST_PATHS", "1")
    assert switch._Switch().on
    monkeypatch.setenv("KERAS_VIT_FAST_PATHS", "no")
    with pytest.raises(ValueError, match="`KERAS_VIT_FAST_PATHS` must be 0 or 1. Received: KERAS_VIT_FAST_PATHS=no"):
        switch._Switch()


def test_bad_input():
    with pytest.raises(ValueError, match="`on` must be a bool. Received: on=0"):
        use_fast_paths(0)
