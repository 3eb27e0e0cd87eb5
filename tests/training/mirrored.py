"""Trains on one device and on several virtual ones, in a process of its own, and prints how far apart they end.

python tests/training/mirrored.py              all of it, but for Keras's faults, and on two devices `ON_FOUR`
python tests/training/mirrored.py VARIANT...   these of `cases.py` on two devices
python tests/training/mirrored.py faults       what Keras itself does with two devices
"""

import contextlib
import faulthandler
import functools
import json
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf
from cases import VARIANTS, apart, build, data, sgd, train

from keras_vit.layers import Dropout
from keras_vit.training import Checkpoints, strategy, virtual_devices
from keras_vit.training.devices.strategy import _mirrored

faulthandler.dump_traceback_later(1200, exit=True)  # rather an error than to wait for ever
virtual_devices("cpu:4")
ONE = strategy("one_device")
TWO = _mirrored(("/cpu:0", "/cpu:1"))  # two strategies in one process
FOUR = strategy("mirrored")
assert FOUR is strategy("mirrored") and (TWO.num_replicas_in_sync, FOUR.num_replicas_in_sync) == (2, 4)
ON_FOUR = ("SGD, global clip, sample weights, a last batch of one image",)  # three of four parts of it are empty
alone = functools.cache(functools.partial(train, ONE))


def equal(several, names):
    """Returns `{name: how far apart}`."""
    return {name: apart(alone(VARIANTS[name][0]), train(several, *VARIANTS[name])) for name in names}


def masks(layer):
    """Returns the dropout of ones on two replicas, by a class of layers."""
    keras.utils.set_random_seed(0)
    with TWO.scope():
        dropout = layer(0.5)
        return [mask.numpy() for mask in TWO.run(lambda: dropout(tf.ones((8, 8)), training=True)).values]


def resumed():
    """How far a run with drop path that was broken in mid-epoch ends from an unbroken one."""
    batches = data(80, 8)

    def run(folder, stop=None):
        with TWO.scope():
            model = build(compiled=dict(steps_per_execution=2), accumulation_steps=2, drop_path_rate=0.5, drop_path_schedule="constant")
            checkpoints = Checkpoints(folder, every_steps=2)

            def stop_at(batch, logs):
                if checkpoints.step == stop:
                    checkpoints._check_writer(wait=True)
                    raise InterruptedError

            stopping = keras.callbacks.LambdaCallback(on_train_batch_end=stop_at)
            endless = checkpoints.resume(lambda step: batches.repeat().skip(step))
            with contextlib.suppress(InterruptedError):
                model.fit(endless, steps_per_epoch=10, epochs=2, verbose=0, shuffle=False, callbacks=[checkpoints, stopping])
            checkpoints._release()
            return [w.numpy() for w in model.weights]

    with tempfile.TemporaryDirectory() as folder:
        run(folder + "/broken", stop=6)
        return apart(run(folder + "/unbroken"), run(folder + "/broken"))


def faults():
    """What Keras itself does with the same architecture: each is the reason for some code of ours."""

    def keras_sgd(**arguments):
        return lambda: keras.optimizers.SGD(0.01, momentum=0.9, **arguments)

    stem = dict(patch_size=1, stem=dict(kind="conv", filters=(8,), strides=(4,)))
    cases = {  # those that fail while they compute come last: what follows in the process may fail with them
        "clip": (dict(optimizer=keras_sgd(global_clipnorm=0.5)), data(16, 8)),
        "ragged last batch": (dict(optimizer=keras_sgd()), data(11, 8)),
        "accumulation": (dict(optimizer=keras_sgd(gradient_accumulation_steps=2)), data(16, 8)),
        "average": (dict(optimizer=keras_sgd(use_ema=True, ema_overwrite_frequency=2)), data(16, 8)),
        "first batch": (dict(optimizer=keras_sgd()), data(21, 7)),
        "empty part": (dict(optimizer=keras_sgd(), **stem), data(9, 8)),
        "jit_compile": (dict(optimizer=keras_sgd(), compiled=dict(jit_compile=True)), data(16, 8)),
        "steps_per_execution": (dict(optimizer=keras_sgd(), compiled=dict(steps_per_execution=4)), data(32, 8)),
    }
    found, plain = {}, tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])  # which sums as on GPUs, unlike `TWO`
    for name, (arguments, batches) in cases.items():
        try:
            results = []
            for where in (plain if name == "steps_per_execution" else TWO, ONE):
                with where.scope():
                    model = build(**arguments, stock=True)
                    model.fit(batches, verbose=0)
                    results.append([w.numpy() for w in model.weights])
            found[name] = apart(*results)
        except Exception as error:
            found[name] = str(error)
    return found


def refused():
    """Returns the messages for models of mixed scopes."""
    messages = []
    outside = build(None)
    with TWO.scope():
        outside.compile(sgd(), "categorical_crossentropy")
    with FOUR.scope():
        other = build()
    for model, where in ((outside, ONE), (other, TWO)):
        try:
            with where.scope():
                model.fit(data(8, 8), verbose=0)
        except ValueError as error:
            messages.append(str(error))
    return messages


def main():
    if sys.argv[1:] == ["faults"]:
        first, second = masks(keras.layers.Dropout)
        print("ANSWER", json.dumps({"masks differ": bool((first != second).any()), **faults()}))
        return
    if names := sys.argv[1:]:
        print("ANSWER", json.dumps({"equal": equal(TWO, names)}))
        return
    ours, again = masks(Dropout), masks(Dropout)
    found = {
        "equal": equal(TWO, [name for name in VARIANTS if name not in ON_FOUR]),
        "equal, four": equal(FOUR, ON_FOUR),
        "resumed": resumed(),
        "masks differ": bool((ours[0] != ours[1]).any()),
        "masks are reproducible": bool(np.array_equal(ours, again)),
        "refused": refused(),
    }
    print("ANSWER", json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
