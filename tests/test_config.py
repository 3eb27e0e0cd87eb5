import dataclasses
import inspect
import json

import keras
import numpy as np
import pytest
from helpers import CONV_STEM, RESNET_STEM, TINY, VARIANTS, assert_close, random_images, tiny

import keras_vit
from keras_vit import ViTConfig
from keras_vit.layers import ConvStem, ResNetStem
from keras_vit.stems import STEMS, stem_config


@pytest.mark.parametrize("name", VARIANTS)
def test_the_model_has_what_the_configuration_says(name):
    config = ViTConfig.of(TINY, **VARIANTS[name])
    model = keras_vit.VisionTransformer(**config.to_dict())
    block = model.get_layer("block_1")
    assert (block.output.shape[1], block.attention.qkv.kernel.shape[0]) == (config.num_tokens, config.hidden_dim)
    assert model.get_layer("patch_embedding").output.shape[1:3] == config.grid_size
    assert block.drop_path_rate == config.drop_path_rates[1]
    assert model.config.to_dict() == model.get_config()
    again = ViTConfig.from_dict(json.loads(json.dumps(model.get_config())))
    assert again == model.config
    if config.stem is not None:
        assert model.get_layer("stem").stride == config.stride


def test_an_open_size():
    config = ViTConfig((None, 224, 3), 16)
    assert (config.grid_size, config.num_patches, config.num_tokens, config.table_grid) == ((None, 14), None, None, (14, 14))


def test_a_configuration_is_frozen_and_replaced():
    config = ViTConfig((32, 32, 3), 8, num_classes=2, class_names=["a", "b"], include_top=False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.patch_size = 4
    assert config.replace(patch_size=np.int64(4)).grid_size == (8, 8) and config.grid_size == (4, 4)
    assert config.replace(num_classes=3).class_names is None and not config.replace(num_classes=3).include_top
    assert config.override(num_classes=2).class_names == ("a", "b") and config.override(num_classes=2).include_top


def test_of_takes_a_model_a_name_a_dict_or_itself():
    config = ViTConfig.of("ViTTi16", num_classes=10)
    assert config == ViTConfig.of(config) == ViTConfig.of(keras_vit.presets.preset("ViTTi16") | {"num_classes": 10})
    model = tiny()
    assert ViTConfig.of(model) is model.config
    with pytest.raises(ValueError, match="the name of a preset, or a dict of arguments. Received: a Sequential"):
        ViTConfig.of(keras.Sequential())


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: ViTConfig.of("ViTB16", drop_rate=0.1), "Received: drop_rate. The nearest are .*dropout_rate"),
        (lambda: keras_vit.VisionTransformer((32, 32, 3), input_shape=(32, 32, 3)), "must be given only once. Received: input_shape"),
        (lambda: keras_vit.VisionTransformer(*range(60)), "takes .* arguments. Received: 60"),
        (lambda: ViTConfig((30, 32, 3), 16).grid_size, "must divide the image. Received: .* `dynamic_padding=True`"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_constructor_shows_every_argument_once():
    parameters = inspect.signature(keras_vit.VisionTransformer).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == {
        field.name: field.default for field in dataclasses.fields(ViTConfig)
    }
    documented = keras_vit.VisionTransformer.__doc__
    assert not [name for name in parameters if f"        {name}: " not in documented]


@pytest.mark.parametrize("layer, stem", [(ConvStem, CONV_STEM), (ResNetStem, RESNET_STEM)])
def test_a_stem_has_the_defaults_of_its_layer(layer, stem):
    config = stem_config(stem)
    made = layer(**{key: value for key, value in stem.items() if key != "kind"}).get_config()
    assert STEMS[stem["kind"]].layer is layer
    assert {key: made[key] for key in dataclasses.asdict(config)} == dataclasses.asdict(config)


@pytest.mark.parametrize(
    "more", [{}, {"distillation_token": True}, {"include_top": False, "distillation_token": True}, {"norm_first": False}]
)
def test_every_layer_lies_on_the_path_to_the_output(more):
    """And the model, which computes less, gives the same."""
    model = tiny(**more)
    images = random_images(model)
    for name in ("block_0", "block_1", "norm"):
        tokens = model.get_layer(name).output
        after = keras.Model(tokens, model.output)
        assert_close(after(keras.Model(model.input, tokens)(images)), model(images), 1e-5)
    assert_close(model.predict(images, verbose=0), model(images), 1e-5)
