import json

import keras
import numpy as np
import pytest
from helpers import (
    CONV_STEM,
    RESNET_STEM,
    TINY,
    VARIANTS,
    all_or,
    assert_close,
    loss_and_gradients,
    outputs_of,
    random_images,
    randomize,
    tiny,
    to_numpy,
)

import keras_vit
from keras_vit import VisionTransformer


def values(layer):
    """Returns a layer's weights by the end of their paths."""
    return {weight.path.split("/")[-1]: to_numpy(weight) for weight in layer.weights}


# Every variant


every_variant = all_or("plain", "map", "token_gap", "distilled", "deit3", "simple", "dinov2_g", "resnet_stem", "channels_first", "random")


@pytest.mark.parametrize("name", every_variant(VARIANTS))
def test_variant(name, other_process):
    """Configuration, shapes, a gradient for every weight, and the same output where it is loaded."""
    model = tiny(**VARIANTS[name])
    assert not [layer.name for layer in model._flatten_layers() if not layer.built]  # `train_on_batch` traces until there are none
    config = json.loads(json.dumps(model.get_config()))
    assert VisionTransformer.from_config(config).get_config() == model.get_config()
    assert model.grid_size == {"conv_stem": (2, 6), "gray": (2, 6)}.get(name, (2, 3))

    images = random_images(model)
    outputs = outputs_of(model, images)
    if model.get_config()["include_top"]:
        assert outputs.shape == (2, 5) and keras.backend.standardize_dtype(outputs.dtype) == "float32"
    else:
        tokens = 6 + model.num_prefix_tokens
        assert tuple(outputs.shape) == ((2, tokens, 16) if name == "sequence" else (2, 7) if name == "eva02_clip" else (2, 16))
    assert model.output_shape == (None, *outputs.shape[1:])

    assert other_process.check(model, images) == "VisionTransformer"

    _, gradients = loss_and_gradients(model, random_images(model, 8))  # of which stochastic depth leaves some
    still = [weight.path for weight, gradient in zip(model.trainable_weights, gradients) if not np.any(gradient)]
    assert not [path for path in still if not path.endswith("key_norm/beta")]


def test_class_names():
    names = ("cat", "dog", "zebra finch")
    model = tiny(num_classes=3, class_names=np.array(names).tolist())
    assert model.class_names == names
    assert VisionTransformer.from_config(json.loads(json.dumps(model.get_config()))).class_names == names
    assert model.adapt(drop_path_rate=0.1).class_names == model.adapt(num_classes=3).class_names == names
    assert model.adapt(num_classes=2).class_names is None
    assert model.adapt(num_classes=2, class_names=["a", "b"]).class_names == ("a", "b")
    for wrong in (["a", "b"], "abc", [0, 1, 2], 3):
        with pytest.raises(ValueError, match="`class_names` must be None or a sequence of `num_classes` strings.*Received"):
            tiny(num_classes=3, class_names=wrong)


def test_names_and_order_of_the_layers():
    model = tiny(
        stem=RESNET_STEM,
        patch_size=1,
        distillation_token=True,
        num_register_tokens=1,
        norm_embeddings=True,
        representation_size=4,
        dropout_rate=0.1,
        patch_dropout_rate=0.1,
    )
    names = [
        *("images", "preprocessing", "stem", "patch_embedding", "tokens", "class_token", "position_embedding", "register_tokens"),
        *("embedding_dropout", "patch_dropout", "embedding_norm", "block_0", "block_1", "norm", "pre_logits"),
        *("head", "distillation_head", "mean_logits", "predictions"),
    ]
    found = [layer.name for layer in model.layers if layer.name in names]
    assert found == names
    assert [layer.name for layer in tiny(pooling="map").layers if layer.name == "attention_pooling"]


# What goes into the first block


