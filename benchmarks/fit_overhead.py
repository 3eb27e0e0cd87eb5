"""Measures the host's share of `fit`, and what a recipe and `Checkpoints` cost, in turns of one epoch, within --seconds.

    python benchmarks/fit_overhead.py                               # ViT-Ti/16 at 96 x 96
    KERAS_BACKEND=jax python benchmarks/fit_overhead.py             # or torch
    python benchmarks/fit_overhead.py --layers 1 --image-size 32    # a tiny model: most of a step is the host's

The first rows are a bare `fit` with Keras's AdamW with weight decay and clipping, on uint8 images as arrays, `tf.data` and a generator. The
others use the recipe "finetune", which also has layer-wise decay. The last two write a checkpoint every --save-every steps and at the end
of the epoch; their time includes writing the last one to disk. "Logs in step" is `Checkpoints` without its attribute `async_safe`, so
that Keras's JAX trainer waits for the logs of every step.

Prints medians over the epochs of the wall time and of the CPU time of all threads. Other work on the machine affects only the wall time.
The time between steps passes from the moment a step has been called until `fit` calls the next one: it is the host's own work and, if a
callback reads a step's loss, the time that JAX or a GPU takes for the step. On TensorFlow and torch on a CPU the call is the step.
"""

import argparse
import os
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import keras_vit
from keras_vit.training import RECIPES, Checkpoints

CLASSES = 10


class InStep(Checkpoints):
    """`Checkpoints` as a callback that Keras's JAX trainer waits for."""

    async_safe = False


ROWS = {  # name: (form of the data, whether the recipe is used, the callback that writes checkpoints)
    "bare, arrays": ("arrays", False, None),
    "bare, tf.data": ("tf.data", False, None),
    "bare, generator": ("generator", False, None),
    "recipe, tf.data": ("tf.data", True, None),
    "recipe, Checkpoints": ("tf.data", True, Checkpoints),
    "recipe, Checkpoints, logs in step": ("tf.data", True, InStep),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViTTi16")
    parser.add_argument("--layers", type=int, help="in place of the model's own")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10, help="steps per epoch")
    parser.add_argument("--save-every", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0, help="no round begins later; there are at least two")
    arguments = parser.parse_args()
    begun = time.perf_counter()

    shape = (arguments.image_size, arguments.image_size, 3)
    layers = {} if arguments.layers is None else {"num_layers": arguments.layers}
    model = getattr(keras_vit, arguments.model)
    bare, ours = (model(num_classes=CLASSES, input_shape=shape, drop_path_rate=0.1, **layers) for _ in range(2))
    bare.compile(keras.optimizers.AdamW(1e-4, weight_decay=0.05, global_clipnorm=1.0), "categorical_crossentropy", metrics=["accuracy"])
    ours = RECIPES["finetune"].build(ours)
    RECIPES["finetune"].compile(ours, arguments.steps)
    count = arguments.steps * arguments.batch_size
    images = np.random.default_rng(0).integers(0, 256, (count, *shape), "uint8")
    labels = np.eye(CLASSES, dtype="float32")[np.arange(count) % CLASSES]
    between = {
        model: times_between_steps(model, (images[: arguments.batch_size], labels[: arguments.batch_size])) for model in (bare, ours)
    }

    def generator():
        while True:
            for i in range(0, count, arguments.batch_size):
                yield images[i : i + arguments.batch_size], labels[i : i + arguments.batch_size]

    def train_from(step):
        return tf.data.Dataset.from_tensor_slices((images, labels)).batch(arguments.batch_size).repeat().prefetch(2)

    def epoch(name, folder):
        """Trains one epoch beyond those in the folder. Returns the wall time, the CPU time and the time between steps, in seconds."""
        form, recipe, callback = ROWS[name]
        model, clock, number = ours if recipe else bare, Clock(), 0
        between[model].clear()
        data = {
            "arrays": lambda: dict(x=images, y=labels, batch_size=arguments.batch_size),
            "tf.data": lambda: dict(x=train_from(0), steps_per_epoch=arguments.steps),
            "generator": lambda: dict(x=generator(), steps_per_epoch=arguments.steps),
        }[form]()
        callbacks = [clock]
        if callback:
            checkpoints = callback(os.path.join(folder, callback.__name__), every_steps=arguments.save_every)
            data["x"], number, callbacks = checkpoints.resume(train_from), checkpoints.epoch, [checkpoints, clock]
        model.fit(**data, initial_epoch=number, epochs=number + 1, verbose=0, shuffle=False, callbacks=callbacks)
        return *(passed / arguments.steps for passed in clock.passed), statistics.median(between[model])

    with tempfile.TemporaryDirectory() as folder:
        found = {name: [] for name in ROWS}
        for name in ROWS:
            epoch(name, folder)
        while len(found["bare, arrays"]) < 2 or time.perf_counter() - begun < arguments.seconds:
            for name in ROWS:
                found[name].append(epoch(name, folder))
    size = f"batch {arguments.batch_size} of {shape[0]} x {shape[1]}"
    print(f"{arguments.model}, {ours.count_params():,} parameters, {keras.backend.backend()}, {size}")
    print(f"A checkpoint every {arguments.save_every} steps; {len(found[name])} epochs of {arguments.steps} steps for each row\n")
    print("| | ms/step | least | processor ms/step | ms between steps | of a step |", "| --- " * 6 + "|", sep="\n")
    for name, runs in found.items():
        wall, processor, host = (1e3 * statistics.median(times) for times in zip(*runs))
        least = 1e3 * min(run[0] for run in runs)
        print(f"| {name} | {wall:.1f} | {least:.1f} | {processor:.1f} | {host:.2f} | {100 * host / wall:.0f} % |")
    print()
    for one, other in (("recipe, tf.data", "bare, tf.data"), ("recipe, Checkpoints", "recipe, tf.data")):
        for number, kind in enumerate(("time", "processor time")):
            costs = sorted(100 * (mine[number] / theirs[number] - 1) for mine, theirs in zip(found[one], found[other]))
            print(f"{kind} of `{one}` over `{other}`: {statistics.median(costs):+.1f} % ({costs[0]:+.1f} to {costs[-1]:+.1f})")


def times_between_steps(model, batch):
    """Traces a compiled model's training step. Returns a list to which each call of it adds the seconds since the call before ended."""
    model.train_on_batch(*batch)
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
