"""Kills training runs at random moments, restarts them until they finish, and compares them with uninterrupted runs.

python benchmarks/kill.py --kills 60

Every run is a process that trains, validates and saves its model, with a checkpoint every few steps. It gets SIGKILL at a random moment of
the whole run or of a save, a validation or an export, and is started again until it finishes. The weights, the optimizer, the history and
the saved model's weights must have the sha256 of the uninterrupted run. Exits with 1 if any differs.
"""

import argparse
import collections
import hashlib
import json
import math
import os
import pathlib
import random
import signal
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import tensorflow as tf

import keras_vit
from keras_vit.training import Checkpoints, replacing
from keras_vit.training.resume import run_variables

STEPS, EPOCHS, SIDE = 12, 3, 8
CONFIGURATIONS = {  # name: options of the model, of the optimizer, of `compile`, and the dtype policy
    "plain": ({}, {}, {}, "float32"),
    "dropout, drop path, EMA": (dict(dropout_rate=0.2, drop_path_rate=0.3), dict(use_ema=True), {}, "float32"),
    "steps_per_execution=4": (dict(dropout_rate=0.1), {}, dict(steps_per_execution=4), "float32"),
    "mixed_bfloat16": (dict(dropout_rate=0.1), {}, {}, "mixed_bfloat16"),
    "gradient accumulation": (dict(drop_path_rate=0.2), dict(gradient_accumulation_steps=5), {}, "float32"),
}
PHASES = ("start", "step", "save", "validation", "export")


def train_from(step):
    def batch(step):
        images = tf.random.stateless_uniform((8, SIDE, SIDE, 3), (1, step), 0, 255)
        return images, tf.one_hot(tf.cast(tf.reduce_sum(images), tf.int64) % 4 + tf.range(8, dtype=tf.int64) % 2, 5)

    return tf.data.Dataset.counter(step).map(batch).prefetch(2)


class Slow(keras.callbacks.Callback):
    """Slows the phases of a tiny run down to the proportions of a large one, and names them for the table."""

    def __init__(self, phase, seconds):
        super().__init__()
        self.phase, self.seconds = phase, seconds

    def on_train_batch_begin(self, batch, logs=None):
        self.phase("step")
        time.sleep(self.seconds)

    def on_test_batch_begin(self, batch, logs=None):
        self.phase("validation")
        time.sleep(self.seconds)


class SlowCheckpoints(Checkpoints):
    def _write(self, *snapshot):
        self.phase("save", 16)  # at the same time as a phase of `fit`
        super()._write(*snapshot)
        self.phase("", 16)


def train(configuration, folder, seconds):
    """Starts or resumes a run, and trains it to its end."""
    phases = os.open(folder / "phase", os.O_WRONLY | os.O_CREAT)

    def phase(name, place=0):
        os.pwrite(phases, name.ljust(16).encode(), place)

    model_options, optimizer_options, compile_options, policy = CONFIGURATIONS[configuration]
    phase("start")
    phase("", 16)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    model = keras_vit.VisionTransformer((SIDE, SIDE, 3), 4, 16, 1, 2, 32, 5, **model_options)
    schedule = keras.optimizers.schedules.CosineDecay(0.01, STEPS * EPOCHS)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.1, **optimizer_options)
    model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"], **compile_options)
    validation = train_from(10**6).take(4)
    checkpoints = SlowCheckpoints(folder / "checkpoints", every_steps=5)
    checkpoints.phase = phase
    history = model.fit(
        checkpoints.resume(train_from),
        steps_per_epoch=STEPS,
        epochs=EPOCHS,
        validation_data=validation,
        callbacks=[Slow(phase, seconds), checkpoints],
        shuffle=False,
        verbose=0,
    )
    phase("export")
    for _ in range(max(1, round(seconds * 400))):
        with replacing(folder / "model.keras") as temporary:
            model.save(temporary)
    saved = keras.saving.load_model(folder / "model.keras")
    digests = {
        "weights": digest(run_variables(model, "model").values()),
        "optimizer": digest(run_variables(model, "optimizer").values()),
        "history": hashlib.sha256(json.dumps([history.epoch, history.history, checkpoints.history]).encode()).hexdigest(),
        "saved model": digest(saved.weights),
    }
    with replacing(folder / "digests.json") as temporary:
        temporary.write_text(json.dumps(digests))


