import json
import os
import pathlib
import subprocess
import sys

import keras
import pytest
from helpers import requires_tensorflow

from keras_vit.training import strategy, virtual_devices

pytestmark = requires_tensorflow


def test_two_devices_train_as_one():
    script = pathlib.Path(__file__).with_name("mirrored.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run([sys.executable, script, "2"], capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout.split("ANSWER")[1])
    # Should a release of Keras clip after the sum over the replicas, `_sum_over_replicas` can go.
    assert found.pop("Keras's SGD, global clip")["weights"] > 1e-3
    assert found["resume"]["weights"] == 0.0
    assert len(found) == 9 and all(case[what] < 1e-4 for case in found.values() for what in ("loss", "weights")), found


def test_auto_is_one_device_here_and_a_strategy_stays_what_it_is():
    import tensorflow as tf

    one = strategy()
    assert isinstance(one, tf.distribute.OneDeviceStrategy) and strategy(one) is one


def test_bad_input(monkeypatch):
    with pytest.raises(ValueError, match="`strategy` must be one of 'auto', 'one_device', 'mirrored'"):
        strategy("two")
    with pytest.raises(ValueError, match="`devices` must be cpu:N"):
        virtual_devices("gpu:2")
    import tensorflow as tf

    tf.constant(1)
    with pytest.raises(ValueError, match="must be made before TensorFlow is used. Received: devices='cpu:2'"):
        virtual_devices("cpu:2")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="Strategies are TensorFlow's"):
        strategy()
