"""Each wrong argument of a model is a ValueError that says the rule and what was received."""

import keras
import numpy as np
import pytest
from helpers import CONV_STEM, RESNET_STEM, TINY, assert_close, tiny

import keras_vit

# arguments, words of the rule, what is received
BAD = [
    # The image and its patches
    ({"input_shape": (15, 24, 3)}, "patch must divide", "15 x 24 pixels"),
    ({"input_shape": (16, 20, 3)}, "patch must divide", "16 x 20 pixels"),
    ({"input_shape": (4, 24, 3)}, "patch must divide", "4 x 24 pixels"),
    ({"input_shape": (15, 24, 3)}, "set `dynamic_padding=True`", "patch_size=(8, 8)"),
    ({"stem": CONV_STEM, "patch_size": 3}, "patch must divide", "patch_size=(3, 3)"),
    ({"input_shape": (16, 24)}, "(height, width, channels)", "input_shape=(16, 24)"),
    ({"input_shape": (16, 24, None)}, "only height and width may be None", "input_shape=(16, 24, None)"),
    ({"input_shape": (0, 24, 3)}, "(height, width, channels)", "input_shape=(0, 24, 3)"),
    ({"input_shape": (16.0, 24, 3)}, "(height, width, channels)", "input_shape=(16.0, 24, 3)"),
    ({"input_shape": 16}, "(height, width, channels)", "input_shape=16"),
    ({"input_shape": (None, 16, 24), "data_format": "channels_first"}, "(channels, height, width)", "input_shape=(None, 16, 24)"),
    ({"data_format": "NHWC"}, "`data_format` must be one of", "data_format='NHWC'"),
    ({"patch_size": 0}, "`patch_size` must be a positive int", "patch_size=0"),
    ({"patch_size": 8.0}, "`patch_size` must be a positive int", "patch_size=8.0"),
    ({"patch_size": (8, 8, 8)}, "`patch_size` must be a positive int", "patch_size=(8, 8, 8)"),
    ({"patch_size": True}, "`patch_size` must be a positive int", "patch_size=True"),
    # Numbers
    *(
        ({name: value}, f"`{name}` must be an int of at least 1", f"{name}={value!r}")
        for name in ("hidden_dim", "num_layers", "num_heads", "mlp_dim", "num_classes", "representation_size")
        for value in (0, -1, 2.0, "2", True)
    ),
    ({"num_classes": None}, "`num_classes` must be an int", "num_classes=None"),
    ({"num_register_tokens": -1}, "`num_register_tokens` must be an int of at least 0", "num_register_tokens=-1"),
    ({"num_register_tokens": None}, "`num_register_tokens` must be an int", "num_register_tokens=None"),
    ({"num_heads": 3}, "`num_heads` must divide `hidden_dim`", "num_heads=3, hidden_dim=16"),
    *(
        ({name: value}, f"`{name}` must lie in [0, 1)", f"{name}={value!r}")
        for name in ("dropout_rate", "attention_dropout_rate", "drop_path_rate", "patch_dropout_rate")
        for value in (-0.1, 1.0, 2, "0.1", None)
    ),
    ({"hidden_dim": 18, "position_embedding": "sincos2d"}, "multiple of 4", "hidden_dim=18"),
    # Names
    ({"pooling": "cls"}, "`pooling` must be one of 'token', 'gap'", "pooling='cls'"),
    ({"position_embedding": "rope"}, "`position_embedding` must be one of 'learned', 'sincos2d'", "position_embedding='rope'"),
    ({"position_resample": "nearest"}, "`position_resample` must be one of", "position_resample='nearest'"),
    ({"drop_path_schedule": "cosine"}, "`drop_path_schedule` must be one of 'linear', 'constant'", "drop_path_schedule='cosine'"),
    ({"qkv_bias": "key"}, "`qkv_bias` must be one of True, False, 'query_value'", "qkv_bias='key'"),
    ({"mlp_norm": "yes"}, "`mlp_norm` must be one of True, False", "mlp_norm='yes'"),
    ({"norm_branches": True}, "the input of each branch (`norm_first`) or its output", "norm_branches=True, norm_first=True"),
    ({"pooling_num_heads": 3}, "`pooling_num_heads` must divide `hidden_dim`", "pooling_num_heads=3"),
    ({"representation_activation": "tnh"}, "`representation_activation` must be the name", "representation_activation='tnh'"),
    ({"mlp": "glu"}, "`mlp` must be one of 'mlp', 'swiglu'", "mlp='glu'"),
    ({"activation": "gleu"}, "`activation` must be the name of an activation", "activation='gleu'"),
    ({"classifier_activation": "softmaxx"}, "`classifier_activation` must be the name", "classifier_activation='softmaxx'"),
    ({"classifier_activation": 1}, "`classifier_activation` must be the name", "classifier_activation=1"),
    ({"position_grid": 0}, "`position_grid` must be a positive int", "position_grid=0"),
    ({"position_grid": (2.5, 2)}, "`position_grid` must be a positive int", "position_grid=(2.5, 2)"),
    # Stems
    ({"stem": "conv"}, "`stem` must be None or a dict", "stem='conv'"),
    ({"stem": {"kind": "mobilenet"}}, "whose \"kind\" is one of 'conv', 'resnet'", "stem={'kind': 'mobilenet'}"),
    ({"stem": {"filters": (8,), "strides": (2,)}}, "`stem` must be None or a dict", "stem={'filters': (8,)"),
    ({"stem": {"kind": "conv", "filters": (8,)}}, "accepts filters, strides, norm_epsilon, and requires filters, strides", "stem="),
    ({"stem": {**RESNET_STEM, "depth": 3}}, "accepts block_counts, width, num_groups", "'depth': 3"),
    ({"stem": {**CONV_STEM, "name": "mine"}}, "accepts filters, strides", "'name': 'mine'"),
    ({"stem": {**CONV_STEM, "filters": 8}}, "`filters` must be a sequence of positive ints", "filters=8"),
    ({"stem": {**CONV_STEM, "strides": (2,)}}, "The length of `filters` and of `strides` must be the same", "strides=(2,)"),
    ({"stem": {**RESNET_STEM, "num_groups": 3}}, "`num_groups` must divide `width`", "num_groups=3, width=4"),
    # Preprocessing
    ({"preprocessing": "imagenet"}, "`preprocessing` must be None or a dict with keys of 'mean', 'std'", "preprocessing='imagenet'"),
    ({"preprocessing": [0.5, 0.5]}, "`preprocessing` must be None or a dict", "preprocessing=[0.5, 0.5]"),
    ({"preprocessing": {"variance": 1}}, "`preprocessing` must be None or a dict with keys of", "{'variance': 1}"),
    ({"preprocessing": {"mean": (0.1, 0.2)}}, "must hold one number, or one per channel", "(0.1, 0.2)"),
    ({"preprocessing": {"mean": "0.5"}}, "must hold one number, or one per channel", "'0.5'"),
    ({"preprocessing": {"std": 0.0}}, "must hold one number, or one per channel, above 0", "0.0"),
    # What contradicts
    ({"class_token": False}, "needs a class token", "pooling='token', class_token=False"),
    ({"class_token": False, "pooling": "token_gap"}, "needs a class token", "pooling='token_gap', class_token=False"),
    ({"distillation_token": True, "pooling": "gap"}, 'needs `pooling="token"`', "distillation_token=True, pooling='gap'"),
    ({"pooling": None}, "A head needs a pooled feature", "include_top=True, pooling=None"),
    ({"position_grid": 4, "position_embedding": "sincos2d"}, "for learned positions", "position_grid=4, position_embedding='sincos2d'"),
    ({"pooling": "token_gap", "norm_after_pooling": True}, "reads normalized tokens", "norm_after_pooling=True"),
]