def digest(variables):
    whole = hashlib.sha256()
    for variable in variables:
        whole.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
    return whole.hexdigest()


def start(configuration, folder, seconds):
    """Forks this process, which has imported TensorFlow but not used it yet. An import at each start would take longer than a run."""
    folder.mkdir(exist_ok=True)
    (folder / "phase").unlink(missing_ok=True)
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        nowhere = os.open(folder / "errors.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(nowhere, 2)
        train(configuration, folder, seconds)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def wait(child, folder, deadline=math.inf, aim=None, delay=0.0):
    """Waits for a run to end, or kills it at a deadline or some time after a phase has begun.

    Returns:
        The phase in which it was killed, or None if it ended by itself.
    """
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if status:
                sys.exit(f"A run failed:\n{(folder / 'errors.txt').read_text()}")
            return None
        if aim and aim in phases_of(folder):
            deadline, aim = time.monotonic() + delay, None
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return phases_of(folder)[-1]


def phases_of(folder):
    """Returns the current phases of a run: one of `fit`, and "save" while a checkpoint is written."""
    return (folder / "phase").read_text().split() if (folder / "phase").exists() else ["start"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="minimum number of kills in total")
    parser.add_argument("--configurations", nargs="+", choices=CONFIGURATIONS, default=list(CONFIGURATIONS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step-seconds", type=float, default=0.05, help="length of a step")
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    rows, different = [], 0
    with tempfile.TemporaryDirectory() as root:
        expected, seconds = {}, {}
        for name in arguments.configurations:
            folder = pathlib.Path(root, f"unbroken {name}")
            begun = time.monotonic()
            wait(start(name, folder, arguments.step_seconds), folder)
            seconds[name] = time.monotonic() - begun
            expected[name] = json.loads((folder / "digests.json").read_text())
        share = -(-arguments.kills // len(arguments.configurations))
        for name in arguments.configurations:
            moments, starts, runs, bad = collections.Counter(), 0, 0, set()
            while moments.total() < share:
                folder = pathlib.Path(root, f"{runs} {name}")
                runs += 1
                while True:
                    starts += 1
                    child = start(name, folder, arguments.step_seconds)
                    if moments.total() >= share:  # the configuration has had its share of kills: let the run end
                        moment = wait(child, folder)
                    elif rng.random() < 0.5:
                        moment = wait(child, folder, time.monotonic() + rng.uniform(0.0, seconds[name]))
                    else:  # a save or a validation is too short to be hit by chance
                        moment = wait(child, folder, aim=rng.choice(PHASES[2:]), delay=rng.uniform(0.0, 0.005))
                    if moment is None:
                        break
                    moments[moment] += 1
                found = json.loads((folder / "digests.json").read_text())
                bad |= {part for part in found if found[part] != expected[name][part]}
            different += len(bad)
            rows.append((name, runs, starts, moments.total(), *(moments[p] for p in PHASES), ", ".join(sorted(bad)) or "identical"))
            print(f"{name}: {rows[-1][3]} kills, {rows[-1][-1]}", file=sys.stderr, flush=True)
    header = ("configuration", "runs", "starts", "kills", *PHASES, "weights, optimizer, history, saved model")
    total = (
        "all",
        *(sum(row[i] for row in rows) for i in range(1, 4 + len(PHASES))),
        f"{different} different" if different else "identical",
    )
    print("", *(" | ".join(map(str, row)) for row in (header, ["---"] * len(header), *rows, total)), sep="\n")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
