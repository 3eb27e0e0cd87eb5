"""Measures what quantization and token merging cost in accuracy and bring in size and time, and prints Markdown tables.

    apt-get install dataset-fashion-mnist && pip install scikit-learn
    python benchmarks/smaller.py --weights hf://facebook/dinov2-small
    python benchmarks/smaller.py --weights FOLDER --only merging --train 500 --test 500
    python benchmarks/smaller.py --classifier runs/fashion            # a model that was trained on Fashion-MNIST

Features are those that the model's head would read. k-NN (k = 20) and the linear probe are as in `keras-vit evaluate`, fitted to the first
`--train` images of the training set and measured on the first `--test` of the test set, enlarged to `--size` pixels. Time is the CPU time
of an image, over all cores, in a batch of 8: the least of several runs, the models in turns. It is nearly the same on a busy machine.
"""

import argparse
import pathlib
import tempfile
import time

import keras
import numpy as np
from keras import ops

import keras_vit
from keras_vit.data.sources.idx import FOLDER, read_pair
from keras_vit.features import knn_probabilities, probe_probabilities
from keras_vit.quantization import MODES, weight_bytes
from keras_vit.training.weights import open_model

BATCH = 8
DECREASING = "falling"


def images_of(prefix, count, size, channels):
    images, labels = read_pair(FOLDER, prefix)
    images = np.repeat(images[:count, ..., None].astype("float32"), channels, axis=-1)
    if images.shape[1] != size:
        images = np.concatenate([ops.convert_to_numpy(ops.image.resize(images[i : i + 256], (size, size))) for i in range(0, count, 256)])
    return images, labels[:count]


def outputs(model, images):
    return model.predict(images, batch_size=BATCH, verbose=0)


def accuracies(model, train, test):
    """Returns the accuracies of k-NN and of the linear probe, in percent."""
    index, features = outputs(model, train[0]), outputs(model, test[0])
    found = (
        knn_probabilities(index, train[1], features, 10, k=20),
        probe_probabilities(index, train[1], features, 10),
    )
    return [100 * float(np.mean(each.argmax(axis=-1) == test[1])) for each in found]


def cpu_times(models, images, runs=4):
    """Returns the CPU time of an image in ms for each model."""
    best = [np.inf] * len(models)
    for run in range(runs):
        for i, (model, batch) in enumerate(zip(models, images)):
            start = time.process_time()
            model.predict_on_batch(batch[:BATCH])
            if run:  # the first traces
                best[i] = min(best[i], 1e3 * (time.process_time() - start) / BATCH)
    return best


def disk_size(model):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        model.save(path)
        return path.stat().st_size / 1e6


def table(header, rows):
    print("| " + " | ".join(header) + " |")
    print("| --- |" + " ---: |" * (len(header) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
    print(flush=True)


def sizes(model, milliseconds):
    return f"{disk_size(model):.1f}", f"{weight_bytes(model) / 1e6:.1f}", f"{milliseconds:.0f}"


def quantization(args):
    model = open_model(args.weights).adapt(input_shape=(args.size, args.size, 3), include_top=False)
    train, test = (images_of(prefix, count, args.size, 3) for prefix, count in (("train", args.train), ("t10k", args.test)))
    models = {"float32": model, **{mode: keras_vit.quantize(model, mode) for mode in args.modes}}
    times = cpu_times([*models.values()], [test[0]] * len(models))
    rows = []
    for (name, each), milliseconds in zip(models.items(), times):
        knn, probe = accuracies(each, train, test)
        rows.append((name, f"{knn:.1f}", f"{probe:.1f}", *sizes(each, milliseconds)))
    table(("Weights", "k-NN (%)", "Linear probe (%)", "File (MB)", "Weights (MB)", "CPU time of an image (ms)"), rows)


def classifier(args):
    model = open_model(args.classifier)
    test = images_of("t10k", args.test, model.input_shape[1], model.input_shape[-1])
    models = {"float32": model, **{mode: keras_vit.quantize(model, mode) for mode in args.modes}}
    times = cpu_times([*models.values()], [test[0]] * len(models))
    rows = []
    for (name, each), milliseconds in zip(models.items(), times):
        accuracy = 100 * float(np.mean(outputs(each, test[0]).argmax(axis=-1) == test[1]))
        rows.append((name, f"{accuracy:.2f}", f"{disk_size(each):.2f}", f"{weight_bytes(each) / 1e6:.2f}", f"{milliseconds:.2f}"))
    table(("Weights", "Accuracy (%)", "File (MB)", "Weights (MB)", "CPU time of an image (ms)"), rows)


def merging(args):
    base = open_model(args.weights).adapt(input_shape=(args.size, args.size, 3), include_top=False)
    models = {f"{args.size} px": (base, args.size)}
    for r in args.r:
        falling = r.startswith(DECREASING)
        count, blocks = int(r.removeprefix(DECREASING)), base.config.num_layers
        numbers = [round(2 * count * (1 - i / (blocks - 1))) for i in range(blocks)] if falling else count
        models[f"{args.size} px, r = {f'{2 * count} to 0' if falling else count}"] = keras_vit.merge_tokens(base, numbers), args.size
    for size in args.smaller:
        models[f"{size} px"] = base.adapt(input_shape=(size, size, 3)), size
    data = {
        size: [images_of(prefix, count, size, 3) for prefix, count in (("train", args.train), ("t10k", args.test))]
        for size in {size for _, size in models.values()}
    }
    times = cpu_times([model for model, _ in models.values()], [data[size][1][0] for _, size in models.values()])
    rows = []
    for (name, (model, size)), milliseconds in zip(models.items(), times):
        knn, probe = accuracies(model, *data[size])
        macs = keras_vit.cost(model).macs / 1e9
        rows.append((name, f"{macs:.2f}", f"{knn:.1f}", f"{probe:.1f}", f"{milliseconds:.0f}", f"{times[0] / milliseconds:.2f}"))
    table(("Model", "GMACs", "k-NN (%)", "Linear probe (%)", "CPU time of an image (ms)", "Speedup"), rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="what keras_vit.from_pretrained reads")
    parser.add_argument("--classifier", help="a run or a .keras file of a model that was trained on Fashion-MNIST")
    parser.add_argument("--only", choices=("quantization", "merging"))
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--r", nargs="+", default=["4", "8", "12", "16", "20", f"{DECREASING}12"], help="tokens to merge in each block")
    parser.add_argument("--smaller", nargs="+", type=int, default=[196, 168, 140, 112], help="sides of smaller images, in pixels")
    parser.add_argument("--size", type=int, default=224, help="side of the images, in pixels")
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--test", type=int, default=1000)
    args = parser.parse_args()
    if not (args.weights or args.classifier):
        parser.error("give --weights, --classifier, or both")
    print(f"Keras {keras.__version__} on {keras.backend.backend()}; {args.train} training images, {args.test} test images\n", flush=True)
    if args.classifier:
        classifier(args)
    if args.weights and args.only != "merging":
        quantization(args)
    if args.weights and args.only != "quantization":
        merging(args)


if __name__ == "__main__":
    main()
