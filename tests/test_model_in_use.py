"""What users of Keras do with a model: fit, save, freeze and clone it, adapt it, and take its feature maps."""

import keras
import numpy as np
import pytest
from helpers import (
    CONV_STEM,
    RESNET_STEM,
    TINY,
    assert_close,
    outputs_of,
    random_images,
    randomize,
    requires_tensorflow,
    tiny,
    to_numpy,
)

import keras_vit
from keras_vit import VisionTransformer
from keras_vit.layers.patch_embedding import fit_kernel
from keras_vit.layers.resampling import resample_grid

# What users of Keras do with a model


def test_fit_makes_the_loss_smaller():
    keras.utils.set_random_seed(0)
    model = VisionTransformer(**TINY)
    images, labels = random_images(model, 8), np.arange(8) % 5
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", jit_compile=keras.backend.backend() == "jax")
    losses = model.fit(images, labels, epochs=8, verbose=0).history["loss"]
    assert abs(losses[0] - np.log(5)) < 1e-3  # the head starts at zero
    assert losses[-1] < losses[0] - 0.05


def test_output_of_every_block():
    """All tokens, of the last block too; its result is that of the layers called one after another."""
    model = tiny(num_layers=3, num_register_tokens=1)
    images = random_images(model)
    tokens = keras.Model(model.input, model.get_layer("block_0").input)(images)
    for i in range(3):
        block = model.get_layer(f"block_{i}")
        tokens = block(tokens)
        assert tuple(tokens.shape) == (2, 8, 16)
        assert_close(keras.Model(model.input, block.output)(images), tokens, 1e-6)


def test_summary_names_every_layer(capsys):
    model = tiny()
    lines = []
    model.summary(print_fn=lambda text, **_: lines.append(text), line_length=120)
    text = "\n".join(lines)
    assert all(layer.name in text for layer in model.layers)


def test_frozen_layers_stay():
    model = tiny()
    for layer in model.layers[:-2]:
        layer.trainable = False
    assert {weight.path for weight in model.trainable_weights} == {"head/kernel", "head/bias"}
    before = model.get_weights()
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    model.train_on_batch(random_images(model), np.array([0, 1]))
    changed = {weight.path for weight, old in zip(model.weights, before) if not np.array_equal(to_numpy(weight), old)}
    assert changed == {"head/kernel", "head/bias"}


@pytest.mark.parametrize("more", [{}, {"pooling": "gap", "num_register_tokens": 1}, {"distillation_token": True}])
def test_clone(more):
    model = tiny(**more)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    images = random_images(model)
    assert_close(outputs_of(clone, images), outputs_of(model, images), 1e-6)


def test_save_and_load(tmp_path):
    model = tiny(name="mine")
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded) is VisionTransformer and loaded.get_config() == model.get_config() and loaded.name == "mine"
    assert loaded.optimizer is not None and loaded.preprocessing == model.preprocessing
    images = random_images(model)
    assert_close(outputs_of(loaded, images), outputs_of(model, images), 0)


def test_weights_of_another_image_and_patch_size(tmp_path):
    model = tiny(position_resample="bicubic")
    model.save_weights(tmp_path / "model.weights.h5")
    other = tiny(seed=1, input_shape=(36, 24, 3), patch_size=12, position_resample="bicubic")
    other.load_weights(tmp_path / "model.weights.h5")
    table, kernel = to_numpy(model.get_layer("position_embedding").table), to_numpy(model.get_layer("patch_embedding").kernel)
    assert_close(other.get_layer("position_embedding").table, resample_grid(table, (3, 2), "bicubic"))
    assert_close(other.get_layer("patch_embedding").kernel, fit_kernel(kernel, (12, 12, 3, 16), "bilinear"))
    for ours, theirs in zip(other.get_layer("block_1").weights, model.get_layer("block_1").weights, strict=True):
        np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_weights_of_another_width_are_refused(tmp_path):
    tiny(hidden_dim=8).save_weights(tmp_path / "model.weights.h5")
    with pytest.raises(ValueError, match="shape"):
        tiny().load_weights(tmp_path / "model.weights.h5")


# adapt


def assert_same(model, other, but=()):
    """Every weight is equal, and none is shared."""
    weights = {weight.path: weight for weight in other.weights}
    for weight in model.weights:
        if weight.path not in but and "seed" not in weight.path:
            assert weight is not weights[weight.path]
            np.testing.assert_array_equal(to_numpy(weight), to_numpy(weights[weight.path]), err_msg=weight.path)


@pytest.mark.parametrize("more", [{}, {"distillation_token": True, "num_register_tokens": 1}, {"stem": CONV_STEM, "patch_size": 2}])
def test_adapt_to_the_same_is_a_copy(more):
    model = tiny(**more)
    copy = model.adapt()
    assert_same(copy, model)
    images = random_images(model)
    before = to_numpy(model(images))
    assert_close(copy(images), before, 1e-6)
    randomize(copy, seed=1)
    assert_close(model(images), before, 0)


