"""Several machines, on the loopback of this one, by the example that the documentation tells users to run."""

import json
import os
import pathlib
import runpy
import subprocess
import sys

import pytest
from helpers import requires_tensorflow
from training.test_cluster import config, free_ports

pytestmark = requires_tensorflow
EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "multi_worker.py"
ARGUMENTS = ["--layers", "1", "--batch-size", "128"]  # 10 steps an epoch
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}


def answers(out):
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def run(*arguments):
    command = [sys.executable, str(EXAMPLE), *ARGUMENTS, *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, env=os.environ | ENVIRONMENT, timeout=300)
    assert process.returncode == 0, process.stderr
    return answers(process.stdout), process.stderr


def test_two_workers_train_as_one_and_go_on_after_one_was_killed(tmp_path, monkeypatch, capsys):
    unbroken, err = run("--output", tmp_path / "unbroken", "--local", 2)
    assert "going on" not in err
    assert [answer["worker"] for answer in sorted(unbroken, key=lambda answer: answer["worker"])] == [0, 1]
    assert unbroken[0]["weights and optimizer"] == unbroken[1]["weights and optimizer"]

    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *ARGUMENTS, "--output", str(tmp_path / "one")])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    (alone,) = answers(capsys.readouterr().out)
    assert unbroken[0]["loss"] == pytest.approx(alone["loss"], abs=1e-5)

    resumed, err = run("--output", tmp_path / "broken", "--local", 2, "--kill-at", 8)
    assert "unhealthy" in err and "attempt 1 failed" in err and "going on after 5 steps of epoch 1" in err
    assert {answer["weights and optimizer"] for answer in resumed} == {unbroken[0]["weights and optimizer"]}


def test_workers_that_differ_are_told_so(tmp_path):
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for index, batch in enumerate((128, 64)):
        environment = os.environ | ENVIRONMENT | {"TF_CONFIG": config(addresses, index=index)}
        command = [sys.executable, str(EXAMPLE), "--output", str(tmp_path), "--layers", "1", "--batch-size", str(batch)]
        processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment))
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode != 0 and "All workers must have the same optimizer; worker 0 and 1 differ" in err, err
