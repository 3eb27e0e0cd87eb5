"""What `Checkpoints` costs: `fit` with it against a bare `fit` of the same model, epoch by epoch in turn.

python benchmarks/fit_overhead.py --model ViTTi16

Prints the median over the epochs of the time of a step, and the cost in percent as the median over neighbouring pairs: other work on the
machine then hits both. An epoch with the callback has a checkpoint every --save-every steps and one at its end.
"""

import argparse
import os
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf

import keras_vit
from keras_vit.training import Checkpoints


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViTTi16")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50, help="steps of an epoch")
    parser.add_argument("--save-every", type=int, default=25)
    parser.add_argument("--pairs", type=int, default=8, help="epochs of each kind")
    arguments = parser.parse_args()

    shape = (arguments.image_size, arguments.image_size, 3)
    model = getattr(keras_vit, arguments.model)(num_classes=10, input_shape=shape, drop_path_rate=0.1)
    model.compile(keras.optimizers.AdamW(1e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
    batch = tf.zeros((arguments.batch_size, *shape)), tf.zeros((arguments.batch_size,))

    def train_from(step):
        return tf.data.Dataset.from_tensors(batch).repeat()

    def seconds(folder=None):
        checkpoints = Checkpoints(folder, every_steps=arguments.save_every) if folder else None
        data = checkpoints.resume(train_from) if folder else train_from(0)
        begun = time.perf_counter()
        # One epoch more than the folder holds; the callback restores it first, and ends with the files on the disk.
        epoch = checkpoints.epoch if folder else 0
        options = dict(callbacks=[checkpoints]) if folder else {}
        model.fit(data, steps_per_epoch=arguments.steps, initial_epoch=epoch, epochs=epoch + 1, verbose=0, shuffle=False, **options)
        return (time.perf_counter() - begun) / arguments.steps

    seconds()  # traces
    with tempfile.TemporaryDirectory() as folder:
        seconds(folder)
        pairs = [(seconds(), seconds(folder)) for _ in range(arguments.pairs)]
    bare, ours = (statistics.median(times) for times in zip(*pairs))
    cost = statistics.median(b / a - 1 for a, b in pairs)
    spread = statistics.quantiles([b / a - 1 for a, b in pairs], n=4)
    print(
        f"{arguments.model}, {model.count_params():,} parameters, batch {arguments.batch_size} of {arguments.image_size} x "
        f"{arguments.image_size}: a step takes {1e3 * bare:.1f} ms bare, {1e3 * ours:.1f} ms with a checkpoint every "
        f"{arguments.save_every} steps: {100 * cost:+.1f} % (quartiles {100 * spread[0]:+.1f} to {100 * spread[2]:+.1f} %)"
    )


if __name__ == "__main__":
    main()
