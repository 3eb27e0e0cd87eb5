"""What loading says and does when a checkpoint and a model differ."""

import json
import logging
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import keras_vit
from keras_vit.checkpoints import load_into, open_checkpoint
from keras_vit.checkpoints.formats.tensors import aligned
from keras_vit.checkpoints.loading import _tensor

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
PLAIN = GOLDEN / "timm" / "plain"
TINY = dict(input_shape=(32, 32, 3), patch_size=8, hidden_dim=32, num_layers=2, num_heads=4, mlp_dim=128, num_classes=7)


def values(model):
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights]


def copy_of(folder, tmp_path, change):
    """A copy of a fixture whose tensors went through `change`."""
    shutil.copytree(folder, tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), tmp_path / "copy" / "model.safetensors")
    return tmp_path / "copy"


def test_everything_wrong_is_listed_in_one_error_and_nothing_is_changed(tmp_path):
    def spoil(tensors):
        del tensors["norm.weight"], tensors["blocks.1.mlp.fc2.bias"]
        tensors["blocks.0.attn.proj.weight"] = np.zeros((32, 31), "float32")
        tensors["surprise.weight"] = np.zeros(3, "float32")
        return tensors

    source = copy_of(PLAIN, tmp_path, spoil)
    model = keras_vit.VisionTransformer(**TINY)
    before = values(model)
    with open_checkpoint(source) as checkpoint, pytest.raises(ValueError) as error:
        load_into(model, checkpoint)
    for part in ("norm.weight", "blocks.1.mlp.fc2.bias", "surprise.weight", "blocks.0.attn.proj.weight: (31, 32)", "(32, 32)", str(source)):
        assert part in str(error.value)
    for old, new in zip(before, values(model)):
        np.testing.assert_array_equal(old, new)
    with pytest.raises(ValueError, match="Missing: .*norm.weight"):
        keras_vit.from_pretrained(source)


def test_load_into_an_existing_model():
    model = keras_vit.VisionTransformer(**TINY, include_preprocessing=False, classifier_activation=None)
    with open_checkpoint(PLAIN) as checkpoint:
        load_into(model, checkpoint)
    golden = np.load(PLAIN / "expected.npz")
    found = keras.ops.convert_to_numpy(model(golden["images"]))
    assert np.abs(found - golden["logits"]).max() <= 1e-5 * np.abs(golden["logits"]).max()


def test_a_part_that_the_model_has_and_the_checkpoint_has_not(tmp_path):
    with pytest.raises(ValueError, match="Without a tensor: .*block_0/attention/query_norm/gamma"):
        keras_vit.from_pretrained(PLAIN, qk_norm=True)


def test_head_is_kept_for_the_same_classes_and_new_for_others(caplog):
    kept = keras_vit.from_pretrained(PLAIN, num_classes=7)
    assert not caplog.records
    assert np.abs(keras.ops.convert_to_numpy(kept.get_layer("head").kernel)).max() > 0
    with caplog.at_level(logging.WARNING, "keras_vit"):
        new = keras_vit.from_pretrained(PLAIN, num_classes=3)
    (record,) = caplog.records
    assert "head" in record.getMessage() and "\n" not in record.getMessage()
    assert all(np.abs(keras.ops.convert_to_numpy(weight)).max() == 0 for weight in new.get_layer("head").weights)
    np.testing.assert_array_equal(values(kept)[0], values(new)[0])


def test_headless_file_with_classes_asked_for():
    model = keras_vit.from_pretrained(GOLDEN / "timm" / "dinov2", num_classes=5)
    assert model.output_shape == (None, 5)
    assert keras_vit.from_pretrained(GOLDEN / "timm" / "dinov2").output_shape == (None, 32)


def test_new_registers_for_a_model_without(caplog):
    with caplog.at_level(logging.WARNING, "keras_vit"):
        model = keras_vit.from_pretrained(PLAIN, num_register_tokens=4)
    assert model.num_prefix_tokens == 5 and "register_tokens" in caplog.text


def test_gray_images():
    color, gray = (keras_vit.from_pretrained(PLAIN, input_shape=(32, 32, n), preprocessing={"mean": 0.5, "std": 0.5}) for n in (3, 1))
    image = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 1)).astype("float32")
    found, wanted = (keras.ops.convert_to_numpy(x) for x in (gray(image), color(np.repeat(image, 3, axis=-1))))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_weights_of_another_model():
    with pytest.raises(ValueError, match="weights of another model: hidden_dim=32 where the model has 192") as error:
        keras_vit.ViTTi16(weights=PLAIN)
    assert "Received" in str(error.value)


def test_names_of_no_vision_transformer(tmp_path):
    save_file({"layer1.weight": np.zeros((2, 2), "float32")}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="no Vision Transformer.*layer1.weight"):
        keras_vit.from_pretrained(tmp_path)