def test_adapt_to_other_classes():
    model = tiny(distillation_token=True)
    adapted = model.adapt(num_classes=3)
    heads = [f"{head}/{name}" for head in ("head", "distillation_head") for name in ("kernel", "bias")]
    assert_same(adapted, model, but=heads)
    assert adapted.output_shape == (None, 3)
    assert not any(np.any(to_numpy(weight)) for weight in adapted.weights if weight.path in heads)
    np.testing.assert_allclose(to_numpy(adapted(random_images(model))), 1 / 3, rtol=1e-6)


def test_adapt_gives_a_model_without_head_one():
    adapted = tiny(include_top=False).adapt(num_classes=3)
    assert adapted.output_shape == (None, 3) and adapted.get_config()["include_top"]
    assert tiny().adapt(include_top=False).output_shape == (None, 16)


def test_adapt_to_another_image_size():
    model = tiny()
    adapted = model.adapt(input_shape=(32, 40, 3))
    assert_same(adapted, model, but=["position_embedding/table"])
    table = to_numpy(model.get_layer("position_embedding").table)
    assert_close(adapted.get_layer("position_embedding").table, resample_grid(table, (4, 5), "bicubic_antialias"))
    assert adapted.grid_size == (4, 5)


def test_adapt_to_another_patch_size():
    model = tiny()
    adapted = model.adapt(patch_size=(4, 8), input_shape=(8, 24, 3))
    assert_same(adapted, model, but=["patch_embedding/kernel"])
    kernel = to_numpy(model.get_layer("patch_embedding").kernel)
    assert_close(adapted.get_layer("patch_embedding").kernel, fit_kernel(kernel, (4, 8, 3, 16), "bilinear"))


def test_adapt_to_grey_images():
    """The same response to a gray image as the model of colors has to its repetition."""
    model = tiny()
    gray = model.adapt(input_shape=(16, 24, 1))
    images = random_images(gray)
    assert_close(gray(images), model(np.repeat(images, 3, axis=-1)))


def test_adapt_of_rates_and_types():
    model = tiny(num_layers=3)
    adapted = model.adapt(drop_path_rate=0.4, dropout_rate=0.1, dtype="mixed_bfloat16", remat=True)
    assert adapted.get_layer("block_2").drop_path_rate == 0.4 and adapted.get_layer("block_1").drop_path_rate == 0.2
    assert adapted.get_layer("block_0").compute_dtype == "bfloat16"
    assert_same(adapted, model)


def test_adapt_with_parts_more_or_less():
    """A part that is new starts new, and one that is left out is left out."""
    plain = tiny()
    scaled = plain.adapt(layer_scale_init=0.5, qk_norm=True, num_register_tokens=2)
    np.testing.assert_array_equal(to_numpy(scaled.get_layer("block_0").layer_scale1.gamma), 0.5)
    back = scaled.adapt(layer_scale_init=None, qk_norm=False, num_register_tokens=0)
    images = random_images(plain)
    assert_close(back(images), plain(images), 1e-6)


@pytest.mark.parametrize(
    "more, changes, message",
    [
        ({}, {"classes": 3}, "does not have these arguments. Received: classes. The nearest are num_classes"),
        ({}, {"hidden_dim": 32}, "do not fit the adapted model"),
        ({}, {"mlp": "swiglu"}, "do not fit the adapted model"),
        ({"stem": RESNET_STEM, "patch_size": 1}, {"input_shape": (16, 24, 1)}, "do not fit the adapted model"),
        ({}, {"num_classes": 0}, "`num_classes` must be .* Received: num_classes=0"),
        ({}, {"input_shape": (15, 24, 3)}, "must divide .* Received"),
    ],
)
def test_adapt_refuses(more, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**more).adapt(**changes)


# feature_maps


