import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import tomllib

import keras
import numpy as np
import pytest
from helpers import command
from training.devices.test_cluster import config as tf_config
from training.devices.test_cluster import free_ports

from keras_vit.training import settings
from keras_vit.training.folder import check_folder
from keras_vit_cli import main

TINY = str(pathlib.Path(__file__).with_name("tiny.toml"))
ARGUMENTS = ["--config", TINY, "--data", "digits", "--image-size", "8", "--epochs", "8", "--batch-size", "50", "--no-jit-compile"]
ROOT = pathlib.Path(__file__).parents[2]


call = command("train")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    output = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.raises(SystemExit) as ended:
        main(["train", "--output", str(output), *ARGUMENTS])
    assert not ended.value.code
    return output


def test_what_a_run_writes(finished):
    names = {path.name for path in finished.iterdir()}
    pictures = {"curves.png", "confusion_matrix.png", "worst_mistakes.png", "mistakes_explained.png", "batch.png"}
    assert names == {"model.keras", "history.csv", "config.toml", "test.json", "report.html", "checkpoints"} | pictures
    assert (finished / "report.html").read_text().count("<img") == 5
    rows = list(csv.DictReader((finished / "history.csv").open()))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 9))
    assert float(rows[-1]["val_loss"]) < float(rows[0]["val_loss"])
    config = tomllib.loads((finished / "config.toml").read_text())
    assert config["data"] == "digits" and config["image_size"] == 8 and config["training"]["epochs"] == 8
    model = keras.saving.load_model(finished / "model.keras")
    assert model.predict(np.zeros((1, 8, 8, 3)), verbose=0).shape == (1, 10)


