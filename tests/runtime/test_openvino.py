"""Inference on OpenVINO gives the numbers of other people's code, compiled once. `.ci/run` runs it."""

import pathlib

import numpy as np
import pytest
from helpers import assert_close, random_images, requires, tiny

import keras_vit
from keras_vit.checkpoints import open_checkpoint

pytestmark = requires("openvino", "OpenVINO")
GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
FOLDERS = (
    "timm/deit_distilled",
    "timm/qk_norm",
    "timm/conv_stem_xiao",
    "timm/map_registers",
    "timm/non_square_image",
    "timm/sbb_wee",
    "timm/eva02",
    "timm/pe_core",
    "transformers/vit_hybrid",
)


@pytest.mark.parametrize("name", FOLDERS)
def test_predictions_are_those_of_other_code(name):
    folder, given = GOLDEN / name, {"include_preprocessing": False, "classifier_activation": None}
    if name == "timm/conv_stem_xiao":
        given["norm_epsilon"] = 1e-5  # no file says so
    if name == "transformers/vit_hybrid":
        with open_checkpoint(folder, given) as checkpoint:
            given["stem"] = {**checkpoint.arguments["stem"], "num_groups": 4}
    model, golden = keras_vit.from_pretrained(folder, **given), np.load(folder / "expected.npz")
    images, expected = np.concatenate([golden["images"]] * 3), np.concatenate([golden["logits"]] * 3)
    assert_close(model.predict_on_batch(images), expected, 2e-5)
    compiled = model.ov_compiled_model
    assert_close(model.predict(images, batch_size=4, verbose=0), expected, 2e-5)
    assert_close(model(images[:1]), expected[:1], 2e-5)
    assert model.ov_compiled_model is compiled  # one for every number of images, of a bare call too
    weight = model.weights[-1]
    weight.assign(2.0 * weight.numpy() + 1.0)
    assert np.abs(model.predict_on_batch(images) - expected).max() > 1e-3  # the present weights, not those of the first call


def test_keras_export_takes_any_batch(tmp_path):
    """Its products have three axes, and the first one and the heads are found, which int8 leaves as they are."""
    import openvino

    from keras_vit.export.quantization import ends

    model = tiny(distillation_token=True)
    images = random_images(model, 3)
    model.export(str(tmp_path / "model.xml"), format="openvino")
    nodes = {node.get_friendly_name(): node for node in openvino.Core().read_model(tmp_path / "model.xml").get_ops()}
    products = [node for node in nodes.values() if node.get_type_name() == "MatMul" and node.output(0).partial_shape[-1] == 32]
    assert products and all(len(node.output(0).partial_shape) == 3 for node in products)
    kept = [nodes[name] for name in ends(openvino.Core().read_model(tmp_path / "model.xml"), heads=2)]
    assert [node.get_type_name() for node in kept] == ["MatMul", "MatMul", "MatMul"]
    assert [[*node.input_value(1).get_shape()] for node in kept] == [[192, 16], [16, 5], [16, 5]]
    found = openvino.compile_model(tmp_path / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(images)[0]
    assert_close(found, model.predict_on_batch(images), 1e-5)


def test_open_size():
    model = tiny(pooling="gap")
    images = random_images(model, 3)
    open_size = model.adapt(input_shape=(None, None, 3), position_grid=model.grid_size)
    assert_close(open_size.predict_on_batch(images), model.predict_on_batch(images), 1e-5)
    assert open_size.predict_on_batch(random_images(model, 2)[:, :, :16]).shape == (2, 5)


def test_evaluate_and_embed():
    model = tiny(num_register_tokens=1)
    images, labels = random_images(model, 5), np.arange(5)
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    loss, accuracy = model.evaluate(images, labels, batch_size=2, verbose=0)
    predicted = model.predict(images, verbose=0)
    assert loss == pytest.approx(-np.log(predicted[labels, labels]).mean(), rel=1e-5)
    assert accuracy == pytest.approx((predicted.argmax(-1) == labels).mean())
    features = keras_vit.embed(model, images, batch_size=2, verbose=False)
    assert_close(features, model.adapt(include_top=False)(images), 1e-5)


def test_training_says_in_a_line_that_it_cannot(tmp_path):
    model = tiny()
    images = random_images(model, 2)
    for train in (
        lambda: model.fit(images, np.arange(2)),
        lambda: model.train_on_batch(images, np.arange(2)),
        lambda: keras_vit.training.Run(data="digits", output=tmp_path / "run"),
        lambda: keras_vit.visualize.relevance(model, images),
    ):
        with pytest.raises(ValueError, match="OpenVINO computes predictions and has no gradients.*KERAS_BACKEND=openvino$"):
            train()
    assert not (tmp_path / "run").exists()
