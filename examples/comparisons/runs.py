"""What the three comparisons share: images, training for a number of steps, and results that are rows of a CSV file."""

import argparse
import csv
import dataclasses
import functools
import pathlib
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf
from keras_vit.data import Augmentation, load
from keras_vit.data.augmentation import affine, cutout, mirror, mixup, pad_and_crop, whole_labels
from keras_vit.data.sources import Split, open_source
from keras_vit.training import AdamW
from keras_vit.training.schedules import cosine

DOCS = pathlib.Path(__file__).parents[2] / "docs" / "comparisons"
BATCH = 64
# The paper's model in small: class token, learned positions, pre-norm, GELU. 49 patches, 9.6 million multiply-adds.
VIT = dict(input_shape=(28, 28, 3), patch_size=4, hidden_dim=64, num_layers=4, num_heads=4, mlp_dim=192, num_classes=10)
CONV_STEM = dict(patch_size=1, stem=dict(kind="conv", filters=(24, 48, 64), strides=(2, 2, 1)))  # 49 tokens, too
AUGMENTATIONS = {
    # The labels become one-hot, as those that MixUp mixes.
    "weak": Augmentation("mirror images, shifts by up to 2 pixels", batch=(mirror(), pad_and_crop(2), whole_labels())),
    "strong": Augmentation(
        "mirror images, rotation, scale, shift and shear, Cutout, MixUp",
        batch=(mirror(), affine(rotation=15.0, scale=0.15, shift=0.1, shear=0.1), cutout(0.35), mixup(0.2)),
    ),
}


