"""What stops a run, from a loss that is not finite to a kill, leaves a checkpoint to resume from."""

import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import threading
import time

import keras
import numpy as np
import pytest
from training.test_resume import Stop, assert_same, fit, put, small_model, states, train_from
from training.test_resume import saved as saved  # a fixture

from keras_vit.training import Checkpoints


class Poison(keras.callbacks.Callback):
    """Makes a weight NaN before a step, or after it."""

    def __init__(self, step, after=False):
        super().__init__()
        self.step, self.after = step, after

    def spoil(self, now):
        if now:
            self.model.trainable_variables[0].assign(np.full((5, 7), np.nan))

    def on_train_batch_begin(self, batch, logs=None):
        self.spoil(not self.after and batch + 1 == self.step)

    def on_train_batch_end(self, batch, logs=None):
        self.spoil(self.after and batch + 1 == self.step)


@pytest.mark.parametrize("after, what", [(False, "The loss"), (True, "A weight")])
def test_a_loss_or_weight_that_is_not_finite(tmp_path, after, what):
    checkpoints = Checkpoints(tmp_path, every_steps=1)
    message = rf"{what} is not finite after step 3, at learning rate 0.0\d+. The last good checkpoint: .*step-000000002.npz"
    with pytest.raises(FloatingPointError, match=message):
        fit(small_model(), checkpoints, callbacks=[Poison(3, after), checkpoints])
    assert [path.name for path in checkpoints.files()] == ["step-000000001.npz", "step-000000002.npz"]


def test_a_loss_that_is_not_finite_is_found_while_no_step_waits_for_it(tmp_path):
    class Spoil(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2:
                self.model.trainable_variables[0].assign(np.full((5, 7), np.nan))

    for every in (1, None):
        checkpoints = Checkpoints(tmp_path / str(every), every_steps=every)
        with pytest.raises(FloatingPointError, match="The loss is not finite after step [34]"):  # the last step of the epoch at the latest
            fit(small_model(), checkpoints, Spoil())
        assert [path.name for path in checkpoints.files()] == [f"step-{step:09d}.npz" for step in (1, 2) if every]


def test_a_full_disk_stops_the_run_and_leaves_what_was(tmp_path, saved):
    put(tmp_path, saved)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))  # the write of what comes after fails, as on a full disk
    try:
        with pytest.raises(OSError, match=r"a checkpoint could not be written \(last good one: .*step-000000007.npz\)"):
            fit(small_model(), Checkpoints(tmp_path, every_steps=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.npz")} == saved
    assert not list(tmp_path.glob(".unfinished*"))
    fit(small_model(), Checkpoints(tmp_path, every_steps=2))


def test_a_folder_that_cannot_be_made_is_said_before_training(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=str(tmp_path / "file")):
        Checkpoints(tmp_path / "file" / "run").resume(train_from)


class Send(keras.callbacks.Callback):
    """Sends a signal to this process: in a step, or in validation."""

    def __init__(self, number, checkpoints, step=None, test=None):
        super().__init__()
        self.number, self.checkpoints, self.step, self.test = number, checkpoints, step, test

    def on_train_batch_begin(self, batch, logs=None):
        if self.checkpoints.step == self.step:
            signal.raise_signal(self.number)

    def on_test_begin(self, logs=None):
        if self.checkpoints.epoch == self.test:
            signal.raise_signal(self.number)


@pytest.mark.parametrize("number, error", [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.parametrize("moment, step, done", [(dict(step=5), 6, 2), (dict(test=0), 4, 4)])
def test_signals_save_and_stop(tmp_path, number, error, moment, step, done):
    before = signal.getsignal(number)
    unbroken = small_model()
    fit(unbroken, Checkpoints(tmp_path / "unbroken"))
    checkpoints = Checkpoints(tmp_path / "run")
    with pytest.raises(error) as stopped:
        fit(small_model(), checkpoints, Send(number, checkpoints, **moment))
    assert getattr(stopped.value, "code", 0) == 0
    assert (checkpoints.step, checkpoints.done) == (step, done)
    assert checkpoints.files()[-1].name == f"step-{step:09d}.npz"
    assert signal.getsignal(number) is before
    resumed = small_model()
    fit(resumed, Checkpoints(tmp_path / "run"))
    assert_same(states(resumed), states(unbroken))


def test_after_an_error_signals_act_as_before(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background begins with none
    try:
        with pytest.raises(RuntimeError, match="killed"):
            fit(small_model(), checkpoints, Stop(checkpoints, step=2))
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_fit_outside_the_main_thread(tmp_path):
    thread = threading.Thread(target=lambda: fit(small_model(), Checkpoints(tmp_path)))
    thread.start()
    thread.join()
    assert Checkpoints(tmp_path).files()[-1].name == "step-000000008.npz"


SCRIPT = """
import pathlib, sys, time
sys.path[:0] = sys.argv[2:]
import keras, test_resume
from keras_vit.training import Checkpoints

class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.1)

test_resume.fit(test_resume.small_model(), Checkpoints(sys.argv[1], every_steps=1), Slow())
"""


def test_a_killed_process(tmp_path):
    """SIGKILL, at whatever moment. More stops of one run, by other signals, are in `tests/cli/test_train.py`."""
    unbroken, checkpoints = small_model(), Checkpoints(tmp_path / "unbroken")
    fit(unbroken, checkpoints)
    folder, here = tmp_path / "run", pathlib.Path(__file__).parent
    command = [sys.executable, "-c", SCRIPT, folder, here, here.parent, here.parents[1]]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"})
    while process.poll() is None and not any(path.name >= "step-000000003.npz" for path in Checkpoints(folder).files()):
        time.sleep(0.005)
    process.kill()
    assert process.wait(30) == -signal.SIGKILL, process.stderr.read()
    resumed, again = small_model(), Checkpoints(folder)
    fit(resumed, again)
    assert_same(states(resumed), states(unbroken))
    assert json.dumps(again.history) == json.dumps(checkpoints.history)
