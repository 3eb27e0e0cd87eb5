"""Several machines, on the loopback of this one."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from data.sources.tar_files import write_tar
from helpers import new_keras, requires_tensorflow
from training.cases import VARIANTS, apart, train
from training.devices.test_cluster import config, free_ports

from keras_vit.training import strategy

pytestmark = [requires_tensorflow, pytest.mark.slow]
FOLDER = pathlib.Path(__file__).parent
EXAMPLE = FOLDER.parents[1] / "examples" / "multi_worker.py"
ARGUMENTS = ["--layers", "1", "--batch-size", "128"]  # 10 steps an epoch
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}


@contextlib.contextmanager
def started(*commands):
    """Starts a Python process for each list of arguments: the workers of a cluster."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(len(commands))]
    processes = []
    for index, command in enumerate(commands):
        cluster = {"TF_CONFIG": config(addresses, index=index)}
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(subprocess.Popen([sys.executable, *map(str, command)], env=os.environ | ENVIRONMENT | cluster, **pipes))
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()


def ended(processes):
    """Returns what each wrote on stdout and on stderr."""
    return [process.communicate(timeout=1200) for process in processes]


def test_workers_train_as_one_device_and_read_tar_files_of_their_own(tmp_path):
    """What devices do as workers do, such as bfloat16, distillation, or a last batch of which some have nothing, is in `mirrored.py`."""
    random = ["drop path", "drop path again"]
    names = [name for name in VARIANTS if VARIANTS[name][0] in ("SGD", "AdamW")]
    files = [f"train-{number}.tar" for number in range(4)]
    for worker in range(2):  # each has a folder with every other training file
        for number in range(worker, 4, 2):
            write_tar(tmp_path / str(worker) / files[number], range(16 * number, 16 * number + 16))
        write_tar(tmp_path / str(worker) / "val-0.tar", range(100, 108))
        (tmp_path / str(worker) / "sizes.json").write_text(json.dumps(dict.fromkeys(files, 16)))
    with started(*[[FOLDER / "workers.py", tmp_path, *names, *random]] * 2) as processes:
        texts = ended(processes)
    found = [json.loads(out.split("ANSWER")[1]) if "ANSWER" in out else pytest.fail(err) for out, err in texts]

    one_device = strategy("one_device")
    alone = {base: train(one_device, base) for base in {VARIANTS[name][0] for name in names} | {"drop path"}}
    first, other = (
        {name: [arrays[key] for key in arrays if key.startswith(f"{name}/")] for name in names + random}
        for arrays in (np.load(tmp_path / f"{worker}.npz") for worker in range(2))
    )
    for name in names:
        assert apart(first[name], alone[VARIANTS[name][0]]) < 5e-5, name
    assert all(apart(first[name], other[name]) == 0.0 for name in names + random)
    assert apart(first[random[0]], first[random[1]]) == 0.0
    assert apart(first[random[0]], alone[random[0]]) > 1e-3  # each worker's masks are others

    first, second = found
    assert [n // 16 % 2 for n in (first["seen"][0], second["seen"][0])] == [0, 1] and first["steps"] == second["steps"] == 8
    assert len(first["seen"]) == len(second["seen"]) == 32 and not {*first["seen"]} & {*second["seen"]}
    assert first["weights"] == second["weights"] and first["exact"] and second["exact"]


@new_keras
def test_faults_of_keras():
    """Should a release of Keras mend one, the function of `keras_vit/runtime/distributed.py` that stands for it can go."""
    with started(*[[FOLDER / "workers.py", "faults"]] * 2) as processes:
        for out, err in ended(processes):
            assert "ANSWER" in out, err
            faults = json.loads(out.split("ANSWER")[1])
            assert "PerReplica" in faults["_maybe_symbolic_build"], faults
            assert "Invalid reduction dimension 0" in faults["reduce_per_replica"], faults


def answers(out):
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def run(*arguments):
    command = [sys.executable, str(EXAMPLE), *ARGUMENTS, *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, env=os.environ | ENVIRONMENT, timeout=1200)
    assert process.returncode == 0, process.stderr
    return answers(process.stdout), process.stderr


def test_two_workers_go_on_after_one_was_killed(tmp_path):
    unbroken, err = run("--output", tmp_path / "unbroken", "--local", 2)
    assert "resuming after" not in err
    assert [answer["worker"] for answer in sorted(unbroken, key=lambda answer: answer["worker"])] == [0, 1]
    assert unbroken[0]["weights and optimizer"] == unbroken[1]["weights and optimizer"]

    resumed, err = run("--output", tmp_path / "broken", "--local", 2, "--kill-at", 8)
    for words in ("attempt 1 failed; all had ended", "resuming after 5 steps of epoch 1"):
        assert words in err, err
    assert {answer["weights and optimizer"] for answer in resumed} == {unbroken[0]["weights and optimizer"]}


def test_workers_that_differ_are_told_so_and_one_that_does_not_come_ends_the_others_in_time():
    with started(*[[FOLDER / "workers.py", "stuck"]] * 2) as (waiting, stuck):
        _, err = waiting.communicate(timeout=1200)
        assert stuck.poll() is None
        assert waiting.returncode not in (0, None) and "timed out" in err, err
        assert "All workers must have the same optimizer; worker 0 and 1 differ" in err, err
