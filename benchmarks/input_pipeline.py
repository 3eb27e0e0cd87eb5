"""Measures the throughput of the input pipeline for each augmentation, and how long a model's `fit` waits for images.

    python benchmarks/input_pipeline.py                        # every policy, from arrays in memory
    python benchmarks/input_pipeline.py --policies light2 deit --jpeg --fit

For each policy, it prints images per second and the CPU time per image over all threads, which other programs affect less: medians over
rounds in which all policies take turns. `--jpeg` reads a folder of JPEG files (500 x 375, 65 kB) instead of an array. It also measures
libjpeg-turbo's decoding of whole images alone, and prints every policy's speed as a share of it. `--fit`
trains a ViT-Ti/16 with each policy, and on one repeated batch. The share of time that it waits for data is measured at the iterator of
`fit`, and the cost from its step time.
"""

import argparse
import pathlib
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

import keras_vit
from keras_vit.data import AUGMENTATIONS, load


def photographs(count, size):
    """Returns images with the spectrum of photographs: noise of all wavelengths."""
    generator, (rows, columns) = np.random.default_rng(0), size
    images = np.zeros((count, rows, columns, 3), "float32")
    for side in (4, 16, 64, 256):
        noise = generator.normal(128.0, 96.0 / side**0.5, (count, side, side, 3)).astype("float32")
        images += tf.image.resize(noise, size, method="bilinear").numpy() / 4.0
    return images.clip(0, 255).astype("uint8")


def jpeg_folder(root, count):
    generator = np.random.default_rng(1)
    for i, image in enumerate(photographs(count, (375, 500))):
        image = (
            (image + generator.normal(0.0, 8.0, (375, 500, 1))).clip(0, 255).astype("uint8")
        )  # grain, for the size of a photograph's file
        path = pathlib.Path(root, f"class{i % 2}", f"{i}.jpg")
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path, quality=90)
    return root


def decoded(path):
    """Returns one number of a decoded image, so that only decoding takes time."""
    return tf.image.decode_jpeg(tf.io.read_file(path), channels=3, dct_method="INTEGER_ACCURATE")[0, 0, 0]


def measure(datasets, batches, batch_size, rounds):
    """Returns, for each name, images per second and milliseconds of CPU time per image: medians of rounds in turns."""
    found = {name: [] for name in datasets}
    for _ in range(rounds):
        for name, dataset in datasets.items():
            iterator, count = iter(dataset), batches * batch_size  # an old iterator would prefetch during the turns of others
            for _ in range(4):
                next(iterator)
            start, processor = time.perf_counter(), time.process_time()
            for _ in range(batches):
                next(iterator)
            found[name].append((count / (time.perf_counter() - start), 1e3 * (time.process_time() - processor) / count))
            del iterator
    return {name: np.median(rows, axis=0) for name, rows in found.items()}


class Timed:
    """Yields the batches of a dataset, and adds up the time spent waiting for them."""

    def __init__(self, dataset):
        self.dataset, self.waited = dataset, 0.0

    def __call__(self):
        iterator = iter(self.dataset)
        while True:
            start = time.perf_counter()
            batch = next(iterator)
            self.waited += time.perf_counter() - start
            yield batch


def share_of_waiting(dataset, steps):
    """Returns the share of time that `fit` of a ViT-Ti/16 waits for data, and milliseconds per step."""
    model = keras_vit.ViTTi16(input_shape=(224, 224, 3), num_classes=2)
    several = dataset.element_spec[1].shape.rank == 2  # the policy mixes labels
    model.compile("adamw", "categorical_crossentropy" if several else "sparse_categorical_crossentropy")
    timed, ends = Timed(dataset), []

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            ends.append((time.perf_counter(), timed.waited))

    model.fit(timed(), steps_per_epoch=steps + 3, epochs=1, verbose=0, callbacks=[Clock()])
    (start, waited), (end, waited_at_end) = ends[2], ends[-1]
    return (waited_at_end - waited) / (end - start), 1e3 * (end - start) / (len(ends) - 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", nargs="+", default=list(AUGMENTATIONS), choices=list(AUGMENTATIONS), metavar="POLICY")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batches", type=int, default=16, help="batches that are timed in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--jpeg", action="store_true")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--steps", type=int, default=20, help="steps of --fit")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as root:
        if arguments.jpeg:
            source = jpeg_folder(root, arguments.images)
        else:
            source = (photographs(arguments.images, (arguments.size, arguments.size)), np.arange(arguments.images) % 2)
        size = arguments.batch_size
        data = {policy: load(source, size, policy, image_size=arguments.size) for policy in arguments.policies}
        pipelines = {policy: found.train_from(0) for policy, found in data.items()}
        if arguments.jpeg:
            paths = tf.data.Dataset.list_files(f"{source}/*/*.jpg", seed=0).repeat()
            pipelines = {"decoding alone": paths.map(decoded, tf.data.AUTOTUNE).batch(size)} | pipelines
        speeds = measure(pipelines, arguments.batches, size, arguments.rounds)
        more = (f"{'of decoding':>13}" if arguments.jpeg else "") + (f"{'waiting %':>11}{'ms/step':>9}" if arguments.fit else "")
        print(f"{'policy':14}{'images/s':>10}{'CPU ms/image':>14}{more}")
        for policy, (speed, processor) in speeds.items():
            line = f"{policy:14}{speed:10.0f}{processor:14.2f}"
            if arguments.jpeg:
                line += f"{speed / speeds['decoding alone'][0]:13.2f}"
            if arguments.fit and policy in data:
                share, step = share_of_waiting(pipelines[policy], arguments.steps)
                line += f"{100 * share:11.2f}{step:9.0f}"
            print(line, flush=True)
        if arguments.fit:
            batch = next(iter(load(source, arguments.batch_size, image_size=arguments.size).train))
            share, step = share_of_waiting(tf.data.Dataset.from_tensors(batch).repeat(), arguments.steps)
            print(f"{'one batch':14}{'':10}{'':14}{100 * share:11.2f}{step:9.0f}")


if __name__ == "__main__":
    main()
