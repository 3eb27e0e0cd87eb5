"""Measures what quantization and token merging cost in accuracy and bring in size, memory and time, and prints Markdown tables.

    apt-get install dataset-fashion-mnist && pip install "keras-vit-zoo[features,export,openvino-int8,litert]"
    python benchmarks/smaller.py --weights hf://facebook/dinov2-small
    python benchmarks/smaller.py --weights FOLDER --only merging --size 224 --train 500 --test 500
    python benchmarks/smaller.py --classifier runs/fashion            # a model that was trained on Fashion-MNIST
    python benchmarks/smaller.py --weights FOLDER --no-accuracy       # sizes and times alone: a few minutes

Features are those that the model's head would read. k-NN (k = 20) and the linear probe are as in `keras-vit evaluate`, fitted to the first
`--train` images of the training set and measured on the first `--test` of the test set, enlarged to `--size` pixels; each row computes
both with its own features. The calibration images of OpenVINO's int8 are training images.

Memory is the most that a new process takes, which opens the file and computes a batch of 8 images: the outputs there must be those of
here. Time is that of an image in a batch of 8: the shortest of `--turns` runs, the models in turns.
"""

import argparse
import importlib.util
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

import keras_vit
from keras_vit.data.sources.idx import FOLDER, read_pair
from keras_vit.export import export_model, predict_exported
from keras_vit.features import knn_probabilities, probe_probabilities
from keras_vit.quantization import MODES
from keras_vit.training.weights import open_model

BATCH = 8
CALIBRATION = 64  # images
FORMATS = {"onnx": "onnxruntime", "openvino": "OpenVINO", "litert": "LiteRT"}
PACKAGES = {"onnx": "tf2onnx", "openvino": "nncf", "litert": "ai_edge_litert"}
PRECISIONS = ("float32", "half", "int8")
DECREASING = "falling"
# What a user's process does: with a file of Keras it imports this package, with an exported folder only the runtime.
NEW_PROCESS = """
import pathlib, re, sys
import numpy
path, images, outputs = sys.argv[1:]
images = numpy.load(images)
if path.endswith(".keras"):
    import keras_vit, keras
    found = keras.ops.convert_to_numpy(keras.ops.cast(keras.saving.load_model(path).predict_on_batch(images), "float32"))
else:
    sys.path.insert(0, path)
    import predict_exported
    found = predict_exported.load(path)[0](images)
numpy.save(outputs, found)
print(int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1]) * 1024 / 1e6)
"""


class Variant(NamedTuple):
    """`runtime` and `weights` name it; `run`: function from images to outputs; `path`: the file or folder, of `size` bytes."""

    runtime: str
    weights: str
    run: Callable
    path: pathlib.Path
    size: int


def images_of(prefix, count, size, channels):
    images, labels = read_pair(FOLDER, prefix)
    images = np.repeat(images[:count, ..., None].astype("float32"), channels, axis=-1)
    if images.shape[1] != size:
        images = np.concatenate([ops.convert_to_numpy(ops.image.resize(images[i : i + 256], (size, size))) for i in range(0, count, 256)])
    return images, labels[:count]


def both(args, size, channels=3):
    return [images_of(prefix, count, size, channels) for prefix, count in (("train", args.train), ("t10k", args.test))]


def keras_run(model):
    return lambda images: np.asarray(ops.convert_to_numpy(model.predict_on_batch(images)), "float32")


def variants(model, args, images, folder):
    """Returns the model in every kind of weights: in Keras by `quantize`, in other runtimes by `export_model`."""
    found = []
    for mode in ("float32", *args.modes):
        each, path = model if mode == "float32" else keras_vit.quantize(model, mode), folder / f"{mode}.keras"
        each.save(path)
        found.append(Variant(f"Keras on {keras.backend.backend()}", mode, keras_run(each), path, path.stat().st_size))
    for format in args.formats:
        for precision in PRECISIONS:
            path = folder / f"{format}-{precision}"
            size = export_model(model, path, format, precision, images=images).size
            found.append(Variant(FORMATS[format], precision, predict_exported.load(path)[0], path, size))
    return found


def outputs(run, images):
    return np.concatenate([run(images[i : i + BATCH]) for i in range(0, len(images), BATCH)])


def transfer(run, train, test):
    """Returns the accuracies of k-NN and of the linear probe, in percent."""
    index, features = outputs(run, train[0]), outputs(run, test[0])
    found = (
        knn_probabilities(index, train[1], features, 10, k=20),
        probe_probabilities(index, train[1], features, 10),
    )
    return [100 * float(np.mean(each.argmax(axis=-1) == test[1])) for each in found]


def accuracy(run, train, test):
    """Returns the accuracy of a classifier, in percent."""
    return [100 * float(np.mean(outputs(run, test[0]).argmax(axis=-1) == test[1]))]