@pytest.mark.parametrize(
    "more", [{}, {"num_register_tokens": 3}, {"class_token": False, "pooling": "gap"}, {"input_shape": (None, None, 3)}]
)
def test_feature_maps(more, other_process):
    model = tiny(**more)
    maps = keras_vit.feature_maps(model, blocks=(0, -1), norm=False)
    for sides in ((16, 24), (24, 8)) if None in model.grid_size else ((16, 24),):
        images = random_images(model, sides=sides)
        for i, found in zip((0, 1), outputs_of(maps, images), strict=True):
            tokens = to_numpy(outputs_of(keras.Model(model.input, model.get_layer(f"block_{i}").output), images))
            grid = (sides[0] // 8, sides[1] // 8)
            assert_close(found, tokens[:, model.num_prefix_tokens :].reshape(2, *grid, 16), 1e-6)
    assert other_process.check(maps, images) == "Functional"


def test_feature_maps_are_normalized_unless_told_otherwise():
    model = tiny()
    images = random_images(model)
    tokens = to_numpy(keras.Model(model.input, model.get_layer("norm").output)(images))
    assert_close(keras_vit.feature_maps(model)(images), tokens[:, 1:].reshape(2, 2, 3, 16), 1e-6)
    assert keras_vit.feature_maps(model, blocks=(0, 1)).get_layer("norm") is model.get_layer("norm")


@pytest.mark.parametrize("blocks", [(2,), (0, -3), (), 1, "1", (0.5,)])
def test_feature_maps_of_blocks_that_are_not_there(blocks):
    with pytest.raises(ValueError, match="`blocks` must be .* Received: blocks="):
        keras_vit.feature_maps(tiny(), blocks=blocks)


# Open image size

OPEN = {"input_shape": (None, None, 3), "position_grid": (2, 3), "num_register_tokens": 1}


@pytest.mark.parametrize(
    "more", [{}, {"pooling": "gap"}, {"prefix_positions": False, "position_embedding": "sincos2d", "position_grid": None}]
)
def test_an_open_size_equals_each_fixed_one(more):
    more = {**OPEN, **more}
    model = tiny(**more)
    assert model.grid_size == (None, None)
    for sides in ((16, 24), (24, 16), (8, 40)):
        fixed = VisionTransformer(**{**TINY, **more, "input_shape": (*sides, 3)})
        fixed.set_weights(model.get_weights())
        images = random_images(fixed)
        assert_close(model.predict(images, verbose=0), outputs_of(fixed, images))


@pytest.mark.parametrize(
    "stem, patch_size, grid", [(None, 16, (14, 14)), (None, (32, 16), (7, 14)), (CONV_STEM, 4, (14, 14)), (RESNET_STEM, 1, (28, 28))]
)
def test_positions_of_an_open_size_are_those_of_224_pixels(stem, patch_size, grid):
    model = tiny(input_shape=(None, None, 3), patch_size=patch_size, stem=stem)
    assert model.get_layer("position_embedding").table.shape[:2] == grid


def test_fit_over_several_sizes():
    model = tiny(**OPEN)
    model.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy", jit_compile=False)
    before = to_numpy(model.get_layer("position_embedding").table)
    for sides in ((16, 24), (24, 16)):
        history = model.fit(random_images(model, sides=sides), np.array([0, 1]), verbose=0).history
        assert np.isfinite(history["loss"]).all()
        assert model.predict(random_images(model, sides=sides), verbose=0).shape == (2, 5)
    assert not np.array_equal(to_numpy(model.get_layer("position_embedding").table), before)


@requires_tensorflow
@pytest.mark.parametrize("more", [{}, {"dynamic_padding": True, "pooling": "gap", "position_resample": "bicubic"}])
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_fit_on_a_dataset_of_several_sizes(more):
    """One `fit` over batches of different sizes, with the shapes unknown while tracing."""
    import tensorflow as tf

    model = tiny(**{**OPEN, **more})
    sides = ((16, 24), (24, 16), (30, 17)) if more else ((16, 24), (24, 16), (8, 8))

    def batches():
        for size in sides:
            yield random_images(model, sides=size), np.array([0, 1])

    data = tf.data.Dataset.from_generator(batches, output_signature=(tf.TensorSpec((None, None, None, 3)), tf.TensorSpec((None,), "int64")))
    model.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy", jit_compile=False)
    assert np.isfinite(model.fit(data, shuffle=False, verbose=0).history["loss"]).all()
    assert model.predict(data, verbose=0).shape == (6, 5)


@requires_tensorflow
@pytest.mark.parametrize("more", [{}, {"position_embedding": "sincos2d", "position_grid": None, "pooling": "gap"}])
def test_saved_model_of_any_size_and_batch(more, tmp_path):
    import tensorflow as tf

    model = tiny(**{**OPEN, **more})
    model.export(tmp_path / "model", format="tf_saved_model", verbose=False)
    served = tf.saved_model.load(tmp_path / "model")
    for batch, sides in ((1, (16, 24)), (3, (24, 16)), (2, (8, 40))):
        images = random_images(model, batch, sides)
        assert_close(served.serve(images), model(images))


@pytest.mark.slow
@requires_tensorflow
def test_remat_in_a_compiled_fit():
    histories = []
    for remat in (False, True):
        keras.utils.set_random_seed(1)
        model = tiny(num_layers=1, dropout_rate=0.3, drop_path_rate=0.3, drop_path_schedule="constant", remat=remat)
        model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy", jit_compile=True)
        histories.append(model.fit(random_images(model, 4), np.arange(4), batch_size=2, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(histories[0], histories[1], rtol=1e-5)
