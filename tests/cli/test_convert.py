import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
from helpers import assert_close, command, randomize
from safetensors.numpy import load_file, save_file

import keras_vit
from keras_vit.checkpoints import FORMATS
from keras_vit_cli.convert import Format

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
PLAIN = GOLDEN / "timm" / "plain"


call = command("convert")


def outputs(model):
    return model(255 * np.random.default_rng(0).random((2, 32, 32, 3), "float32"))


def test_all_formats_are_offered():
    assert {format.value for format in Format} == set(FORMATS)


@pytest.mark.parametrize("source", ["timm/plain", "timm/dinov2", "transformers/vit", "google/vit/checkpoint.npz"])
def test_to_keras(capsys, tmp_path, source):
    code, out, _ = call(capsys, GOLDEN / source, tmp_path / "new" / "model.keras")
    assert code == 0 and out.startswith(f"{tmp_path / 'new' / 'model.keras'}: ")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.keras"]
    model, original = keras.saving.load_model(tmp_path / "new" / "model.keras"), keras_vit.from_pretrained(GOLDEN / source)
    assert json.dumps(model.preprocessing) == json.dumps(original.preprocessing)
    assert_close(outputs(model), outputs(original), 0)


@pytest.mark.parametrize("format, name", [("timm", "folder"), ("huggingface", "folder"), ("google", "file.npz")])
def test_there_and_back(capsys, tmp_path, format, name):
    form = {"activation": "gelu_tanh"} if format == "google" else {}  # Google's models have no other
    model = randomize(keras_vit.VisionTransformer((32, 32, 3), 8, 32, 2, 4, 64, num_classes=7, **form))
    model.save(tmp_path / "model.keras")
    assert call(capsys, tmp_path / "model.keras", tmp_path / name, "--format", format)[0] == 0
    assert call(capsys, tmp_path / name, tmp_path / "back.keras")[0] == 0
    assert_close(outputs(keras.saving.load_model(tmp_path / "back.keras")), outputs(model), 1e-5)


def test_the_weights_of_a_file_with_two_sets_are_chosen(capsys, tmp_path):
    tensors = load_file(PLAIN / "model.safetensors")
    averages = {f"ema.{name}": array + 1 if name == "head.bias" else array for name, array in tensors.items()}
    (tmp_path / "both").mkdir()
    shutil.copy(PLAIN / "config.json", tmp_path / "both")
    save_file(tensors | averages, tmp_path / "both" / "model.safetensors")
    added = {}
    for option in ("--ema", "--no-ema", "--force"):
        assert call(capsys, tmp_path / "both", tmp_path / f"{option}.keras", option)[0] == 0
        bias = keras.saving.load_model(tmp_path / f"{option}.keras").get_layer("head").bias
        added[option] = float(np.mean(keras.ops.convert_to_numpy(bias) - tensors["head.bias"]))
    assert added == pytest.approx({"--ema": 1, "--no-ema": 0, "--force": 1}, abs=1e-5)
    assert call(capsys, PLAIN, tmp_path / "none.keras", "--ema")[0] == 2


def test_what_is_there_is_kept_unless_forced(capsys, tmp_path):
    output = tmp_path / "model.keras"
    output.write_text("mine")
    code, _, err = call(capsys, PLAIN, output)
    assert (
        code == 2 and err == f"keras-vit: The output exists; `--force` replaces it. Received: {output}\n" and output.read_text() == "mine"
    )
    assert call(capsys, PLAIN, output, "--force")[0] == 0
    keras.saving.load_model(output)


def test_a_failure_leaves_what_was_there(capsys, tmp_path, monkeypatch):
    def fail(self, path, *arguments, **keywords):
        pathlib.Path(path).write_text("half")
        raise OSError(28, "No space left on device", str(path))

    output = tmp_path / "model.keras"
    output.write_text("mine")
    monkeypatch.setattr(keras_vit.VisionTransformer, "save", fail)
    code, _, err = call(capsys, PLAIN, output, "--force")
    assert code == 2 and "No space left on device" in err and err.count("\n") == 1
    assert output.read_text() == "mine" and [path.name for path in tmp_path.iterdir()] == ["model.keras"]


@pytest.mark.parametrize(
    "arguments, rule",
    [
        ([PLAIN], "Missing argument"),
        ([PLAIN, "{out}"], "or `--format` must name another format"),
        ([PLAIN, "{out}.keras", "--format", "timm"], "or `--format` must name another format"),
        ([PLAIN, "{out}", "--format", "onnx"], "--format"),
        ([GOLDEN / "google" / "vit" / "checkpoint.npz", "{out}", "--format", "google"], "must be named `*.npz`"),
        (["./nowhere", "{out}.keras"], "There is no such file or folder"),
        (["ViTB16:augreg", "{out}.keras"], "must be a tag of ViTB16, a path"),
        ([GOLDEN / "make_timm.py", "{out}.keras"], "make_timm.py"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(capsys, tmp_path, arguments, rule):
    code, out, err = call(capsys, *(str(argument).replace("{out}", str(tmp_path / "out")) for argument in arguments))
    assert code == 2 and not out
    assert err.startswith("keras-vit: ") and err.count("\n") == 1 and rule in err
    assert not list(tmp_path.iterdir())