@pytest.mark.slow
def test_a_runs_config_repeats_it(capsys, finished, tmp_path):
    code, *_ = call(capsys, "--output", tmp_path / "run", "--config", finished / "config.toml")
    assert code == 0
    for name in ("config.toml", "history.csv", "test.json"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


def test_the_command_line_goes_before_the_config(finished):
    file = settings.read_config(finished)
    config = settings.complete(file, {"epochs": 2, "model": "ViTS16"})
    assert config["training"]["epochs"] == 2 and config["training"]["batch_size"] == 50 and config["model"] == "ViTS16"
    config = settings.complete(file, {"recipe": "deit"})
    assert config["training"]["batch_size"] == 1024  # another recipe is another recipe
    config = settings.complete({}, {"data": "digits", "recipe": "vit_finetune_vtab", "epochs": 3})
    assert config["training"]["epochs"] == 3 and "steps" not in config["training"]
    assert settings.complete({}, {"weights": "augreg_in21k", "model": "ViTB16"})["recipe"] == "finetune"


@pytest.mark.parametrize(
    "text, rule",
    [
        ("data = digits", "A config must be a TOML file"),
        ('datas = "digits"', "Unknown setting; there is data. Received: datas in "),
        ('data = "digits"\nseed = "1"', "`--seed` must be of type int"),
        ('data = "digits"\nseed = -1', "`--seed` must be an int of at least 0"),
        ('data = "digits"\naccumulation_steps = 0', "`--accumulation-steps` must be an int of at least 1"),
        ('data = "digits"\n[training]\nepoch = 3', "Received: epoch"),
        ('data = "digits"\n[training]\nepochs = 0', "`--epochs` must be an int of at least 1"),
        ('data = "digits"\n[training]\nlearning_rate = "fast"', "`--learning-rate` must be a float. Received: learning_rate='fast'"),
        ('data = "digits"\n[training]\nclip_norm = true', "`clip_norm` must be a float or None. Received: clip_norm=True"),
        ('data = "digits"\n[training]\nfrozen_blocks = "some"', "`--freeze` must be one of 'all'"),
        ('data = "digits"\n[training]\naugmentation = 3', "augmentation of a run must be a name"),
        ('data = "digits"\n[data_options]\nimg_size = 8', "img_size"),
        ('data = "digits"\n[architecture]\nhidden_dim = "wide"', "hidden_dim"),
        ('data = "digits"\n[architecture]\ndepth = 3', "depth"),
    ],
)
def test_a_config_with_a_mistake(capsys, tmp_path, text, rule):
    (tmp_path / "run.toml").write_text(text)
    code, out, err = call(capsys, "--output", tmp_path / "run", "--config", tmp_path / "run.toml")
    assert code == 2 and not out and err.count("\n") == 1 and rule in err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_pretrained_weights_head_first_in_parts_and_bfloat16(capsys, finished, tmp_path):
    """From the weights of a run to another one: two phases, in parts, in bfloat16."""
    config = tmp_path / "run.toml"
    config.write_text('recipe = "head_then_all"\n[training]\nhead_epochs = 1\nepochs = 1\nbatch_size = 40\naugmentation = "none"\n')
    arguments = ["--data", "digits", "--image-size", "8", "--train-images", "200", "--weights", finished, "--config", config]
    arguments += ["--mixed-precision", "--accumulation-steps", "2", "--no-jit-compile"]
    code, out, err = call(capsys, "--output", tmp_path / "run", *arguments)
    assert code == 0, err
    rows = list(csv.DictReader((tmp_path / "run" / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[0]["val_loss"]) < 2.0  # begun anew it would be 2.3
    assert {"checkpoints", "checkpoints_1"} <= {path.name for path in (tmp_path / "run").iterdir()}
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert model.dtype_policy.name == "mixed_bfloat16" or model.get_layer("block_0").dtype_policy.name == "mixed_bfloat16"
    before = (tmp_path / "run" / "model.keras").stat().st_mtime_ns
    code, out, _ = call(capsys, "--output", tmp_path / "run", "--resume")  # nothing is left to train
    assert code == 0 and "Epoch" not in out and (tmp_path / "run" / "model.keras").stat().st_mtime_ns > before
    assert list(csv.DictReader((tmp_path / "run" / "history.csv").open())) == rows


@pytest.mark.slow
def test_a_teacher(capsys, finished, tmp_path):
    arguments = ["--data", "digits", "--image-size", "8", "--train-images", "64", "--epochs", "1", "--teacher", finished]
    config = tmp_path / "run.toml"
    config.write_text('model = "ViTMicro4"\n[architecture]\ndistillation_token = true\nnum_layers = 1\n')
    code, _, err = call(capsys, "--output", tmp_path / "run", "--config", config, *arguments)
    assert code == 0, err
    assert "distillation_head" in [layer.name for layer in keras.saving.load_model(tmp_path / "run" / "model.keras").layers]
    code, _, err = call(capsys, "--output", tmp_path / "other", *arguments)
    assert code == 2 and "must have a distillation head" in err and not (tmp_path / "other").exists()


def test_the_first_batch_as_a_picture(capsys, tmp_path):
    code, out, _ = call(capsys, "--output", tmp_path / "run", "--data", "digits", "--show-batch")
    assert code == 0 and out.strip() == str(tmp_path / "run" / "batch.png")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["batch.png"]
    check_folder(tmp_path / "run")  # which training may begin in


def test_a_batch_too_large_for_memory(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_vit.training.devices.memory.available_bytes", lambda: 40_000_000)
    code, _, err = call(capsys, "--output", tmp_path / "run", "--data", "digits", "--batch-size", "512")
    assert code == 2 and err.count("\n") == 1 and "512 images need about" in err and "`--accumulation-steps " in err
    assert not (tmp_path / "run").exists()


def test_a_device_out_of_memory(capsys, tmp_path, monkeypatch):
    import tensorflow as tf

    def fit(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")

    monkeypatch.setattr(keras.Model, "fit", fit)
    code, _, err = call(capsys, "--output", tmp_path / "run", "--data", "digits", "--accumulation-steps", "2")
    assert code == 2 and "does not hold 16 images at once: split each batch by `--accumulation-steps 4`" in err


@pytest.mark.slow
def test_two_virtual_devices(tmp_path):
    """In a process of its own: virtual devices must be created first."""
    process = start(tmp_path / "run", *ARGUMENTS, "--epochs", "1", "--strategy", "mirrored", "--devices", "cpu:2")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0 and "Test accuracy" in out, err
    assert tomllib.loads((tmp_path / "run" / "config.toml").read_text())["devices"] == "cpu:2"


@pytest.mark.slow
def test_two_workers_write_what_one_device_does(capsys, tmp_path):
    arguments = [*ARGUMENTS, "--epochs", "1", "--drop-path-rate", "0"]
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    workers = [start(tmp_path / "two", *arguments, TF_CONFIG=tf_config(addresses, index=index)) for index in range(2)]
    try:
        written = [worker.communicate(timeout=1200) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for (out, err), is_chief in zip(written, (True, False)):
        assert ("Test accuracy" in out) == is_chief, err
    assert [worker.returncode for worker in workers] == [0, 0]
    assert call(capsys, "--output", tmp_path / "one", *arguments)[0] == 0
    one, two = (next(csv.DictReader((tmp_path / run / "history.csv").open())) for run in ("one", "two"))
    assert one.keys() == two.keys()
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert float(two[name]) == pytest.approx(float(one[name]), abs=1e-5), name
    one, two = (json.loads((tmp_path / run / "test.json").read_text()) for run in ("one", "two"))
    assert two["confusion_matrix"] == one["confusion_matrix"]
    assert two["calibration_error"] == pytest.approx(one["calibration_error"], abs=1e-5)


@pytest.mark.slow
def test_tensorboard(capsys, tmp_path):
    pytest.importorskip("tensorboard")
    code, *_ = call(capsys, "--output", tmp_path / "run", *ARGUMENTS, "--train-images", "100", "--epochs", "1", "--tensorboard")
    assert code == 0 and list((tmp_path / "run" / "tensorboard").rglob("events.out.tfevents*"))


def test_tensorboard_that_is_not_there_is_said_before_anything_is_written(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_vit_cli.train.importlib.util.find_spec", lambda name: None)
    code, _, err = call(capsys, "--output", tmp_path / "run", *ARGUMENTS, "--tensorboard")
    assert code == 2 and err.count("\n") == 1 and "pip install tensorboard" in err and not (tmp_path / "run").exists()


def test_a_run_is_not_written_over(capsys, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    code, _, err = call(capsys, "--output", finished, *ARGUMENTS)
    assert code == 2 and err.count("\n") == 1 and "--resume" in err
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_the_same_command_begins_a_run_and_resumes_it(capsys, tmp_path):
    arguments = ["--output", tmp_path / "run", "--data", "digits", "--image-size", "8", "--train-images", "64", "--epochs", "1", "--resume"]
    arguments += ["--config", TINY, "--no-jit-compile", "--keep", "best", "--patience", "3", "--weight-decay", "0.1"]
    code, out, err = call(capsys, *arguments, "--layer-decay", "0.9", "--freeze", "0", "--head-epochs", "1")
    assert code == 0 and out.startswith(f"Starting a new run in {tmp_path / 'run'}"), err
    config = settings.read_config(tmp_path / "run")
    assert config["keep_best"] and config["patience"] == 3 and config["training"]["head_epochs"] == 1
    assert (config["training"]["weight_decay"], config["training"]["layer_decay"], config["training"]["frozen_blocks"]) == (0.1, 0.9, 0)
    code, out, err = call(capsys, *arguments, "--layer-decay", "0.9", "--freeze", "0", "--head-epochs", "1")
    assert code == 0 and out.startswith(f"Resuming the run in {tmp_path / 'run'}") and "Epoch" not in out, err


def test_a_resumed_run_keeps_its_settings(capsys, finished):
    code, _, err = call(capsys, "--output", finished, "--resume", "--epochs", "9")
    assert code == 2 and err.count("\n") == 1 and "--epochs 8. Received: --epochs 9" in err


def start(output, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "keras_vit_cli", "train", "--output", output, *arguments],
        cwd=ROOT,
        env=os.environ | {"KERAS_BACKEND": "tensorflow"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background jobs ignore it
    )


def checkpoint_of(output):
    """The newest one, and the number of its steps."""
    paths = sorted((output / "checkpoints").glob("step-*.npz"))
    return (paths[-1], int(paths[-1].stem[5:])) if paths else (None, 0)


@pytest.mark.slow
def test_kill_sigterm_ctrl_c_and_resume_end_as_an_unbroken_run(capsys, finished, tmp_path):
    output, arguments = tmp_path / "run", ARGUMENTS
    for number, code, until in ((signal.SIGKILL, -9, 5), (signal.SIGTERM, 0, 20), (signal.SIGINT, 130, 40)):
        process = start(output, *arguments, "--save-every", "5")
        while process.poll() is None and checkpoint_of(output)[1] < until:
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, err
        assert "Traceback" not in err and not (output / "model.keras").exists()
        if number != signal.SIGKILL:
            last = err.strip().split("\n")[-1]
            assert last.startswith("keras-vit: stopped after epoch ") and last.endswith(f"keras-vit train --output {output} --resume")
        arguments = ["--resume"]

    code, out, err = call(capsys, "--output", output, "--resume")
    assert code == 0 and "Test accuracy" in out
    one, other = (dict(np.load(checkpoint_of(run)[0])) for run in (finished, output))
    assert one.keys() == other.keys() and len(one) > 60
    for name in one:  # weights, optimizer, seed generators and history
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    assert (output / "history.csv").read_bytes() == (finished / "history.csv").read_bytes()


@pytest.mark.slow
def test_a_loss_that_is_not_finite(capsys, tmp_path):
    code, _, err = call(capsys, "--output", tmp_path / "run", *ARGUMENTS, "--learning-rate", "1e38")
    assert code == 2 and "is not finite after step" in err.strip().split("\n")[-1]


@pytest.mark.parametrize(
    "arguments, rule",
    [
        ([], "`--data` is missing"),
        (["--data", "digit"], "Unknown data source, and no folder of this name; there is 'digits'. Received: 'digit'"),
        (["--data", "digits", "--model", "ViTMicr"], "The nearest are ViTMicro4"),
        (["--data", "digits", "--recipe", "small"], "Unknown recipe; there is 'small_data'"),
        (["--data", "digits", "--epochs", "0"], "`--epochs` must be an int of at least 1"),
        (["--data", "digits", "--epochs", "many"], "--epochs"),
        (["--data", "digits", "--batch-size", "-3"], "`--batch-size` must be an int of at least 1"),
        (["--data", "digits", "--batch-size", "5000"], "1294 training images"),
        (["--data", "digits", "--learning-rate", "-1"], "`--learning-rate` must be greater than 0"),
        (["--data", "digits", "--image-size", "0"], "--image-size"),
        (["--data", "digits", "--train-images", "2000"], "`--train-images` must lie between 1 and the 1294"),
        (["--data", "digits", "--data-option", "size"], "`--data-option` must be NAME=VALUE"),
        (["--data", "digits", "--augmentation", "digit"], "Unknown augmentation; there is 'digits'"),
        (["--data", "digits", "--strategy", "two"], "`--strategy` must be one of"),
        (["--data", "digits", "--devices", "gpu:2"], "`--devices` must be cpu:N"),
        (["--data", "digits", "--weights", "nowhere"], "nowhere"),
        (["--data", "digits", "--config", "nowhere.toml"], "nowhere.toml"),
        (["--data", "digits", "--image-size", "9"], "for 9 x 9 pixels"),
        (["--data", "digits", "--seed", "-1"], "--seed"),
        (["--resume"], "`--data` is missing"),
        (["--data", "digits", "--data-option", "img_size=32"], "img_size"),
        (["--data", "digits", "--data-option", "image_size=wide"], "`--image-size` must be a positive int"),
        (["--data", "digits", "--freeze", "some"], "`--freeze` must be a number of blocks, or all"),
        (["--data", "digits", "--freeze", "99"], "99"),
        (["--data", "digits", "--layer-decay", "2"], "`--layer-decay` must lie in (0, 1]"),
        (["--data", "digits", "--recipe", "deit", "--keep", "best"], "`--keep` cannot be used with"),
        (["--data", "no/such/folder"], os.path.abspath("no/such/folder")),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(capsys, tmp_path, arguments, rule):
    code, out, err = call(capsys, "--output", tmp_path / "run", *arguments)
    assert code == 2 and not out
    assert err.startswith("keras-vit: ") and err.count("\n") == 1 and rule in err
    assert not (tmp_path / "run").exists()


def test_an_output_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    code, _, err = call(capsys, "--output", tmp_path / "file" / "run", "--data", "digits")
    assert code == 2 and err.count("\n") == 1 and str(tmp_path / "file") in err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_missing_package_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    code, _, err = call(capsys, "--output", tmp_path / "run", "--data", "digits")
    assert code == 2 and err.count("\n") == 1 and "pip install scikit-learn" in err
