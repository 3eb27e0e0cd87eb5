import json
import os
import pathlib
import subprocess
import sys

import keras
import pytest
from helpers import new_keras, requires_tensorflow
from training.devices.test_cluster import config, free_ports

from keras_vit.training import check_batch, layout_map, strategy, virtual_devices


def answer(script, *arguments):
    """Runs a script of this folder in a process of its own, and returns what it answers."""
    path = pathlib.Path(__file__).parents[1] / script
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    process = subprocess.run([sys.executable, path, *map(str, arguments)], capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.split("ANSWER")[1])


@requires_tensorflow
def test_two_devices_train_as_one():
    name = "SGD, global clip, sample weights, a last batch of one image"
    assert answer("mirrored.py", name)["equal"][name] < 5e-5


@pytest.mark.slow
@requires_tensorflow
def test_several_devices_train_as_one():
    found = answer("mirrored.py")
    rounding = {"mixed_bfloat16": 3e-2}
    assert len(found["equal"]) == 6 and len(found["equal, four"]) == 1
    assert all(apart < rounding.get(name, 5e-5) for name, apart in (found["equal"] | found["equal, four"]).items()), found
    assert found["resumed"] == 0.0
    assert found["masks differ"] and found["masks are reproducible"]
    assert len(found["refused"]) == 2 and all("in the scope of the same strategy" in message for message in found["refused"])


@pytest.mark.slow
@requires_tensorflow
@new_keras
def test_faults_of_keras():
    """Should one be mended, what `keras_vit/runtime/distributed.py`, `seeds.py` and `_Optimizer` do for it can go."""
    faults = answer("mirrored.py", "faults")
    assert not faults["masks differ"]
    assert faults["clip"] > 1e-5 and faults["ragged last batch"] > 1e-5, faults
    for name, message in {
        "accumulation": "merge_call",
        "average": "merge_call",
        "first batch": "shape",
        "steps_per_execution": "placeholder",
        "empty part": "error",
        "jit_compile": "Trying to access resource",
    }.items():
        assert message in str(faults[name]), faults


@pytest.mark.slow
def test_devices_and_processes_of_jax_train_as_one(tmp_path):
    pytest.importorskip("jax")
    found = answer("sharded.py", "divided", tmp_path)
    alone = found.pop("alone")
    assert len(alone) == 2
    for name, losses in answer("sharded.py", "processes", *free_ports(1)).items():
        assert losses == pytest.approx(alone, abs=1e-5), name
    assert found.pop("loaded") == 0.0
    assert all(case["apart"] < 2e-5 for case in found.values()), found
    # Of two blocks: 4 kernels and a bias over "model", 4 kernels over "batch" with the patches', positions and head. So the optimizer's.
    assert {name: case["divided"] for name, case in found.items()} == {
        "mirrored": [0, 0],
        "fsdp": [11, 22],
        "tensor_parallel": [10, 20],
        "2 x 2": [10, 20],
    }
    assert {name: case["replicas"] for name, case in found.items()} == {"mirrored": 4, "fsdp": 4, "tensor_parallel": 1, "2 x 2": 2}
    # One sum of activations for each branch of a block, also with learned rotary positions and without a bias of the keys; and the kernel
    # of queries, keys and values, whose columns lie otherwise.
    exchanged = found["tensor_parallel"]["collectives"]
    assert len(exchanged.pop("all-reduce")) == 4
    assert set(exchanged) <= {"all-gather", "all-to-all", "collective-permute"}
    assert all(shape == "16,48" for shapes in exchanged.values() for shape in shapes), exchanged


@requires_tensorflow
def test_auto_is_one_device_here_and_a_strategy_stays_what_it_is(capsys):
    import tensorflow as tf

    one = strategy()
    assert isinstance(one, tf.distribute.OneDeviceStrategy) and strategy(one) is one and strategy() is one


@requires_tensorflow
def test_bad_input(monkeypatch):
    with pytest.raises(ValueError, match="`strategy` must be one of 'auto', 'one_device', 'mirrored', 'multi_worker', 'tpu', 'fsdp'"):
        strategy("two")
    with pytest.raises(ValueError, match="Several machines must be named by TF_CONFIG"):
        strategy("multi_worker")
    with pytest.raises(ValueError, match="This machine has no TPU. Received: strategy='tpu'"):
        strategy("tpu")
    with pytest.raises(ValueError, match="`devices` must be cpu:N"):
        virtual_devices("gpu:2")
    for ask in (lambda: strategy("fsdp"), lambda: layout_map("ViTB16", None)):
        with pytest.raises(ValueError, match="Sharding weights needs JAX: set KERAS_BACKEND=jax. .On tensorflow"):
            ask()
    import tensorflow as tf

    tf.constant(1)
    with pytest.raises(ValueError, match="must be created before the backend is used. Received: devices='cpu:2'"):
        virtual_devices("cpu:2")
    monkeypatch.setenv("TF_CONFIG", config(["127.0.0.1:1"]))
    with pytest.raises(ValueError, match="must be created before any tensor"):
        strategy("multi_worker")
    mine, missing = (f"127.0.0.1:{port}" for port in free_ports(2))
    monkeypatch.setenv("TF_CONFIG", config([mine, missing]))
    with pytest.raises(ValueError, match=f"within 0.2 seconds. Received: nothing from worker 1 at {missing}"):
        strategy("multi_worker", wait_seconds=0.2)
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="Strategies need TensorFlow or JAX"):
        strategy()


@requires_tensorflow
def test_what_is_a_machines_own_is_divided_over_its_devices():
    import tensorflow as tf

    from keras_vit.training.devices.strategy import _split

    batches = tf.data.Dataset.range(11).map(lambda number: (number, -number)).batch(6)
    found = [[tensor.numpy().tolist() for tensor in part] for part in _split(batches, 2)]
    assert [part[0] for part in found] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10]]
    assert all(part[1] == [-number for number in part[0]] for part in found)


def test_a_batch_that_cannot_be_shared():
    check_batch(32, 4)
    for batch, near in ((30, "28 or 32"), (3, "4")):
        with pytest.raises(ValueError, match=f"4 can share {near} images. Received: a batch of {batch} images"):
            check_batch(batch, 4)