@pytest.mark.parametrize("arguments, rule, received", BAD)
def test_model(arguments, rule, received):
    with pytest.raises(ValueError) as error:
        keras_vit.VisionTransformer(**{**TINY, **arguments})
    message = str(error.value)
    assert rule in message and "Received: " in message and received in message.split("Received: ")[1]


def test_the_same_of_a_zoo_function():
    with pytest.raises(ValueError, match=r"`drop_path_rate` must lie in \[0, 1\)\. Received: drop_path_rate=1.5"):
        keras_vit.ViTB16(drop_path_rate=1.5)


@pytest.mark.parametrize(
    "model, shapes",
    [
        ({}, [(1, 16, 24, 1), (1, 16, 24, 4), (1, 16, 32, 3), (1, 3, 16, 24), (16, 24, 3), (16, 24)]),
        ({"input_shape": (None, None, 3)}, [(1, 16, 24, 1), (1, 3, 16, 24), (16, 24, 3)]),
        ({"input_shape": (3, 16, 24), "data_format": "channels_first"}, [(1, 1, 16, 24), (1, 16, 24, 3)]),
        ({"input_shape": (16, 24, 1)}, [(1, 16, 24, 3), (1, 16, 32, 1)]),
        ({"input_shape": (16, 24, 1), "stem": RESNET_STEM, "patch_size": 1}, [(1, 16, 24, 3)]),
        ({"input_shape": (16, 24, 1), "stem": CONV_STEM, "patch_size": 1}, [(1, 16, 24, 3)]),
    ],
)
def test_images_of_another_shape(model, shapes):
    """One channel is not taken for three, nor three for one."""
    model = tiny(**model)
    for shape in shapes:
        with pytest.raises(ValueError, match="incompatible with the layer: expected "):
            model(np.zeros(shape, "float32"))


def test_gray_images_may_lack_their_axis_of_channels():
    model = tiny(input_shape=(16, 24, 1))
    images = np.random.default_rng(0).uniform(0, 255, (2, 16, 24)).astype("float32")
    assert_close(model(images), model(images[..., None]), 0)


@pytest.mark.parametrize("sides", [(15, 24), (16, 20), (4, 4)])
def test_images_of_an_open_size_that_the_patch_does_not_divide(sides):
    with pytest.raises(ValueError, match=r"must divide .* Received: patch_size=\(8, 8\)"):
        tiny(input_shape=(None, None, 3))(np.zeros((1, *sides, 3), "float32"))


def test_unknown_dtype():
    with pytest.raises(ValueError, match="'float17'.* Valid policies include"):
        tiny(dtype="float17")


def test_unknown_argument():
    with pytest.raises(TypeError, match="image_size"):
        keras_vit.VisionTransformer(image_size=224)


def test_a_saved_file_of_other_code_is_no_surprise(tmp_path):
    """Safe mode: a file with a lambda is refused, not run."""
    inputs = keras.Input((2,))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1)(inputs)).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="[Ll]ambda"):
        keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
