import keras
import numpy as np
import pytest
from helpers import VARIANTS, assert_close, random_images, tiny, to_numpy
from visualize.cases import FOUND, golden_model, nested

from keras_vit import VisionTransformer, training
from keras_vit.layers import ClassToken, RegisterTokens
from keras_vit.visualize import attention_maps, attention_weights


@pytest.mark.parametrize("name", ["plain", "non_square_image", "deit3", "qk_norm", "gap", "dinov2_registers"])
def test_weights_are_those_of_timm(name):
    model, images = golden_model(name)
    assert_close(attention_weights(model, images), FOUND[f"{name}_attention"], 1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_attention_rebuilt_from_the_weights_is_the_block_s(name):
    model = tiny(**VARIANTS[name])
    images = random_images(model)
    weights = attention_weights(model, images, batch_size=1)
    assert np.abs(weights.sum(axis=-1) - 1.0).max() < 1e-5 and weights.min() >= 0.0
    for i in range(2):
        block = model.get_layer(f"block_{i}")
        given = keras.Model(model.input, block.input)(images)
        tokens, rotation = given if isinstance(given, list) else (given, None)
        tokens = block.norm1(tokens) if block.norm_first else tokens
        batch, count, width = tokens.shape
        _, _, value = block.attention.query_key_value(keras.ops.reshape(tokens, (-1, width)), batch)
        mixed = np.einsum("bhqk,bhkd->bqhd", weights[:, i], to_numpy(value)).reshape(batch, count, width)
        mixed = block.attention.norm(mixed) if block.attention_norm else mixed
        assert_close(block.attention.projection(mixed), block.attention(tokens, rotation=rotation), 1e-5)


def test_maps_of_a_pooling_of_all_tokens():
    model = tiny(**VARIANTS["pe"])
    maps = attention_maps(model, random_images(model))
    assert maps.shape == (2, 1, 4, 2, 3) and 0.2 < maps.sum(axis=(-2, -1)).mean() < 1.0  # the rest goes to the class token


@pytest.mark.parametrize("name", ["plain", "gap", "map", "distilled", "registers", "conv_stem", "resnet_stem", "post_norm"])
def test_maps_are_rows_of_the_weights(name):
    model = tiny(**VARIANTS[name])
    images = random_images(model)
    weights, (rows, columns) = attention_weights(model, images), model.grid_size
    patches = rows * columns
    classes = sum(layer.num_tokens for layer in model.layers if isinstance(layer, ClassToken))
    registers = sum(layer.num_tokens for layer in model.layers if isinstance(layer, RegisterTokens))
    expected = {"class": weights[..., 0, :], "patches": weights[..., -patches:, :].mean(axis=-2)}
    expected[1, 2] = weights[..., classes + registers + columns + 2, :]
    expected |= {f"register_{i}": weights[..., classes + i, :] for i in range(registers)}
    if classes == 2:
        expected |= {"distillation": weights[..., 1, :], None: weights[..., :2, :].mean(axis=-2)}
    elif name != "map":
        expected[None] = expected["patches" if name == "gap" else "class"]
    for query, wanted in expected.items():
        found = attention_maps(model, images, query=query)
        assert found.dtype == "float32"
        assert_close(found, wanted[..., -patches:].reshape(*wanted.shape[:3], rows, columns), 1e-5)
    np.testing.assert_array_equal(attention_maps(model, images, (1, -2), (0, 0)), attention_maps(model, images, query=(0, 0))[:, ::-1])


def test_attention_pooling_shows_its_own_attention():
    model = tiny(**VARIANTS["map"])
    images, pool = random_images(model), model.get_layer("attention_pooling")
    maps = attention_maps(model, images)
    assert maps.shape == (2, 1, 2, 2, 3)
    np.testing.assert_allclose(maps.sum(axis=(-1, -2)), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(maps, attention_maps(model, images, query="pooling"))
    keys, values = np.split(to_numpy(pool.key_value(keras.Model(model.input, pool.input)(images))), 2, axis=-1)
    mixed = np.einsum("bhk,bkhd->bhd", maps.reshape(2, 2, 6), values.reshape(2, 6, 2, 8)).reshape(2, 16)
    pooled = pool.projection(mixed)
    assert_close(pooled + pool.mlp(pool.norm(pooled)), keras.Model(model.input, pool.output)(images), 1e-5)
    assert attention_maps(model, images, blocks=0).shape == (2, 1, 2, 2, 3)


def test_of_models_on_their_way(tmp_path):
    """After `fit`, `adapt`, LoRA, a load from disk, and inside another model, of any size, the weights are those of the model at hand."""
    model = tiny()
    images = random_images(model)
    before = attention_maps(model, images)
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    model.fit(images, np.array([0, 1]), verbose=0)
    model.predict(images, verbose=0)
    fitted = attention_maps(model, images)
    assert np.abs(fitted - before).max() > 1e-6
    model.save(tmp_path / "model.keras")
    assert_close(attention_maps(keras.saving.load_model(tmp_path / "model.keras"), images), fitted, 1e-6)
    assert attention_maps(model.adapt(input_shape=(24, 24, 3)), np.ones((1, 24, 24, 3))).shape == (1, 2, 2, 3, 3)

    training.add_lora(model, rank=2)
    assert_close(attention_maps(model, images), fitted, 1e-6)
    model.get_layer("block_0").attention.qkv.lora_kernel_b.assign(np.ones((2, 48)))
    assert np.abs(attention_maps(model, images) - fitted).max() > 1e-4

    vit = tiny(include_top=False)
    assert_close(attention_maps(nested(vit), images, query=(1, 1)), attention_maps(vit, images * 0.5, query=(1, 1)), 1e-5)
    layers = keras.Model(vit.input, keras.layers.Dense(3)(vit.get_layer("norm").output[:, 0]))
    assert_close(attention_maps(layers, images), attention_maps(vit, images), 1e-6)
    open_size = tiny(input_shape=(None, None, 3), pooling="gap")
    assert attention_maps(open_size, np.ones((1, 32, 16, 3))).shape == (1, 2, 2, 4, 2)
    half = tiny(dtype="mixed_bfloat16", drop_path_rate=0.5, attention_dropout_rate=0.5)
    assert_close(attention_maps(half, images), before, 0.05)


def test_wrong_arguments():
    model = tiny(num_register_tokens=1)
    images, bare = random_images(model), tiny(class_token=False, pooling="gap")
    for arguments, message in (
        ((keras.Sequential([keras.layers.Dense(2)], name="mine"), images), "must be a keras_vit.VisionTransformer, .*Sequential 'mine'"),
        ((3, images), "Received: a int"),
        ((model, images[0]), r"must be a batch.*Received: shape \(16, 24, 3\). Use `images\[None\]`"),
        ((model, images, 2), "between -2 and 1. Received: 2"),
        ((model, images, ()), r"Received: \(\)"),
        ((model, images, None, (2, 0)), r"in the grid of 2 x 3. Received: query=\(2, 0\)"),
        ((model, images, None, "distillation"), "one of 'class', 'patches', 'register_0', or a patch"),
        ((model, images, None, "pooling"), "needs a model with"),
        ((bare, images, None, "class"), "one of 'patches', or a patch"),
    ):
        with pytest.raises(ValueError, match=message):
            attention_maps(*arguments)
    images = keras.Input((16, 24, 3))
    twice = keras.Model(images, model(images) + model(images * 0.5))
    with pytest.raises(ValueError, match="one VisionTransformer, once. Received: a model with 2 such calls"):
        attention_weights(twice, np.ones((1, 16, 24, 3)))


def test_the_forward_path_is_as_before():
    """A call under observation gives what a call without gives, and the model keeps no weights."""
    model = VisionTransformer((16, 24, 3), 8, 16, 2, 2, 16, num_classes=3)
    images = random_images(model)
    expected = model.predict(images, verbose=0)
    attention_weights(model, images)
    np.testing.assert_array_equal(model.predict(images, verbose=0), expected)
