"""What `Checkpoints` costs: `fit` with it against a bare `fit` of the same model, epoch by epoch in turn.

python benchmarks/fit_overhead.py --model ViTTi16

An epoch with the callback has a checkpoint every --save-every steps and one at its end, which is on the disk before the clock stops.
Prints medians over the epochs, of the time and of the processor time of all threads: other work on the machine spoils the first only.
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

    def epoch(folder=None):
        """Trains an epoch more than the folder holds. Returns (seconds, seconds of processor time) a step."""
        clock, options, number = Clock(), {}, 0
        data = train_from(0)
        if folder:
            checkpoints = Checkpoints(folder, every_steps=arguments.save_every)
            data, number, options = checkpoints.resume(train_from), checkpoints.epoch, dict(callbacks=[checkpoints, clock])
        options = dict(callbacks=[clock]) | options
        model.fit(data, steps_per_epoch=arguments.steps, initial_epoch=number, epochs=number + 1, verbose=0, shuffle=False, **options)
        return [passed / arguments.steps for passed in clock.passed]

    epoch()  # traces
    with tempfile.TemporaryDirectory() as folder:
        epoch(folder)
        pairs = [(epoch(), epoch(folder)) for _ in range(arguments.pairs)]
    print(
        f"{arguments.model}, {model.count_params():,} parameters, batch {arguments.batch_size} of {arguments.image_size} x "
        f"{arguments.image_size}, a checkpoint every {arguments.save_every} steps"
    )
    for number, name in enumerate(("time", "processor time")):
        bare, ours = (statistics.median(run[number] for run in runs) for runs in zip(*pairs))
        costs = [100 * (ours[number] / bare[number] - 1) for bare, ours in pairs]
        low, middle, high = statistics.quantiles(costs, n=4)
        print(f"{name} of a step: {1e3 * bare:.1f} ms bare, {1e3 * ours:.1f} ms ours: {middle:+.1f} % (quartiles {low:+.1f}, {high:+.1f})")


class Clock(keras.callbacks.Callback):
    """Measures an epoch and the end of `fit`, not its beginning, which comes once a run."""

    @staticmethod
    def now():
        return time.perf_counter(), time.process_time()

    def on_epoch_begin(self, epoch, logs=None):
        self.begun = self.now()

    def on_train_end(self, logs=None):
        self.passed = [now - begun for now, begun in zip(self.now(), self.begun)]


if __name__ == "__main__":
    main()
