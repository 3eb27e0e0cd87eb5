"""One of several workers, as TF_CONFIG says: trains, and writes what it ended with.

python tests/training/workers.py FOLDER NAME...   these variants, or bases, of `cases.py`; then on the tar files in FOLDER/<its number>
python tests/training/workers.py faults           what Keras itself does, printed
python tests/training/workers.py stuck            the optimizers differ, which is printed; then the second never comes to the third step
"""

import faulthandler
import json
import sys
import time

import numpy as np

from keras_vit.training import strategy

faulthandler.dump_traceback_later(1200, exit=True)  # rather an error than to wait for ever
ALL = strategy(wait_seconds=20 if "stuck" in sys.argv else 600)  # first of all: TensorFlow asks for that

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
from cases import VARIANTS, build, data, train  # noqa: E402
from keras.src.backend.tensorflow import trainer  # noqa: E402
from worker_files import train_on_files  # noqa: E402

from keras_vit.runtime import processes  # noqa: E402


def write(folder, names):
    arrays = {}
    for name in names:
        print(name, file=sys.stderr, flush=True)  # which it was, should it not end
        base, changes = VARIANTS.get(name, (name, {}))
        arrays |= {f"{name}/{number:03d}": array for number, array in enumerate(train(ALL, base, changes))}
    index, _ = processes()
    np.savez(f"{folder}/{index}.npz", **arrays)
    print("tar files", file=sys.stderr, flush=True)
    print("ANSWER", json.dumps(train_on_files(f"{folder}/{index}", ALL)))


def faults():
    """What the two methods of Keras's trainer do with several workers that `keras_vit/runtime/distributed.py` replaces."""
    with ALL.scope():
        model = build(keras.optimizers.SGD, stock=True)
        value = ALL.run(lambda: tf.constant(1.0))
    return {
        "_maybe_symbolic_build": message(lambda: model.fit(data(16, 8), verbose=0)),
        "reduce_per_replica": message(lambda: trainer.reduce_per_replica({"loss": value}, ALL, "auto")),
    }


def stuck():
    def stop(batch, logs):
        if batch == 1 and processes()[0] == 1:
            time.sleep(10_000)

    with ALL.scope():
        unlike = build(lambda: keras.optimizers.SGD(clipnorm=1 + processes()[0]))
        try:
            unlike.fit(data(80, 8), verbose=0)
        except ValueError as error:
            print(error, file=sys.stderr, flush=True)
        build().fit(data(80, 8), verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=stop)])


def message(call):
    try:
        call()
    except (ValueError, TypeError, RuntimeError, tf.errors.OpError) as error:
        return str(error)[-300:]


if __name__ == "__main__":
    if sys.argv[1:] == ["faults"]:
        print("ANSWER", json.dumps(faults()))
    elif sys.argv[1:] == ["stuck"]:
        stuck()
    else:
        write(sys.argv[1], sys.argv[2:])
