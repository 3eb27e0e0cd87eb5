"""The examples run in their fast setting, and each has its output in the docs."""

import importlib.util
import os
import pathlib
import re
import runpy
import subprocess
import sys

import keras
import pytest
from helpers import requires_tensorflow
from PIL import Image

import keras_vit

ROOT = pathlib.Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
ACCURACY = re.compile(r"test accuracy (0|1)\.\d+")
pytestmark = [pytest.mark.slow, requires_tensorflow]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.keras"
    keras_vit.VisionTransformer((16, 16, 3), 8, 8, 1, 2, 16, num_classes=5).save(path)
    return str(path)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs an example in this process, in an empty folder, and returns what it prints."""
    monkeypatch.setattr("keras.src.trainers.trainer.model_supports_jit", lambda model: False)  # XLA takes longer than these steps

    def run(name, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def run_alone(name):
    """Runs an example that makes virtual devices, which a process can do only before anything else, and returns what it prints."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, EXAMPLES / name, "--quick"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_quickstart_explain_and_embeddings(run):
    out = run("quickstart.py", "--quick")
    assert len(ACCURACY.findall(out)) == 1 and out.count("read as") == 10
    trained, images = "runs/quickstart", ["runs/quickstart/0.png", "runs/quickstart/1.png"]
    assert keras.saving.load_model(f"{trained}/model.keras").output_shape == (None, 10)
    assert "8 x 8 patches" in run("explain.py", "--weights", trained, "--patches", 8, *images)
    assert Image.open("explained.png").width == 510
    for _ in range(2):  # the second reads the file
        assert len(ACCURACY.findall(run("embeddings.py", "--weights", trained))) == 2
    assert {path.name for path in pathlib.Path("features").iterdir()} == {"features.npz", "similar.png", "scatter.png"}


def test_explain_takes_photographs_of_scikit_learn(run, weights):
    assert "2 images of 16 x 16 pixels" in run("explain.py", "--weights", weights, "--patches", 2)


def test_transfer_learning(run, weights):
    assert len(ACCURACY.findall(run("transfer_learning.py", "--quick"))) == 4
    assert len(ACCURACY.findall(run("transfer_learning.py", "--quick", "--weights", weights))) == 3


def test_hybrid(run):
    out = run("hybrid.py", "--quick")
    assert len(ACCURACY.findall(out)) == 3 == out.count("multiply-adds")


def test_text(run):
    assert len(ACCURACY.findall(run("text.py", "--quick"))) == 3


def test_recipe(run, tmp_path, weights):
    arguments = ["--weights", weights, "--side", 16, "--images", 64, "--output", "run", "--recipe", "head_then_all"]
    first = run("recipe.py", *arguments).splitlines()
    assert ACCURACY.match(first[-1]) and "Epoch 10/10" in "".join(first)
    assert keras.saving.load_model("run/model.keras").output_shape == (None, 10)
    again = run("recipe.py", *arguments).splitlines()  # nothing is left to train
    assert again[-1] == first[-1] and not any(line.startswith("Epoch") for line in again)


def test_tuner(run):
    assert "best: " in run("tuner.py", "--quick", "--output", "study")
    assert pathlib.Path("study/report.html").exists() and pathlib.Path("study/best.toml").exists()


def test_naflex(run):
    assert len(ACCURACY.findall(run("naflex.py", "--images", 10, "--epochs", 1, "--side", 2))) == 3


def test_export(run, monkeypatch, weights):
    pytest.importorskip("tf2onnx")
    monkeypatch.setattr("keras_vit.export.exporting.SECONDS", 0.0)
    lines = run("export.py", "--weights", weights, "--output", "exported", "--precisions", "float32", "int8").splitlines()
    assert [line.split(":")[0] for line in lines] == 2 * ["onnx-float32", "onnx-int8"]
    assert "the same class in 100% of 18 images" in lines[0] and lines[2].count("(0.") == 2  # two photographs


def test_multi_gpu():
    *devices, last = [line for line in run_alone("multi_gpu.py").splitlines() if "device(s)" in line or "largest" in line]
    assert [line[0] for line in devices] == ["2", "1"]
    assert float(last.split()[-1]) < 1e-5


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs JAX")
def test_jax_sharded():
    one, sharded = (re.findall(r"\d+\.\d+|\d+(?= KiB)", line) for line in run_alone("jax_sharded.py").splitlines())
    assert float(sharded[0]) == pytest.approx(float(one[0]), abs=2e-5)
    assert int(sharded[1]) < 0.7 * int(one[1])  # of what each device holds


@pytest.mark.parametrize("name", ["cnn_vit_hybrid", "transformer_parts", "token_count"])
def test_comparisons(run, monkeypatch, weights, name):
    monkeypatch.syspath_prepend(EXAMPLES / "comparisons")  # as Python does for the folder of a script
    more = ["--weights", weights] if name == "cnn_vit_hybrid" else []
    first = run(f"comparisons/{name}.py", "--quick", "--output", ".", *more)
    rows = pathlib.Path(f"{name}.csv").read_text()
    assert Image.open(f"{name}.png").width > 500
    assert first.endswith(run(f"comparisons/{name}.py", "--quick", "--figure", "--output", "."))
    assert pathlib.Path(f"{name}.csv").read_text() == rows  # a figure trains nothing
