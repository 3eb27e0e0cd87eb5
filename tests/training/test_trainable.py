import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.training import add_lora, freeze


def tiny_model(**overrides):
    arguments = dict(input_shape=(8, 8, 3), patch_size=4, hidden_dim=8, num_layers=3, num_heads=2, mlp_dim=16, num_classes=3)
    return keras_vit.VisionTransformer(**arguments | overrides)


def train(model, epochs=3):
    """Returns the names of the layers whose weights change."""
    before = {v.path: keras.ops.convert_to_numpy(v) for v in model.weights}
    rng = np.random.default_rng(0)
    images, labels = rng.uniform(0, 255, (8, 8, 8, 3)), rng.integers(0, 3, 8)
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=keras.backend.backend() == "jax")
    model.fit(images, labels, epochs=epochs, verbose=0)
    return {v.path.split("/")[0] for v in model.weights if not np.array_equal(before[v.path], keras.ops.convert_to_numpy(v))}


REST = {"block_0", "block_1", "block_2", "norm", "head"}


@pytest.mark.parametrize(
    "blocks, expected",
    [
        (None, {"patch_embedding", "class_token", "position_embedding"} | REST),
        (0, REST),
        (2, {"block_2", "norm", "head"}),
        (3, {"norm", "head"}),
        ("all", {"head"}),
    ],
)
def test_what_is_trained(blocks, expected):
    model = tiny_model()
    freeze(model, blocks)
    assert train(model) == expected


def test_what_was_frozen_thaws():
    model = tiny_model()
    freeze(model, "all")
    freeze(model)
    assert len(model.trainable_variables) == len(model.weights)


@pytest.mark.parametrize("blocks", [-1, 4, "head", True, 1.5])
def test_wrong_blocks_are_refused(blocks):
    with pytest.raises(ValueError, match="`blocks` must be None, an int from 0 to 3"):
        freeze(tiny_model(), blocks)


def test_lora_trains_little_and_leaves_the_model_as_it_is_at_first():
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype("float32")
    model = tiny_model()
    model.get_layer("head").kernel.assign(np.random.default_rng(1).normal(size=(8, 3)))
    before = keras.ops.convert_to_numpy(model(images))
    add_lora(model, rank=2)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(images)), before, atol=1e-6)
    names = {v.path.split("/", 1)[0] + ":" + v.name for v in model.trainable_variables}
    blocks = {f"block_{i}:lora_kernel_{ab}" for i in range(3) for ab in "ab"}
    assert names == {"head:kernel", "head:bias"} | blocks
    assert train(model) == {"block_0", "block_1", "block_2", "head"}


def test_lora_on_the_base_model_is_under_two_percent():
    config = keras_vit.presets.preset("ViTTi16") | dict(input_shape=(32, 32, 3), num_classes=10)
    model = keras_vit.VisionTransformer(**config)
    add_lora(model, rank=4)
    trained = sum(np.prod(v.shape) for v in model.trainable_variables)
    assert trained < 0.02 * sum(np.prod(v.shape) for v in model.weights)


@pytest.mark.parametrize("alpha", [None, 3.0])
def test_lora_merges_back(tmp_path, alpha):
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype("float32")
    model = tiny_model()
    add_lora(model, rank=2, alpha=alpha)
    train(model)
    expected = keras.ops.convert_to_numpy(model(images))
    merged = model.adapt()
    assert not any("lora" in v.name for v in merged.weights) and merged.count_params() == tiny_model().count_params()
    np.testing.assert_allclose(keras.ops.convert_to_numpy(merged(images)), expected, atol=1e-6)
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras.ops.convert_to_numpy(keras.saving.load_model(tmp_path / "model.keras")(images)), expected, atol=1e-6)


def test_lora_is_added_once():
    model = tiny_model()
    add_lora(model)
    with pytest.raises(ValueError, match="already"):
        add_lora(model)
    with pytest.raises(ValueError, match="`rank` must be an int of at least 1"):
        add_lora(tiny_model(), rank=0)
