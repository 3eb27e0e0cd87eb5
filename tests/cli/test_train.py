import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from keras_vit_cli import main

ARGUMENTS = ["--data", "digits", "--image-size", "8", "--epochs", "8", "--batch-size", "100"]
ROOT = pathlib.Path(__file__).parents[2]


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["train", *map(str, arguments)])
    return ended.value.code or 0, *capsys.readouterr()


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
    pictures = {"curves.png", "confusion_matrix.png", "worst_mistakes.png"}
    assert names == {"model.keras", "history.csv", "config.json", "report.html", "checkpoints"} | pictures
    rows = list(csv.DictReader((finished / "history.csv").open()))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 9))
    assert float(rows[-1]["val_loss"]) < float(rows[0]["val_loss"])
    config = json.loads((finished / "config.json").read_text())
    assert config["data"] == "digits" and config["image_size"] == 8 and config["training"]["epochs"] == 8
    model = keras.saving.load_model(finished / "model.keras")
    assert model.predict(np.zeros((1, 8, 8, 3)), verbose=0).shape == (1, 10)


def test_a_run_is_not_written_over(capsys, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    code, _, err = call(capsys, "--output", finished, *ARGUMENTS)
    assert code == 2 and err.count("\n") == 1 and "--resume" in err
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_a_resumed_run_keeps_its_settings(capsys, finished):
    code, _, err = call(capsys, "--output", finished, "--resume", "--epochs", "9")
    assert code == 2 and err.count("\n") == 1 and "--epochs 8. Received: --epochs 9" in err


def start(output, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "keras_vit_cli", "train", "--output", output, *arguments],
        cwd=ROOT,
        env=os.environ | {"KERAS_BACKEND": "tensorflow"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background jobs ignore it
    )


def checkpoint_of(output):
    """The newest one, and the number of its steps."""
    paths = sorted((output / "checkpoints").glob("step-*.npz"))
    return (paths[-1], int(paths[-1].stem[5:])) if paths else (None, 0)


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
    assert one.keys() == other.keys() and len(one) > 100
    for name in one:  # weights, optimizer, seed generators and history
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    assert (output / "history.csv").read_bytes() == (finished / "history.csv").read_bytes()


def test_a_loss_that_is_not_finite(capsys, tmp_path):
    code, _, err = call(capsys, "--output", tmp_path / "run", *ARGUMENTS, "--learning-rate", "1e38")
    assert code == 2 and "is not finite after step" in err.strip().split("\n")[-1]


@pytest.mark.parametrize(
    "arguments, rule",
    [
        ([], "`--data` is missing"),
        (["--data", "digit"], "Unknown data source; there is 'digits'. Received: 'digit'"),
        (["--data", "digits", "--model", "ViTMicr"], "The nearest are ViTMicro4"),
        (["--data", "digits", "--recipe", "small"], "Unknown recipe; there is 'small_data'"),
        (["--data", "digits", "--epochs", "0"], "`epochs` must be at least 1"),
        (["--data", "digits", "--epochs", "many"], "--epochs"),
        (["--data", "digits", "--batch-size", "-3"], "`batch_size` must be at least 1"),
        (["--data", "digits", "--batch-size", "5000"], "1294 training images"),
        (["--data", "digits", "--learning-rate", "-1"], "`learning_rate` must be greater than 0"),
        (["--data", "digits", "--image-size", "0"], "`image_size` must be"),
        (["--data", "digits", "--image-size", "9"], "for 9 x 9 pixels"),
        (["--data", "digits", "--seed", "-1"], "--seed"),
        (["--resume"], "There is no run to resume"),
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
