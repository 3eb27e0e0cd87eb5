import os
import tempfile

import keras
import numpy as np
import pytest
from helpers import assert_close, outputs_of, random_inputs, randomize, to_numpy

import keras_vit

MEMBERS = {
    "gelu, distilled, rotary positions": dict(distillation_token=True, rotary=dict(native_grid=(4, 4)), qkv_bias="query_value"),
    "SwiGLU, attention pooling, registers": dict(mlp="swiglu", activation="gelu", pooling="map", num_register_tokens=2),
    "convolutional stem, quick_gelu": dict(patch_size=1, stem=dict(kind="conv", filters=(8, 8), strides=(4, 2)), activation="quick_gelu"),
    "hybrid, gelu_tanh": dict(patch_size=1, stem=dict(kind="resnet", block_counts=(1, 1), width=8, num_groups=4), activation="gelu_tanh"),
    "open size, learned rotary positions": dict(input_shape=(None, None, 3), rotary=dict(frequencies="learned")),
}


def model_and_images(overrides):
    arguments = dict(input_shape=(16, 16, 3), patch_size=8, hidden_dim=16, num_layers=1, num_heads=2, mlp_dim=16, num_classes=3)
    model = randomize(keras_vit.VisionTransformer(**arguments | overrides), scale=0.3)
    return model, 255.0 * np.abs(random_inputs((2, 16, 24 if overrides.get("input_shape") else 16, 3))[0])


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="Keras needs jax2onnx")
@pytest.mark.parametrize("member", MEMBERS)
def test_onnxruntime_reads_what_is_exported(member, tmp_path, monkeypatch):
    import onnxruntime

    model, images = model_and_images(MEMBERS[member])
    expected = to_numpy(outputs_of(model, images))
    # On torch the exporter takes inputs of a known size.
    signature = [keras.InputSpec(shape=images.shape, dtype="float32", name="images")]
    known = {} if keras.backend.backend() == "tensorflow" else {"input_signature": signature}
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where tf2onnx leaves a folder
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False, **known)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (outputs,) = session.run(None, {session.get_inputs()[0].name: images})
    assert_close(outputs, expected, 1e-5)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras needs torch_xla")
@pytest.mark.parametrize("member", list(MEMBERS)[:3])
def test_tensorflow_serves_what_is_exported(member, tmp_path):
    tf = pytest.importorskip("tensorflow")
    model, images = model_and_images(MEMBERS[member])
    expected = to_numpy(outputs_of(model, images))
    model.export(os.fspath(tmp_path), verbose=False)
    served = tf.saved_model.load(os.fspath(tmp_path))
    assert_close(served.serve(tf.constant(images)), expected, 1e-5)
