"""Inference on OpenVINO: the numbers of Keras's own operations and of other people's code, compiled once. `.ci/run` runs it."""

import keras
import numpy as np
import pytest
from helpers import CONV_STEM, RESNET_STEM, assert_close, random_images, requires, tiny

import keras_vit

pytestmark = requires("openvino", "OpenVINO")
MEMBERS = {
    "distilled, registers, LayerScale": dict(distillation_token=True, num_register_tokens=2, layer_scale_init=0.5),
    "SwiGLU, attention pooling": dict(mlp="swiglu", pooling="map", class_token=False),
    "convolutional stem, post-norm": dict(patch_size=1, stem=CONV_STEM, norm_first=False),
    "hybrid": dict(patch_size=1, stem=RESNET_STEM),
    "hybrid of timm": dict(patch_size=1, stem={**RESNET_STEM, "standardization": "variance"}, pooling="gap", norm_after_pooling=True),
    "open size, qk_norm": dict(input_shape=(None, None, 3), qk_norm=True),
}


@pytest.mark.parametrize("changes", MEMBERS.values(), ids=MEMBERS)
def test_predictions_are_those_of_keras_operations(changes):
    """A call runs operation by operation in float32; `predict` runs one compiled model, the same for every number of images."""
    model = tiny(**changes)
    images = random_images(model, 5)
    keras_vit.runtime.use_fast_paths(False)
    try:
        expected = keras.ops.convert_to_numpy(model(images))
    finally:
        keras_vit.runtime.use_fast_paths(True)
    assert_close(model.predict_on_batch(images), expected, 1e-5)
    compiled = model.ov_compiled_model
    assert_close(model.predict(images, batch_size=2, verbose=0), expected, 1e-5)
    assert_close(model.predict_on_batch(images[:1]), expected[:1], 1e-5)
    assert model.ov_compiled_model is compiled
    weight = model.weights[-1]
    weight.assign(2.0 * weight.numpy() + 1.0)
    assert np.abs(model.predict_on_batch(images) - expected).max() > 1e-3  # the present weights, not those of the first call


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
