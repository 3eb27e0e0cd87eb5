import keras
import pytest
from helpers import tiny

import keras_vit
from keras_vit.backbone import find_vision_transformer

HELPERS = {
    "freeze": lambda model: keras_vit.training.freeze(model, 1),
    "add_lora": lambda model: keras_vit.training.add_lora(model, 2),
    "feature_maps": keras_vit.feature_maps,
    "evaluation_transform": keras_vit.data.evaluation_transform,
}


def holders(vit):
    """Models that hold a VisionTransformer, at any depth."""
    inputs = keras.Input(vit.input_shape[1:])
    functional = keras.Model(inputs, keras.layers.Dense(3)(vit(inputs)))
    sequential = keras.Sequential([keras.Input(vit.input_shape[1:]), vit, keras.layers.Dense(3)])
    return vit, functional, sequential, keras.Sequential([functional, keras.layers.Softmax()])


@pytest.mark.parametrize("name", HELPERS)
def test_helpers_find_the_model_within_others(name):
    for i in range(4):
        model = holders(tiny(include_top=False))[i]
        HELPERS[name](model)
        vit = find_vision_transformer(model)
        assert vit.get_layer("block_0").trainable == (name != "freeze")
        assert vit.get_layer("block_1").attention.qkv.lora_enabled == (name == "add_lora")


@pytest.mark.parametrize("name", HELPERS)
def test_helpers_refuse_models_without_one_or_with_two(name):
    vit = tiny()
    two = keras.Sequential([vit, keras.layers.Reshape((1, 1, 5)), keras.layers.Resizing(16, 24), keras.layers.Conv2D(3, 1), tiny()])
    layers_alone = keras.Model(vit.input, keras.layers.Dense(3)(vit.output))
    for model, received in ((keras.Sequential([keras.layers.Dense(3)]), "a Sequential"), (two, "2 of them"), (None, "NoneType")):
        with pytest.raises(ValueError, match=f"must be a VisionTransformer, or a model that contains one. Received: .*{received}"):
            HELPERS[name](model)
    with pytest.raises(ValueError, match=r"call the model, `vit\(images\)`, instead"):
        HELPERS[name](layers_alone)