def embed(model, images):
    """Patches as tokens, in numpy."""
    patch = values(model.get_layer("patch_embedding"))
    scaled = (images / 255.0 - 0.5) / 0.5
    cut = scaled.reshape(-1, 2, 8, 3, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(len(images), 6, -1)
    return cut @ patch["kernel"].reshape(-1, 16) + patch["bias"]


@pytest.mark.parametrize("distillation_token", [False, True])
@pytest.mark.parametrize("prefix_positions", [True, False])
def test_order_of_tokens_and_positions(prefix_positions, distillation_token):
    """[class, distillation, registers, patches]; registers never get positions, class tokens do in the paper's order."""
    model = tiny(prefix_positions=prefix_positions, distillation_token=distillation_token, num_register_tokens=3)
    images = random_images(model)
    positions = values(model.get_layer("position_embedding"))
    table = positions["table"].reshape(1, 6, 16)
    cls, registers = (values(model.get_layer(name))["token"] for name in ("class_token", "register_tokens"))
    prefix = cls + (positions["prefix_table"] if prefix_positions else 0.0)
    expected = [np.broadcast_to(x, (2, *x.shape[1:])) for x in (prefix, registers, embed(model, images) + table)]
    embedding = keras.Model(model.input, model.get_layer("register_tokens").output)
    assert_close(embedding(images), np.concatenate(expected, axis=1))
    assert cls.shape[1] == 1 + distillation_token and model.num_prefix_tokens == 4 + distillation_token
    assert ("prefix_table" in positions) == prefix_positions


@pytest.mark.parametrize(
    "preprocessing, mean, std",
    [
        (None, 0.5, 0.5),
        ({"mean": 0.25}, 0.25, 0.5),
        ({"mean": (0.485, 0.456, 0.406), "std": [0.229, 0.224, 0.225]}, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_preprocessing(preprocessing, mean, std, dtype):
    """In full precision, whatever the policy."""
    model = tiny(preprocessing=preprocessing, dtype=dtype)
    images = random_images(model)
    normalized = keras.Model(model.input, model.get_layer("preprocessing").output)(images)
    assert_close(normalized, (images / 255.0 - np.array(mean)) / np.array(std), 1e-6)
    assert set(model.preprocessing) >= {"mean", "std", "size", "interpolation", "crop_fraction"}


@pytest.mark.parametrize("channels", [1, 4])
def test_preprocessing_of_images_without_colors_takes_the_mean(channels):
    model = tiny(input_shape=(16, 24, channels), preprocessing={"mean": (0.2, 0.4, 0.6), "std": (0.1, 0.2, 0.3)})
    images = random_images(model)
    normalized = keras.Model(model.input, model.get_layer("preprocessing").output)(images)
    assert_close(normalized, (images / 255.0 - 0.4) / 0.2, 1e-6)


def test_without_preprocessing_the_model_takes_normalized_pixels():
    model, raw = tiny(), tiny(include_preprocessing=False)
    images = random_images(model)
    assert_close(raw((images / 255.0 - 0.5) / 0.5), model(images))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float64"])
def test_pixels_of_any_type(dtype):
    model = tiny()
    images = np.floor(random_images(model))
    assert_close(model.predict(images.astype(dtype), verbose=0), model(images))


@pytest.mark.parametrize("stem", [None, CONV_STEM, RESNET_STEM])
@pytest.mark.parametrize("by_setting", all_or("False")([False, True]))
def test_channels_first_equals_channels_last(stem, by_setting):
    """By the argument, and by Keras's setting."""
    more = {"stem": stem, "patch_size": 8 if stem is None else 1, "preprocessing": {"mean": (0.1, 0.5, 0.9), "std": (0.1, 0.2, 0.3)}}
    last = tiny(**more)
    images = random_images(last)
    if by_setting:
        keras.config.set_image_data_format("channels_first")
    try:
        first = tiny(**more, input_shape=(3, 16, 24), data_format=None if by_setting else "channels_first")
        assert first.get_config()["data_format"] == "channels_first"
        assert_close(first(images.transpose(0, 3, 1, 2)), last(images), 1e-6)
    finally:
        keras.config.set_image_data_format("channels_last")


# Pooling and heads


def logits_and_tokens(model, images):
    """Returns the input of `predictions` and the normalized tokens."""
    outputs = [model.get_layer("predictions").input, model.get_layer("norm").output]
    return (to_numpy(x) for x in keras.Model(model.input, outputs)(images))


@pytest.mark.parametrize(
    "more", [{}, {"norm_first": False}, VARIANTS["eva02_e"], {"qk_norm": True, "qkv_bias": False}, {"num_layers": 1}, {"remat": True}]
)
def test_the_pooled_class_token_is_that_of_all_tokens(more):
    """The last block computes only what the head reads; `get_layer("norm").output` has every token all the same."""
    model = tiny(**more)
    logits, tokens = logits_and_tokens(model, random_images(model))
    head = values(model.get_layer("head"))
    assert tokens.shape == (2, 7, 16)
    assert_close(logits, tokens[:, 0] @ head["kernel"] + head["bias"], 1e-5)
    assert_close(model(random_images(model)), to_numpy(keras.ops.softmax(logits)), 1e-5)


def test_feature_of_the_class_token():
    model, sequence = tiny(include_top=False), tiny(include_top=False, pooling=None)
    images = random_images(model)
    assert_close(model(images), sequence(images)[:, 0], 1e-6)
    distilled = tiny(include_top=False, distillation_token=True)
    tokens = keras.Model(distilled.input, distilled.get_layer("norm").output)
    assert_close(distilled(images), to_numpy(tokens(images))[:, :2].mean(axis=1), 1e-6)


def test_gap_leaves_prefix_tokens_out():
    model = tiny(pooling="gap", num_register_tokens=2)
    logits, tokens = logits_and_tokens(model, random_images(model))
    head = values(model.get_layer("head"))
    assert_close(logits, tokens[:, 3:].mean(axis=1) @ head["kernel"] + head["bias"])


def test_map_reads_the_patch_tokens():
    model = tiny(pooling="map", num_register_tokens=2)
    logits, tokens = logits_and_tokens(model, random_images(model))
    head = values(model.get_layer("head"))
    assert_close(logits, to_numpy(model.get_layer("attention_pooling")(tokens[:, 3:])) @ head["kernel"] + head["bias"])


def test_token_gap_puts_class_token_and_mean_side_by_side():
    model = tiny(pooling="token_gap", num_register_tokens=2)
    logits, tokens = logits_and_tokens(model, random_images(model))
    head = values(model.get_layer("head"))
    assert_close(logits, np.concatenate([tokens[:, 0], tokens[:, 3:].mean(axis=1)], axis=-1) @ head["kernel"] + head["bias"])


@pytest.mark.parametrize("pooling", ["token", "gap"])
def test_norm_after_pooling(pooling):
    model = tiny(pooling=pooling, norm_after_pooling=True, include_top=False)
    images = random_images(model)
    tokens = to_numpy(keras.Model(model.input, model.get_layer("block_1").output)(images))
    feature = tokens[:, 0] if pooling == "token" else tokens[:, 1:].mean(axis=1)
    norm = values(model.get_layer("norm"))
    expected = (feature - feature.mean(-1, keepdims=True)) / np.sqrt(feature.var(-1, keepdims=True) + 1e-6)
    assert_close(model(images), expected * norm["gamma"] + norm["beta"])


def test_two_heads_are_averaged():
    model = tiny(distillation_token=True)
    logits, tokens = logits_and_tokens(model, random_images(model))
    each = []
    for i, name in enumerate(("head", "distillation_head")):
        head = values(model.get_layer(name))
        each.append(tokens[:, i] @ head["kernel"] + head["bias"])
    assert_close(logits, (each[0] + each[1]) / 2)


def test_representation_is_a_dense_layer_with_tanh():
    model = tiny(representation_size=7)
    logits, tokens = logits_and_tokens(model, random_images(model))
    dense, head = values(model.get_layer("pre_logits")), values(model.get_layer("head"))
    assert_close(logits, np.tanh(tokens[:, 0] @ dense["kernel"] + dense["bias"]) @ head["kernel"] + head["bias"])


def test_classifier_activation():
    logits = tiny(classifier_activation=None)
    images = random_images(logits)
    x = to_numpy(logits(images))
    assert_close(tiny()(images), np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True))
    assert_close(tiny(classifier_activation="sigmoid")(images), 1 / (1 + np.exp(-x)))


# Initial weights and randomness


def test_initial_weights():
    """vit_jax's: the head at zero, biases of 1e-6 in feed-forward networks, positions of 0.02, class token at zero."""
    model = VisionTransformer(**{**TINY, "hidden_dim": 64, "input_shape": (64, 64, 3), "classifier_activation": None})
    assert not np.any(to_numpy(model(random_images(model))))
    assert not np.any(values(model.get_layer("class_token"))["token"])
    assert abs(values(model.get_layer("position_embedding"))["table"].std() / 0.02 - 1) < 0.1
    block = model.get_layer("block_0")
    assert 0.98 * np.sqrt(6 / 128) < np.abs(to_numpy(block.attention.qkv.kernel)).max() <= np.sqrt(6 / 128)
    assert 0.5e-6 < to_numpy(block.mlp.fc1.bias).std() < 1.5e-6
    blocks = [to_numpy(model.get_layer(f"block_{i}").mlp.fc1.kernel) for i in range(2)]
    assert not np.allclose(*blocks)


@pytest.mark.parametrize("schedule, rates", [("linear", [0.0, 0.1, 0.2]), ("constant", [0.2, 0.2, 0.2])])
def test_drop_path_schedule(schedule, rates):
    model = tiny(num_layers=3, drop_path_rate=0.2, drop_path_schedule=schedule)
    np.testing.assert_allclose([model.get_layer(f"block_{i}").drop_path_rate for i in range(3)], rates)


def test_the_seed_of_keras_decides_weights_and_masks():
    def run(seed):
        keras.utils.set_random_seed(seed)
        model = VisionTransformer(**TINY, num_register_tokens=1, **VARIANTS["random"])
        start = [to_numpy(weight) for weight in model.trainable_weights]
        randomize(model.get_layer("head"))
        images = random_images(model)
        return [*start, *(to_numpy(model(images, training=True)) for _ in range(2))]

    first, again, other = run(1), run(1), run(2)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], other[0]) and not np.array_equal(first[-1], other[-1])
    assert not np.array_equal(first[-1], first[-2])


def test_remat_has_the_same_gradients():
    results = []
    for remat in (False, True):
        keras.utils.set_random_seed(1)
        model = tiny(**{**VARIANTS["random"], "remat": remat})
        keras.utils.set_random_seed(2)
        results.append(loss_and_gradients(model, random_images(model)))
    (loss, gradients), (remat_loss, remat_gradients) = results
    assert_close(remat_loss, loss, 1e-6)
    for ours, theirs in zip(remat_gradients, gradients, strict=True):
        assert_close(ours, theirs, 1e-4)


# Types


@pytest.mark.parametrize("dtype, tolerance", [("mixed_bfloat16", 0.05), ("mixed_float16", 0.01)])
def test_half_precision(dtype, tolerance):
    more = {"classifier_activation": None, "num_register_tokens": 1, "stem": CONV_STEM, "patch_size": 2, "scale": 0.1}
    model, half = tiny(**more), tiny(**more, dtype=dtype)
    images = random_images(model)
    result = half(images)
    assert keras.backend.standardize_dtype(result.dtype) == "float32"
    assert_close(result, model(images), tolerance)
    full = ("images", "preprocessing", "predictions")
    assert {layer.dtype_policy.name for layer in half._flatten_layers(include_self=False) if layer.name not in full} == {dtype}
    assert {weight.dtype for weight in half.weights} == {"float32"}


def test_the_policy_of_keras_is_the_default_and_is_saved():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        config = tiny().get_config()
    finally:
        keras.config.set_dtype_policy("float32")
    assert VisionTransformer.from_config(config).get_layer("block_0").compute_dtype == "bfloat16"


def test_numbers_of_numpy():
    """As they come out of an array or a search space; the configuration can still be written."""
    numbers = {
        **{key: np.int64(value) for key, value in TINY.items() if key != "input_shape"},
        "input_shape": [np.int32(16), np.int32(24), np.int32(3)],
        "drop_path_rate": np.float32(0.5),
        "class_token": np.True_,
        "distillation_token": np.True_,
        "preprocessing": {"mean": np.array([0.1, 0.2, 0.3])},
        "position_grid": (np.int64(2), np.int64(3)),
        "representation_size": np.int64(7),
    }
    model = VisionTransformer(**numbers)
    assert model.num_prefix_tokens == 2 and model.output_shape == (None, 5)
    assert VisionTransformer(**json.loads(json.dumps(model.get_config()))).get_config() == model.get_config()


def test_callable_activations_are_saved(other_process):
    model = tiny(activation=keras_vit.layers.quick_gelu, classifier_activation=keras.activations.sigmoid)
    assert json.dumps(model.get_config())
    assert other_process.check(model, random_images(model)) == "VisionTransformer"


def test_adapting_to_any_size_keeps_the_outputs_at_this_size():
    model = tiny()
    images = random_images(model)
    assert_close(model.adapt(input_shape=(None, None, 3))(images), model(images), 1e-6)
