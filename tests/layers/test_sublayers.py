"""What a user changes of a model or a layer is there again wherever it is loaded, cloned, unpickled or adapted."""

import copy
import pickle
import warnings

import keras
import numpy as np
import pytest
from helpers import CONV_STEM, RESNET_STEM, all_or, assert_close, random_images, tiny

import keras_vit


def freeze_half_a_block(model):
    model.get_layer("block_0").attention.trainable = False
    model.get_layer("block_1").mlp.fc1.bias.trainable = False


def all_but_the_head(model):
    model.trainable = False
    model.get_layer("head").trainable = True


def every_layer(model):
    model.trainable = False


CHANGES = {
    "linear probe": lambda model: keras_vit.training.freeze(model, "all"),
    "first block": lambda model: keras_vit.training.freeze(model, 1),
    "half a block": freeze_half_a_block,
    "low-rank updates": lambda model: keras_vit.training.add_lora(model, 2),
    "all but the head": all_but_the_head,
    "every layer": every_layer,
}
WAYS = {
    "load": lambda model, path: (model.save(path), keras.saving.load_model(path))[1],
    "pickle": lambda model, path: pickle.loads(pickle.dumps(model)),
    "deepcopy": lambda model, path: copy.deepcopy(model),
    "clone": lambda model, path: keras.models.clone_model(model),
    "adapt": lambda model, path: model.adapt(),
    "functional": lambda model, path: WAYS["load"](keras.Model(model.input, model.output), path),
    "nested": lambda model, path: WAYS["load"](keras.Sequential([keras.Input(model.input_shape[1:]), model]), path),
}


def trained(model):
    """Returns the ends of the paths of what is trained: where a model stands in another one, its paths begin with more."""
    return [v.path.split("/")[-2:] for v in model.trainable_variables]


@pytest.mark.parametrize("change", all_or("first block", "low-rank updates")(CHANGES))
@pytest.mark.filterwarnings("ignore:Skipping variable loading")
def test_what_is_frozen_stays_frozen(change, tmp_path):
    model = tiny()
    CHANGES[change](model)
    images = random_images(model)
    for way, again in WAYS.items():
        # Updates are merged by `adapt`, which test_trainable.py checks; a flag of the model as a whole is no other model's.
        if way in {"low-rank updates": ("adapt",), "all but the head": ("clone", "functional", "nested")}.get(change, ()):
            continue
        other = again(model, tmp_path / "model.keras")
        assert trained(other) == trained(model), way
        if way != "clone":
            assert_close(other(images), model(images), 1e-6)


