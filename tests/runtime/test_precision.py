import keras
import numpy as np
import pytest
from helpers import random_inputs, randomize, requires_tensorflow

from keras_vit import VisionTransformer
from keras_vit.layers import LayerNormalization
from keras_vit.runtime import precision
from keras_vit.runtime.step import tracing

pytestmark = requires_tensorflow


@pytest.mark.parametrize("policy", ["bfloat16", "mixed_bfloat16"])
def test_bfloat16_goes_through_float32_where_that_is_faster(policy, monkeypatch):
    keras.utils.set_random_seed(0)
    model = randomize(VisionTransformer((8, 8, 3), 4, 32, 2, 2, 64, include_top=False, dtype=policy))
    images = 255.0 * random_inputs((5, 8, 8, 3))[0]

    def predict(fast):
        monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda: fast)
        model.compile()
        return model.predict(images, verbose=0)

    native, wide = predict(True), predict(False)
    assert native.dtype == wide.dtype == model.output.dtype == "bfloat16"
    exact = VisionTransformer.from_config(model.get_config() | {"dtype": "float32"})
    exact.set_weights([np.asarray(weight).astype("float32") for weight in model.get_weights()])
    np.testing.assert_array_equal(wide, exact.predict(images, verbose=0).astype("bfloat16"))
    assert 0.0 < np.abs(np.float32(native) - np.float32(wide)).max() < 3e-2
    assert {layer.compute_dtype for layer in model.get_layer("block_0")._flatten_layers()} == {"bfloat16"}
    assert {weight.dtype for weight in model.weights} == {"bfloat16" if policy == "bfloat16" else "float32"}


@pytest.mark.parametrize(
    "cpuinfo, fast",
    [
        ("vendor_id: GenuineIntel flags: avx512f avx512_bf16", False),
        ("vendor_id: GenuineIntel flags: avx512_bf16 amx_bf16", True),
        ("vendor_id: GenuineIntel flags: avx2", False),
        ("vendor_id: AuthenticAMD flags: avx512_bf16", True),
        ("vendor_id: AuthenticAMD flags: avx2", False),
        ("Features: asimd bf16", True),
    ],
)
def test_which_processors_multiply_bfloat16(cpuinfo, fast, monkeypatch):
    monkeypatch.setattr(precision.pathlib.Path, "read_text", lambda path: cpuinfo)
    assert precision._multiplies_bfloat16.__wrapped__() == fast


def test_mixed_precision_trains_as_float32_where_that_is_faster(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda: False)

    def fit(dtype):
        keras.utils.set_random_seed(0)
        model = VisionTransformer((8, 8, 3), 4, 32, 2, 2, 64, num_classes=3, dtype=dtype)
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.fit(255.0 * random_inputs((8, 8, 8, 3))[0], np.arange(8) % 3, batch_size=4, shuffle=False, verbose=0)
        return model.get_weights()

    for weight, wanted in zip(fit("mixed_bfloat16"), fit("float32"), strict=True):
        np.testing.assert_array_equal(weight, wanted)
    layer = LayerNormalization(dtype=precision.policy(keras.DTypePolicy("mixed_bfloat16")))
    with tf.Graph().as_default(), tracing("training"):
        assert layer.compute_dtype == "float32"
        with tf.distribute.OneDeviceStrategy("cpu:0").scope():
            assert layer.compute_dtype == "bfloat16"
    assert layer.compute_dtype == "bfloat16" and layer.dtype_policy == keras.DTypePolicy("mixed_bfloat16")