def test_broken_config(tmp_path):
    source = copy_of(PLAIN, tmp_path, lambda tensors: tensors)
    (source / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json must be JSON"):
        keras_vit.from_pretrained(source)


def test_without_config_the_tensors_tell(tmp_path):
    source = copy_of(PLAIN, tmp_path, lambda tensors: tensors)
    (source / "config.json").unlink()
    with pytest.raises(ValueError, match="pass `num_heads`.*hidden_dim=32"):
        keras_vit.from_pretrained(source)
    model = keras_vit.from_pretrained(source, num_heads=4)
    config, original = model.get_config(), keras_vit.from_pretrained(PLAIN).get_config()
    # Without a config of timm's the file may be Meta's, whose code resamples positions otherwise and whose images are normalized otherwise.
    differ = {key for key in config if config[key] != original[key]}
    assert differ <= {"preprocessing", "position_resample", "name"}


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("transpose", [False, True])
def test_arrays_become_tensors_however_they_lie_in_memory(offset, transpose):
    """TensorFlow shares the memory of one that is aligned and in C order, and refuses the others."""
    array = aligned((8 * 16 + 1,), "float32")[offset : offset + 8 * 16].reshape(8, 16)
    array[...] = np.arange(8 * 16).reshape(8, 16)
    array = array.T if transpose else array
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(_tensor(array)), np.array(array))


def test_own_formats(tmp_path):
    model = keras_vit.from_pretrained(PLAIN)
    image = np.ones((1, 32, 32, 3), "float32")
    wanted = keras.ops.convert_to_numpy(model(image))
    model.save(tmp_path / "model.keras")
    found = keras.ops.convert_to_numpy(keras_vit.from_pretrained(tmp_path / "model.keras")(image))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    adapted = keras_vit.from_pretrained(tmp_path / "model.keras", num_classes=3, input_shape=(48, 64, 3))
    assert adapted.output_shape == (None, 3) and adapted.grid_size == (6, 8)
    np.testing.assert_array_equal(values(adapted)[0], values(model)[0])


def test_own_weights_file_with_a_preset(tmp_path):
    small = dict(num_layers=1, input_shape=(32, 32, 3))
    model = keras_vit.ViTTi16(num_classes=7, **small)
    for weight in model.weights:
        weight.assign(np.random.default_rng(0).normal(0, 0.02, weight.shape))
    model.save_weights(tmp_path / "model.weights.h5")
    again = keras_vit.ViTTi16(weights=tmp_path / "model.weights.h5", num_classes=7, **small)
    for old, new in zip(values(model), values(again)):
        np.testing.assert_array_equal(old, new)
    other = keras_vit.ViTTi16(weights=tmp_path / "model.weights.h5", num_classes=3, num_layers=1, input_shape=(48, 32, 3))
    assert other.output_shape == (None, 3) and other.grid_size == (3, 2)
    np.testing.assert_array_equal(values(other)[0], values(model)[0])
    with pytest.raises(ValueError, match="does not say which model"):
        keras_vit.from_pretrained(tmp_path / "model.weights.h5")


def test_preprocessing_comes_with_the_weights():
    assert keras_vit.from_pretrained(PLAIN).preprocessing["mean"] == (0.5, 0.5, 0.5)
    found = keras_vit.from_pretrained(GOLDEN / "transformers" / "dinov2").preprocessing
    assert found["mean"] == (0.485, 0.456, 0.406) and found["interpolation"] == "bicubic" and found["crop_fraction"] == 32 / 36
    config = json.loads((GOLDEN / "timm" / "clip" / "config.json").read_text())["pretrained_cfg"]
    found = keras_vit.from_pretrained(GOLDEN / "timm" / "clip").preprocessing
    assert (found["mean"], found["std"], found["crop_fraction"]) == (tuple(config["mean"]), tuple(config["std"]), config["crop_pct"])


def test_raw_pixels_are_normalized_as_in_training():
    golden = np.load(PLAIN / "expected.npz")
    model = keras_vit.from_pretrained(PLAIN, classifier_activation=None)
    raw = (golden["images"] * 0.5 + 0.5) * 255.0
    assert np.abs(keras.ops.convert_to_numpy(model(raw)) - golden["logits"]).max() <= 1e-4 * np.abs(golden["logits"]).max()


PEAK = """
import pathlib, resource, sys
import numpy as np
import keras, keras_vit
folder = pathlib.Path(sys.argv[1])
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
keras_vit.ViTTi16(num_layers=1)  # what the backend takes at its first variable
before = peak()
model = keras_vit.from_pretrained(folder)
print(peak() - before, 4 * model.count_params())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory from /proc")
def test_peak_memory(tmp_path):
    """Loading takes the model, one tensor, and little else."""
    model = keras_vit.ViTB16(num_layers=4, num_classes=10)
    keras_vit.checkpoints.save(model, tmp_path / "vit", "timm")
    del model
    code = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path / "vit")], capture_output=True, text=True, check=True)
    taken, size = map(int, code.stdout.split())
    assert taken <= size + 4 * 768 * 3072 + (200 << 20)