@pytest.mark.parametrize("change", all_or("low-rank updates")(["linear probe", "half a block", "low-rank updates"]))
def test_the_state_of_the_optimizer_is_loaded(change, tmp_path):
    model = tiny()
    CHANGES[change](model)
    model.compile(keras_vit.training.AdamW(1e-3), "sparse_categorical_crossentropy", jit_compile=keras.backend.backend() == "jax")
    images, labels = random_images(model), np.array([0, 1])
    model.train_on_batch(images, labels)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Skipping variable loading")
        loaded = WAYS["load"](model, tmp_path / "model.keras")
    for ours, theirs in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs))
    losses = [[each.train_on_batch(images, labels) for _ in range(3)] for each in (model, loaded)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert losses[0][0] > losses[0][-1]


@pytest.mark.parametrize("stem", [CONV_STEM, RESNET_STEM])
def test_parts_of_a_stem_stay_frozen(stem, tmp_path):
    model = tiny(stem=stem, patch_size=1, pooling="map")
    part = next(layer for layer in model.get_layer("stem")._layers if layer.weights)
    part.trainable = False
    model.get_layer("attention_pooling").mlp.trainable = False
    count = len(model.trainable_variables)
    assert count < len(tiny(stem=stem, patch_size=1, pooling="map").trainable_variables)
    assert [len(WAYS[way](model, tmp_path / "m.keras").trainable_variables) for way in ("load", "adapt", "clone")] == [count] * 3


def test_frozen_blocks_under_a_new_head_stay_frozen(tmp_path):
    vit = tiny(include_top=False)
    keras_vit.training.freeze(vit, 1)
    vit.get_layer("block_1").attention.trainable = False
    model = keras.Model(vit.input, keras.layers.Dense(3)(vit.output))
    count = len(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    assert len(keras.saving.load_model(tmp_path / "model.keras").trainable_variables) == count
    assert len(keras.models.clone_model(model).trainable_variables) == count


@pytest.mark.parametrize("mode", all_or("int8")(["int8", "int4", "float8"]))
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_quantized(mode, tmp_path, other_process):
    """As a whole, and the encoder alone."""
    model = tiny(num_layers=1, layer_scale_init=0.1, pooling="map")
    images = random_images(model)
    model.quantize(mode)
    assert other_process.check(model, images) == "VisionTransformer"
    assert other_process.check(keras.Model(model.input, model.get_layer("norm").output), images) == "Functional"
    assert_close(model.adapt(drop_path_rate=0.1)(images), model(images), 1e-6)
    loaded = WAYS["load"](model, tmp_path / "model.keras")
    assert loaded.get_layer("block_0").attention.qkv.quantization_mode == mode


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_quantized_in_part_by_a_configuration(tmp_path):
    model = tiny()
    quantizer = keras.quantizers.AbsMaxQuantizer(axis=0, value_range=(-7, 7))
    model.quantize(config=keras.quantizers.Int8QuantizationConfig(weight_quantizer=quantizer), filters="fc1")
    loaded = WAYS["load"](model, tmp_path / "model.keras")
    mlp = loaded.get_layer("block_1").mlp
    assert (mlp.fc1.quantization_mode, mlp.fc2.quantization_mode) == ("int8", None)
    assert_close(loaded(random_images(model)), model(random_images(model)), 1e-6)


def test_other_attributes_that_keras_keeps(tmp_path):
    model = tiny(dropout_rate=0.1)
    model.get_layer("predictions").activation = keras.activations.linear
    model.get_layer("embedding_dropout").rate = 0.5
    model.get_layer("norm").epsilon = 0.1
    model.get_layer("block_1").mlp.dtype_policy = keras.DTypePolicy("mixed_bfloat16")
    images = random_images(model)
    for way in ("load", "deepcopy", "adapt"):
        other = WAYS[way](model, tmp_path / "model.keras")
        assert_close(other(images), model(images), 1e-6)
        assert other.get_layer("embedding_dropout").rate == 0.5
        assert other.get_layer("block_1").mlp.compute_dtype == "bfloat16"
    adapted = model.adapt(classifier_activation="sigmoid", dropout_rate=0.2, norm_epsilon=1e-3)
    assert adapted.get_layer("predictions").activation is keras.activations.sigmoid
    assert adapted.get_layer("embedding_dropout").rate == 0.2 and adapted.get_layer("norm").epsilon == 1e-3


def test_a_model_as_built_has_the_arguments_alone():
    model = tiny()
    assert not {"trainable", "sublayers"} & set(model.get_config())
    assert "sublayers" not in model.get_layer("block_0").get_config()
    keras_vit.training.freeze(model, 1)
    keras_vit.training.freeze(model)
    assert not {"trainable", "sublayers"} & set(model.get_config())


def test_a_new_head_of_a_frozen_model_is_trained():
    model = tiny()
    model.trainable = False
    adapted = model.adapt(num_classes=3, layer_scale_init=0.1)
    assert {v.path.split("/")[0] for v in adapted.trainable_variables} == {"head"}


def test_layers_that_are_not_there_are_refused():
    config = tiny().get_config()
    with pytest.raises(ValueError, match="must name layers of .* Received: block_7"):
        keras_vit.VisionTransformer.from_config({**config, "sublayers": {"block_7": {"trainable": False}}})


class Subclass(keras_vit.VisionTransformer):
    pass


class Unserializable(keras_vit.VisionTransformer):
    def __init__(self, width):
        super().__init__((16, 16, 3), 8, width, 1, 2, 16, num_classes=3)


def test_adapt_of_a_subclass():
    model = Subclass((16, 16, 3), 8, 16, 1, 2, 16, num_classes=3)
    assert type(model.adapt(num_classes=2)) is Subclass
    with pytest.raises(ValueError, match="Give Unserializable a `get_config`"):
        Unserializable(16).adapt(num_classes=2)


@pytest.fixture(scope="module")
def kinds():
    """Returns {name: a model}, compiled with each class of ours that a saved file can name."""
    training = keras_vit.training
    small = dict(num_classes=3, num_layers=1)
    low_rank = tiny(**small)
    training.add_lora(low_rank, 2)
    trainer = training.Distillation(tiny(**small, distillation_token=True), tiny(**small), kind="soft", alpha=0.3)
    schedule = training.schedules.Linear(1e-3, steps=10, warmup_steps=2)
    pairs = [
        (tiny(**small), training.AdamW(schedule, layer_decay=0.75)),
        (tiny(**small), training.SGD(1e-3, momentum=0.9)),
        (low_rank, training.Lamb(1e-3)),
        (tiny(**small, activation="quick_gelu"), training.Muon(1e-3)),
        (trainer, training.AdamW(1e-3)),
    ]
    for model, optimizer in pairs:
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return {f"{type(model).__name__} {type(optimizer).__name__}": model for model, optimizer in pairs}


def test_a_process_that_imported_keras_vit_alone_loads_all_of_them(kinds, other_process):
    for name, model in kinds.items():
        assert other_process.check(model, random_images(tiny())) == name.split()[0], name


@pytest.mark.filterwarnings("ignore:Skipping variable loading")
def test_a_loaded_distillation_evaluates_and_takes_a_teacher(kinds, tmp_path):
    model, images, labels = kinds["Distillation AdamW"], random_images(tiny()), np.array([0, 1])
    loaded = WAYS["load"](model, tmp_path / "trainer.keras")
    assert (loaded.kind, loaded.alpha, loaded.temperature) == ("soft", 0.3, 3.0)
    np.testing.assert_allclose(loaded.evaluate(images, labels, verbose=0), model.evaluate(images, labels, verbose=0), rtol=1e-6)
    with pytest.raises(ValueError, match="has no teacher: call `model.set_teacher"):
        loaded.fit(images, labels, verbose=0)
    loaded.set_teacher(tiny(num_classes=3))
    assert np.isfinite(loaded.fit(images, labels, verbose=0).history["loss"]).all()
