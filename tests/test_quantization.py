import keras
import numpy as np
import pytest
from helpers import assert_close, random_images, tiny, to_numpy

import keras_vit
from keras_vit.quantization import MODES, weight_bytes
from keras_vit_cli import main
from keras_vit_cli.quantize import Mode

# Largest change of an output, relative to the largest; and bytes of the weights, relative to float32.
BOUNDS = {"int8": (0.05, 0.5), "int8_weights": (0.05, 0.5), "int4": (0.35, 0.45), "bfloat16": (0.06, 0.51), "float16": (0.02, 0.51)}
WIDE = dict(hidden_dim=64, mlp_dim=256, num_heads=4, num_classes=5, classifier_activation=None)
OTHERS = {"pooling": "map", "mlp": "swiglu", "class_token": False, "qk_norm": True, "qkv_bias": "query_value"}


def test_every_mode_is_small_close_and_loads_elsewhere(other_process):
    model = tiny(scale=0.1, num_layers=1, **WIDE)
    images = random_images(model)
    expected = to_numpy(model(images))
    for mode, (change, size) in BOUNDS.items():
        smaller = keras_vit.quantize(model, mode)
        assert_close(smaller(images), expected, change)
        assert weight_bytes(smaller) < size * weight_bytes(model), mode
        if "int" in mode:
            assert other_process.check(smaller, images) == "VisionTransformer"
    np.testing.assert_array_equal(to_numpy(model(images)), expected)  # the model itself stays as it was
    model = tiny(scale=0.1, num_layers=1, **WIDE, **OTHERS)
    assert_close(keras_vit.quantize(model, "int4")(images), model(images), BOUNDS["int4"][0])


def test_the_command(capsys, tmp_path):
    assert {mode.value for mode in Mode} == set(MODES) == set(BOUNDS)
    tiny(num_layers=1, **WIDE).save(tmp_path / "model.keras")

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["quantize", str(tmp_path / "model.keras"), *map(str, arguments)])
        return ended.value.code or 0, *capsys.readouterr()

    code, out, err = call("--output", tmp_path / "small.keras", "--mode", "int4")
    assert code == 0 and "% of the largest output" in out, out + err
    assert keras.saving.load_model(tmp_path / "small.keras").get_layer("block_0").mlp.fc1.quantization_mode == "int4"
    assert "--force" in call("--output", tmp_path / "small.keras")[2]
    assert "*.keras" in call("--output", tmp_path / "small.h5")[2]


def test_what_is_refused():
    model = tiny(num_layers=1)
    with pytest.raises(ValueError, match="int8_weights"):
        keras_vit.quantize(model, "int3")
    with pytest.raises(ValueError, match="a Sequential"):
        keras_vit.quantize(keras.Sequential([model]), "int8")
    with pytest.raises(ValueError, match="already quantized, in 'int8'"):
        keras_vit.quantize(keras_vit.quantize(model, "int8"), "int4")