def arguments(doc, weights=False):
    """Returns the options of a comparison."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps on scikit-learn's digits, to see that everything runs")
    parser.add_argument("--figure", action="store_true", help="print the table and draw the figure from the CSV file, without training")
    parser.add_argument("--seeds", type=int, default=3, help="seeds from 0; runs that are in the CSV file are not repeated")
    parser.add_argument("--steps", type=int, help="steps of a run, in place of the script's; the files then have names of their own")
    parser.add_argument("--output", type=pathlib.Path, help="folder of the CSV file and the figure; default docs/comparisons")
    if weights:
        parser.add_argument("--weights", help="pretrained model to fine-tune as well, as keras_vit.from_pretrained takes it")
        parser.add_argument("--all-layers", action="store_true", help="fine-tune all layers, not only the last block that is used")
    options = parser.parse_args()
    options.seeds = 1 if options.quick else options.seeds
    options.output = options.output or (pathlib.Path(tempfile.mkdtemp()) if options.quick else DOCS)
    options.output.mkdir(parents=True, exist_ok=True)
    suffix = f"_{options.steps}_steps" if options.steps else ""
    options.file = lambda name, kind="csv": options.output / f"{name}{suffix}.{kind}"
    return options


class Results:
    """Rows of a CSV file. Each is written as soon as it is measured, and a row that is there is not measured again."""

    def __init__(self, path, fields):
        self.path, self.fields, self.rows = path, fields, []
        if path.exists():
            with path.open(newline="") as file:
                self.rows = [{key: number(value) for key, value in row.items()} for row in csv.DictReader(file)]

    def find(self, **where):
        return [row for row in self.rows if all(row.get(key) == value for key, value in where.items())]

    def once(self, measure, **where):
        """Returns the row of these settings. `measure` is called without arguments, if the row is missing, and returns its results."""
        if found := self.find(**where):
            return found[0]
        keras.utils.set_random_seed(where.get("seed", 0))
        self.add(where | measure())
        return self.rows[-1]

    def add(self, row):
        row = {key: round(value, 5) if isinstance(value, float) else value for key, value in (dict.fromkeys(self.fields, "") | row).items()}
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.fields, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        self.rows.append(row)
        print(" ".join(f"{key}={value}" for key, value in row.items() if value != ""), flush=True)


def number(text):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


@functools.cache
def source(quick, side):
    return open_source("digits" if quick else "fashion_mnist", {"image_size": side})


def data(quick, images=None, augmentation="weak", seed=0, side=28):
    """Returns the `keras_vit.data.Data` of so many training images. More than there are take in the validation images."""
    found = source(quick, side)
    train, validation = found.splits["train"], found.splits["validation"]
    if images is not None and images > train.size:

        def read(indices):
            places = tf.minimum(indices, train.size - 1), tf.maximum(indices - train.size, 0)
            pairs = zip(train.read(places[0]), validation.read(places[1]))
            return tuple(tf.where(tf.reshape(indices < train.size, (-1, *(1,) * (one.shape.rank - 1))), one, other) for one, other in pairs)

        found = dataclasses.replace(found, splits=found.splits | {"train": Split(train.size + validation.size, read)})
    loaded = load(found, BATCH, AUGMENTATIONS[augmentation], seed, train_images=images)
    few = {name: batches.take(1) for name, batches in loaded.splits.items()}
    return dataclasses.replace(loaded, splits=few | {"train": loaded.splits["train"]}) if quick else loaded


def repeated(inputs, labels, seed):
    """Returns endless batches of arrays in random order, as `train_from` brings those of images."""
    order = tf.data.Dataset.range(len(inputs)).shuffle(len(inputs), seed).repeat().batch(BATCH)
    inputs, labels = tf.constant(inputs), tf.constant(labels)
    return order.map(lambda chosen: (tf.gather(inputs, chosen), tf.gather(labels, chosen))).prefetch(2)


MODELS = {}


def fresh(form, build):
    """Returns a model of new weights. One of the same form is used again, because to trace it anew would take as long as many steps."""
    new = build()
    model = MODELS.setdefault(str(form), new)
    if model is not new:
        model.set_weights(new.get_weights())
    return model


def train(model, batches, steps, rate, warmup=0.1, layer_decay=None):
    """Trains by AdamW: a linear warm-up over this share of the steps, then a cosine to 0. Returns accuracy and processor time."""
    if model.compiled:
        for variable in model.optimizer.variables:
            variable.assign(keras.ops.zeros_like(variable))
    else:
        optimizer = AdamW(rate, weight_decay=0.05, global_clipnorm=1.0, layer_decay=layer_decay)
        model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    epochs = min(10, steps)
    schedule = cosine(rate, steps // epochs * epochs, round(warmup * steps))

    def set_rate(batch, logs=None):
        model.optimizer.learning_rate = float(schedule(model.optimizer.iterations))

    start, callbacks = time.process_time(), [keras.callbacks.LambdaCallback(on_train_batch_begin=set_rate)]
    history = model.fit(batches, steps_per_epoch=steps // epochs, epochs=epochs, callbacks=callbacks, shuffle=False, verbose=0)
    return {"train": history.history["accuracy"][-1], "seconds": time.process_time() - start}


def accuracy(model, batches):
    """Returns the share of the images that a model, compiled or not, classifies right."""
    return float(np.concatenate([model.predict_on_batch(x).argmax(-1) == y.argmax(-1) for x, y in batches.as_numpy_iterator()]).mean())


def mean_error(values):
    """Returns mean and standard error; of one value the error is None."""
    values = np.array(values)
    return values.mean(), values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else None


def shown(values, factor=100.0, digits=1):
    """Returns mean and standard error of values as text."""
    if not values:
        return ""
    mean, error = mean_error(values)
    return f"{factor * mean:.{digits}f}" + ("" if error is None else f" ± {factor * error:.{digits}f}")


def curve(axes, points, label, **style):
    """Draws means over seeds, with their standard error where there are several. `points` has the values of the seeds by place."""
    found = [(place, *mean_error(values)) for place, values in sorted(points.items())]
    if found:
        errors = [error or 0.0 for *_, error in found]
        axes.errorbar(
            *list(zip(*found))[:2], yerr=errors if any(errors) else None, label=label, marker="o", markersize=3, capsize=3, **style
        )


def save(figure, path):
    """Adds legends and a grid to a figure, leaves out what has no data yet, and writes it."""
    for axes in list(figure.axes):
        if not axes.has_data():
            axes.remove()
        elif axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        axes.grid(alpha=0.3)
        axes.minorticks_off()
    figure.savefig(path, dpi=110, bbox_inches="tight")


def by_place(rows, place, value, factor=1.0):
    """Returns `{place: [values of the seeds]}`, as `curve` takes it."""
    found = {}
    for row in rows:
        found.setdefault(row[place], []).append(factor * row[value])
    return found


def markdown(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
