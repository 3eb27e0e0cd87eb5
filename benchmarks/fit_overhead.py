"""Measures the cost of a recipe and `Checkpoints`: compares `fit` with them and a bare `fit` of the same model, in turns of one epoch.

python benchmarks/fit_overhead.py --model ViTTi16
KERAS_BACKEND=jax python benchmarks/fit_overhead.py --model ViTTi16

The bare `fit` uses Keras's AdamW with weight decay and clipping. Ours uses the recipe "finetune", which also has layer-wise decay, and
writes a checkpoint every --save-every steps and at the end of the epoch. The time includes writing the last checkpoint to disk.
Prints medians over the epochs of the wall time and of the CPU time of all threads. Other work on the machine affects only the wall time.
The time between steps passes from the moment a step is started, or on TensorFlow has run, until `fit` starts the next one. It is the
host's own work and, if a callback reads a step's loss, the time that JAX or a GPU takes for the step.
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
from keras_vit.training import RECIPES, Checkpoints


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViTTi16")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50, help="steps per epoch")
    parser.add_argument("--save-every", type=int, default=25)
    parser.add_argument("--pairs", type=int, default=8, help="epochs of each kind")
    arguments = parser.parse_args()

    shape = (arguments.image_size, arguments.image_size, 3)
    bare, ours = (getattr(keras_vit, arguments.model)(num_classes=10, input_shape=shape, drop_path_rate=0.1) for _ in range(2))
    bare.compile(keras.optimizers.AdamW(1e-4, weight_decay=0.05, global_clipnorm=1.0), "categorical_crossentropy", metrics=["accuracy"])
    ours = RECIPES["finetune"].build(ours)
    RECIPES["finetune"].compile(ours, arguments.steps)
    batch = tf.zeros((arguments.batch_size, *shape)), tf.one_hot(tf.zeros((arguments.batch_size,), "int32"), 10)

    between = {model: times_between_steps(model, batch) for model in (bare, ours)}

    def train_from(step):
        return tf.data.Dataset.from_tensors(batch).repeat()

    def epoch(folder=None):
        """Trains one epoch beyond those in the folder. Returns the wall time and the CPU time of a step, in seconds."""
        clock, options, number = Clock(), {}, 0
        data, model = train_from(0), ours if folder else bare
        if folder:
            checkpoints = Checkpoints(folder, every_steps=arguments.save_every)
            data, number, options = checkpoints.resume(train_from), checkpoints.epoch, dict(callbacks=[checkpoints, clock])
        options = dict(callbacks=[clock]) | options
        model.fit(data, steps_per_epoch=arguments.steps, initial_epoch=number, epochs=number + 1, verbose=0, shuffle=False, **options)
        return [passed / arguments.steps for passed in clock.passed]

    epoch()
    with tempfile.TemporaryDirectory() as folder:
        epoch(folder)
        for times in between.values():
            times.clear()
        pairs = [(epoch(), epoch(folder)) for _ in range(arguments.pairs)]
    print(
        f"{arguments.model}, {ours.count_params():,} parameters, batch {arguments.batch_size} of {arguments.image_size} x "
        f"{arguments.image_size}, a checkpoint every {arguments.save_every} steps"
    )
    for number, name in enumerate(("time", "processor time")):
        medians = [1e3 * statistics.median(run[number] for run in runs) for runs in zip(*pairs)]
        costs = [100 * (one[number] / other[number] - 1) for other, one in pairs]
        low, middle, high = statistics.quantiles(costs, n=4)
        print(f"{name} of a step: {medians[0]:.1f} ms bare, {medians[1]:.1f} ms ours: {middle:+.1f} % (quartiles {low:+.1f}, {high:+.1f})")
    print("time between steps: {:.2f} ms bare, {:.2f} ms ours".format(*(1e3 * statistics.median(times) for times in between.values())))


def times_between_steps(model, batch):
    """Traces a compiled model's training step. Returns a list to which each call of it adds the seconds since the call before ended."""
    model.train_on_batch(*(part.numpy() for part in batch))  # JAX takes no tensors of TensorFlow
    model.make_train_function()
    function, times, ended = model.train_function, [], []

    def timed(*arguments):
        if ended:
            times.append(time.perf_counter() - ended.pop())
        results = function(*arguments)
        ended.append(time.perf_counter())
        return results

    model.train_function = timed
    return times


class Clock(keras.callbacks.Callback):
    """Measures an epoch and the end of `fit`, but not its start, which happens once per run."""

    @staticmethod
    def now():
        return time.perf_counter(), time.process_time()

    def on_epoch_begin(self, epoch, logs=None):
        self.begun = self.now()

    def on_train_end(self, logs=None):
        self.passed = [now - begun for now, begun in zip(self.now(), self.begun)]


if __name__ == "__main__":
    main()
