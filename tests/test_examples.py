"""The examples run, on a model small enough."""

import pathlib
import runpy
import sys

import keras
import pytest
from helpers import requires_tensorflow
from PIL import Image

import keras_vit

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.keras"
    keras_vit.VisionTransformer((16, 16, 3), 8, 8, 1, 2, 16, num_classes=5).save(path)
    return str(path)


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_finetune(monkeypatch, capsys, weights):
    run(monkeypatch, "finetune.py", "--weights", weights, "--side", 16, "--images", 40, "--epochs", 1)
    assert capsys.readouterr().out.count("test accuracy") == 2


def test_explain(monkeypatch, tmp_path, weights):
    photos = [tmp_path / f"{i}.png" for i in range(2)]
    for i, photo in enumerate(photos):
        Image.effect_mandelbrot((40, 30), (-2 + i, -1, 1, 1), 50).save(photo)
    run(monkeypatch, "explain.py", "--weights", weights, "--side", 16, "--output", tmp_path / "explained.png", *photos)
    assert Image.open(tmp_path / "explained.png").width == 510


@requires_tensorflow
def test_embeddings(monkeypatch, capsys, tmp_path, weights):
    for _ in range(2):  # the second reads the file
        run(monkeypatch, "embeddings.py", "--weights", weights, "--side", 16, "--output", tmp_path)
        assert capsys.readouterr().out.count("test accuracy") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"features.npz", "similar.png", "scatter.png"}


@requires_tensorflow
@pytest.mark.parametrize("recipe", ["lora", "head_then_all"])
def test_recipe(monkeypatch, capsys, tmp_path, weights, recipe):
    arguments = ["--weights", weights, "--side", 16, "--images", 64, "--output", tmp_path, "--recipe", recipe]
    run(monkeypatch, "recipe.py", *arguments)
    first = capsys.readouterr().out.splitlines()
    assert first[-1].startswith("test accuracy") and "Epoch 10/10" in "".join(first)
    assert keras.saving.load_model(tmp_path / "model.keras").output_shape == (None, 10)
    run(monkeypatch, "recipe.py", *arguments)  # goes on where nothing is left
    again = capsys.readouterr().out.splitlines()
    assert again[-1] == first[-1] and not any(line.startswith("Epoch") for line in again)


@pytest.mark.slow
@requires_tensorflow
def test_tune(monkeypatch, capsys, tmp_path):
    run(monkeypatch, "tune.py", "--images", 64, "--epochs", 1, "--trials", 2, "--output", tmp_path / "study")
    out = capsys.readouterr().out
    assert "best: " in out and (tmp_path / "study" / "report.html").exists() and (tmp_path / "study" / "best.toml").exists()


@pytest.mark.slow
@requires_tensorflow
def test_naflex(monkeypatch, capsys):
    run(monkeypatch, "naflex.py", "--images", 32, "--epochs", 1, "--side", 2)
    assert capsys.readouterr().out.count("test accuracy") == 3


@pytest.mark.slow
@requires_tensorflow
def test_export(monkeypatch, capsys, tmp_path, weights):
    pytest.importorskip("tf2onnx")
    monkeypatch.setattr("keras_vit.export.exporting.SECONDS", 0.0)
    run(monkeypatch, "export.py", "--weights", weights, "--output", tmp_path, "--precisions", "float32", "int8")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == 2 * ["onnx-float32", "onnx-int8"]
    assert "the same class in 100% of 18 images" in lines[0] and lines[2].count("(0.") == 2  # two photographs