def times_in_turns(runs, batches, turns):
    """Returns the time of an image in ms for each function."""
    best = [np.inf] * len(runs)
    for turn in range(turns + 1):
        for i, (run, batch) in enumerate(zip(runs, batches)):
            start = time.perf_counter()
            run(batch[:BATCH])
            if turn:  # the first traces and compiles
                best[i] = min(best[i], 1e3 * (time.perf_counter() - start) / BATCH)
    return best


def memory(variant, images, folder):
    """Returns the MB that a new process takes; its outputs must be those of this one."""
    given, found = folder / "images.npy", folder / "outputs.npy"
    np.save(given, images)
    command = [sys.executable, "-c", NEW_PROCESS, *map(str, (variant.path, given, found))]
    megabytes = float(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.split()[-1])
    expected, got = variant.run(images), np.load(found)
    difference = np.abs(got - expected).max() / np.abs(expected).max()
    if not difference < (1e-3 if variant.weights == "float32" else 2e-2):  # half precision rounds differently from trace to trace
        raise RuntimeError(f"{variant.path.name} computes something else in a new process: {difference:.1e} of the largest output")
    return megabytes


def table(header, rows):
    print("| " + " | ".join(header) + " |")
    print("| --- |" + " ---: |" * (len(header) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
    print(flush=True)


def quantization(model, args, titles, score, digits):
    """Prints the table of `model`; `titles` name what `score` returns."""
    train, test = both(args, model.input_shape[1], model.input_shape[-1])
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        found = variants(model, args, train[0][:CALIBRATION], folder)
        times = times_in_turns([each.run for each in found], [test[0]] * len(found), args.turns)
        rows = []
        for each, milliseconds in zip(found, times):
            scores = [] if args.no_accuracy else [f"{value:.{digits}f}" for value in score(each.run, train, test)]
            size, most = f"{each.size / 1e6:.1f}", f"{memory(each, test[0][:BATCH], folder):.0f}"
            rows.append((each.runtime, each.weights, *scores, size, most, f"{milliseconds:.3g}", f"{times[0] / milliseconds:.2f}"))
            print(*rows[-1], file=sys.stderr, flush=True)
    titles = [] if args.no_accuracy else titles
    table(("Runtime", "Weights", *titles, "File (MB)", "Memory (MB)", "Time of an image (ms)", "Speed"), rows)


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
    data = {size: both(args, size) for size in {size for _, size in models.values()}}
    runs, sizes = [keras_run(model) for model, _ in models.values()], [size for _, size in models.values()]
    times = times_in_turns(runs, [data[size][1][0] for size in sizes], args.turns)
    rows = []
    for (name, (model, size)), run, milliseconds in zip(models.items(), runs, times):
        scores = [] if args.no_accuracy else [f"{value:.1f}" for value in transfer(run, *data[size])]
        rows.append((name, f"{keras_vit.cost(model).macs / 1e9:.2f}", *scores, f"{milliseconds:.3g}", f"{times[0] / milliseconds:.2f}"))
        print(*rows[-1], file=sys.stderr, flush=True)
    titles = [] if args.no_accuracy else ["k-NN (%)", "Linear probe (%)"]
    table(("Model", "GMACs", *titles, "Time of an image (ms)", "Speed"), rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="what keras_vit.from_pretrained reads")
    parser.add_argument("--classifier", help="a run or a .keras file of a model that was trained on Fashion-MNIST")
    parser.add_argument("--only", choices=("quantization", "merging"))
    parser.add_argument("--no-accuracy", action="store_true", help="sizes and times alone")
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=list(MODES))
    installed = [format for format in FORMATS if importlib.util.find_spec(PACKAGES[format])]
    parser.add_argument("--formats", nargs="*", default=installed, choices=list(FORMATS), help="default: those installed")
    parser.add_argument("--r", nargs="+", default=["4", "8", "12", "16", "20", f"{DECREASING}12"], help="tokens to merge in each block")
    parser.add_argument("--smaller", nargs="+", type=int, default=[196, 168, 140, 112], help="sides of smaller images, in pixels")
    parser.add_argument("--size", type=int, default=224, help="side of the images, in pixels")
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=8)
    args = parser.parse_args()
    if not (args.weights or args.classifier):
        parser.error("give --weights, --classifier, or both")
    if args.no_accuracy:
        args.train, args.test = CALIBRATION, BATCH
    print(
        f"Keras {keras.__version__} on {keras.backend.backend()}; {args.train} training images, {args.test} test images, {args.size} px\n",
        flush=True,
    )
    if args.classifier:
        quantization(open_model(args.classifier).adapt(dtype="float32"), args, ["Accuracy (%)"], accuracy, 2)
    if args.weights and args.only != "merging":
        model = open_model(args.weights).adapt(input_shape=(args.size, args.size, 3), include_top=False)
        quantization(model, args, ["k-NN (%)", "Linear probe (%)"], transfer, 1)
    if args.weights and args.only != "quantization":
        merging(args)


if __name__ == "__main__":
    main()
