"""What version 0.1.0 wrote is read, predicts, resumes and evaluates as it did: tests/golden/old, made by make_old.py."""

import contextlib
import csv
import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
from helpers import assert_close, requires_tensorflow

import keras_vit

OLD = pathlib.Path(__file__).parent / "golden" / "old"
EXPECTED = dict(np.load(OLD / "expected.npz"))
PRESET = dict(input_shape=(16, 16, 3), patch_size=4, hidden_dim=8, num_layers=1, num_heads=2, mlp_dim=16, num_classes=3)


@pytest.mark.parametrize("name", sorted(path.stem for path in OLD.glob("*.keras")))
def test_models_predict_as_they_did(name):
    model = keras.saving.load_model(OLD / f"{name}.keras", safe_mode=True)
    assert isinstance(model, keras_vit.VisionTransformer) == (name != "functional")
    assert_close(model(EXPECTED["images"], training=False), EXPECTED[name])


def test_weights_load_into_their_preset():
    model = keras_vit.ViTMicro4(**PRESET, weights=str(OLD / "preset.weights.h5"))
    assert_close(model(EXPECTED["images"]), EXPECTED["preset"])


def test_a_compiled_model_goes_on_with_its_optimizer():
    model = keras.saving.load_model(OLD / "trained.keras")
    assert int(model.optimizer.iterations) == 2 and model.optimizer.layer_decay == 0.5
    model.train_on_batch(EXPECTED["images"], keras.ops.one_hot(np.array([0, 2]), 3))
    assert_close(model(EXPECTED["images"]), EXPECTED["trained_on"], 1e-4)


def command(*arguments):
    from keras_vit_cli import main

    with contextlib.suppress(SystemExit):
        main([*map(str, arguments)])


def history(folder):
    with (folder / "history.csv").open() as file:
        return [[float(row[name]) for name in ("epoch", "loss", "accuracy", "val_loss", "val_accuracy")] for row in csv.DictReader(file)]


@requires_tensorflow
def test_a_run_resumes_to_the_end_it_would_have_had(tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(OLD / "interrupted", run)
    command("train", "--output", run, "--resume")
    assert "resuming after 2 steps of epoch 2" in capsys.readouterr().err
    np.testing.assert_allclose(history(run), history(OLD / "finished"), rtol=2e-3)


@requires_tensorflow
def test_a_run_is_evaluated(capsys):
    command("evaluate", OLD / "finished", "--json")
    now, then = json.loads(capsys.readouterr().out), json.loads((OLD / "finished" / "test.json").read_text())
    assert now["images"] == then["images"] and abs(now["accuracy"] - then["accuracy"]) < 0.004
    assert abs(now["log_loss"] - then["log_loss"]) < 1e-4
