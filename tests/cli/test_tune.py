import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import tomllib

import pytest
from helpers import command, requires_tensorflow

from keras_vit.tuning import read_trials

pytestmark = requires_tensorflow
ROOT = pathlib.Path(__file__).parents[2]
SPACE = """
hidden_dim = [8, 16]
num_heads = [2, 3]
learning_rate = { low = 1e-3, high = 1e-2, log = true }
mixup = [0.0, 0.2]
"""
DATA = ["--data", "digits", "--image-size", "8", "--train-images", "64", "--no-jit-compile"]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    (folder / "space.toml").write_text(SPACE)
    (folder / "base.toml").write_text("[architecture]\nnum_layers = 1\nmlp_dim = 8\n[training]\nbatch_size = 32\n")
    return [*DATA, "--space", str(folder / "space.toml"), "--config", str(folder / "base.toml")]


call = command()


def test_a_search_its_report_and_its_best_config(capsys, tmp_path, arguments):
    study = tmp_path / "study"
    arguments = [*arguments, "--epochs", 2, "--tuner", "random"]
    code, out, err = call(capsys, "tune", *arguments, "--trials", 2, "--output", study)
    assert code == 0, err
    lines = [line for line in out.splitlines() if line.startswith("trial ")]
    assert len(lines) == 2 and all("; best 0." in line for line in lines) and lines[0].endswith("left")
    assert {trial.values["num_heads"] for trial in read_trials(study)} == {2}  # 3 divides no width
    assert (study / "report.html").read_text().count("<img") == 2
    # The same command with a trial more does that one.
    before = {path: path.read_bytes() for path in study.glob("trial_*/trial.json")}
    code, out, err = call(capsys, "tune", *arguments, "--trials", 3, "--output", study)
    assert code == 0 and sum(line.startswith("trial ") for line in out.splitlines()) == 1 and "2 trials have ended" in err
    assert len(read_trials(study)) == 3 and all(path.read_bytes() == content for path, content in before.items())
    # The best config repeats its trial.
    best = read_trials(study)[0]
    code, _, err = call(capsys, "train", "--config", study / "best.toml", "--output", tmp_path / "run")
    assert code == 0, err
    rows = (tmp_path / "run" / "history.csv").read_text().splitlines()
    column = rows[0].split(",").index("val_accuracy")
    scores = [float(row.split(",")[column]) for row in rows[1:]]
    assert scores[: len(best.history)] == [row["val_accuracy"] for row in best.history]
    # Another search does not go on here.
    code, out, err = call(capsys, "tune", *arguments, "--max-macs", 10**9, "--output", study)
    assert code == 2 and err.count("\n") == 1 and "another search: its `--max-macs` is None" in err


@pytest.mark.parametrize(
    "more, rule",
    [
        (["--space", "finetuning"], "Unknown search space; there is 'finetune'"),
        (["--max-macs", "10"], "The budget must allow a configuration of the search space: the smallest have"),
        (["--tuner", "annealing"], "`--tuner` must be one of 'random', "),
        (["--recipe", "head_then_all"], "without `head_epochs`"),
        (["--patience", "0"], "--patience"),
        (["--strategy", "mirrored", "--devices", "gpu:2"], "`--devices` must be cpu:N"),
    ],
)
def test_wrong_arguments_are_said_before_a_trial(capsys, tmp_path, more, rule):
    code, out, err = call(capsys, "tune", *DATA, "--output", tmp_path / "study", *more)
    assert code == 2 and not out and err.count("\n") == 1 and rule in err, err
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    "text, rule",
    [
        ("", "A search space must have parameters"),
        ("learning_rates = [0.1]", "Unknown parameter; there is 'learning_rate'"),
        ("learning_rate = { low = 1.0 }", "A range must have `low` < `high`"),
        ("learning_rate = [0.1, -1.0]", "`learning_rate` must be greater than 0"),
        ("learning_rate = 0.1", "A parameter must have distinct values"),
        ("learning_rate = ", "A search space must be a TOML file"),
    ],
)
def test_a_space_with_a_mistake(capsys, tmp_path, text, rule):
    (tmp_path / "space.toml").write_text(text)
    code, out, err = call(capsys, "tune", *DATA, "--space", tmp_path / "space.toml", "--output", tmp_path / "study")
    assert code == 2 and not out and err.count("\n") == 1 and rule in err, err
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_chief_and_two_workers_of_which_one_is_killed(tmp_path, arguments):
    """Each a process. A worker is killed in a trial; the other one tries it again from its checkpoint, and the study is complete."""
    study = tmp_path / "study"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "keras_vit_cli", "tune", *arguments, "--epochs", "30", "--trials", "3", "--tuner", "random"]
    processes = {}
    for name in ("chief", "one", "two"):
        address = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": port, "KERASTUNER_TUNER_ID": name}
        environment = os.environ | address | {"KERAS_BACKEND": "tensorflow"}
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes[name] = subprocess.Popen([*command, "--output", study], cwd=ROOT, env=environment, **pipes)
    oracle = study / "oracle.json"
    try:
        wait_until(lambda: any((study / "trial_0" / "checkpoints").glob("step-*.npz")))
        (killed,) = [name for name, trial in json.loads(oracle.read_text())["ongoing_trials"].items() if trial == "0"]
        processes[killed].kill()
        written = {name: process.communicate(timeout=300) for name, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
    assert f"{killed} is gone; trial 0 will be tried again" in written["chief"][1]
    other = "two" if killed == "one" else "one"
    assert [processes[name].returncode for name in ("chief", other, killed)] == [0, 0, -9], written
    assert "resuming after" in written[other][1] and "trial_0/checkpoints" in written[other][1]
    trials = read_trials(study)
    assert [trial.status for trial in trials] == ["COMPLETED"] * 3 and all(len(trial.history) == 30 for trial in trials)
    assert written["chief"][0].count("; best 0.") == 3 and (study / "report.html").exists()
    assert tomllib.loads((study / "best.toml").read_text())["architecture"]["num_layers"] == 1


def wait_until(condition, seconds=200):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
