"""Compares ways to use pretrained weights on the same numbers of training images of Fashion-MNIST, and prints Markdown tables.

    apt-get install dataset-fashion-mnist && pip install scikit-learn matplotlib
    python benchmarks/transfer.py --weights hf://facebook/dinov2-small                       # about an hour and a half on two cores
    python benchmarks/transfer.py --weights FOLDER --images 100 --methods pixels linear knn  # some minutes
    python benchmarks/transfer.py --weights FOLDER --json transfer.json --plot transfer.png

    pixels         logistic regression on the pixels
    linear         logistic regression on the class token and the mean of the patch tokens of a block, for every block
    knn            nearest neighbors by cosine similarity, on the features of the best block
    finetune       the recipe "finetune": all weights, AdamW, layer-wise learning-rate decay
    finetune_flat  the same without layer-wise decay
    head_then_all  the recipe "head_then_all": first the head only
    lora           the recipe "lora"
    scratch        the same architecture from random weights, for the same number of steps
    micro          ViTMicro4 from random weights at 28 px, until it converges

The block, the regularization, the number of neighbors and the values of the recipes are chosen on validation images. With `--json`, each
result is written at once, and existing results are not computed again, so that the same command resumes. `--set` changes
values of the recipe: `--set learning_rate=1e-3 epochs=5`.
"""

import argparse
import ast
import dataclasses
import json
import pathlib
import time

import keras
import numpy as np
from keras import ops

import keras_vit
from keras_vit.data import load
from keras_vit.training import RECIPES

METHODS = {
    "pixels": "logistic regression on pixels",
    "linear": "linear probe, best block",
    "knn": "k-NN, same block",
    "finetune": "fine-tuning",
    "finetune_flat": "fine-tuning, no layer decay",
    "head_then_all": "the head, then fine-tuning",
    "lora": "LoRA",
    "scratch": "same model from scratch",
    "micro": "ViTMicro4 from scratch",
}
ONCE = {"finetune_flat": 1000, "lora": 1000}  # methods that are only measured at this number of images
EVALUATION_BATCH = 100
LEAST_STEPS = 150  # minimum for few images: the recipes' epochs are meant for thousands of images


def recipes(method, images, changes):
    """Returns the recipe of a method that trains a model."""
    if method == "micro":
        recipe = dataclasses.replace(RECIPES["small_data"], augmentation="flip", epochs=round(20 * (10_000 / images) ** 0.6))
    else:
        recipe = RECIPES[method if method in RECIPES else "finetune"]
        epochs = max(3 if images >= 10_000 else recipe.epochs, round(LEAST_STEPS / max(1, images // recipe.batch_size)))
        # Only flips: the images are centered, and in so few steps crops cost more than they help.
        recipe = dataclasses.replace(recipe, epochs=epochs, head_epochs=epochs // 2 if recipe.head_epochs else 0, augmentation="flip")
        if method in ("finetune_flat", "scratch"):
            recipe = dataclasses.replace(recipe, layer_decay=None)
    return dataclasses.replace(recipe, **changes)


class Benchmark:
    """The state that all methods share: options, model, features that are computed once, and the results so far."""

    def __init__(self, options):
        self.options, self.results, self.store = options, [], {}
        if options.json and options.json.exists():
            self.results = json.loads(options.json.read_text())

    def found(self, method, images):
        return next((row for row in self.results if (row["method"], row["images"]) == (method, images)), None)

    def run(self):
        for images in self.options.images:
            for method in self.options.methods:
                if self.found(method, images) is None and ONCE.get(method, images) == images:
                    keras.utils.set_random_seed(self.options.seed)
                    start, clock = time.process_time(), time.perf_counter()
                    compute = getattr(self, method, None) or (lambda images, method=method: self.train(method, images))
                    row = {"method": method, "images": images, **compute(images)}
                    row |= {"cpu_minutes": (time.process_time() - start) / 60, "minutes": (time.perf_counter() - clock) / 60}
                    self.results.append(row)
                    if self.options.json:
                        self.options.json.write_text(json.dumps(self.results, indent=1) + "\n")
                    print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
                    keras.backend.clear_session()

    def part(self, side, part):
        """Returns the batches of "train", for the largest number of images, "validation" or "test"."""
        counts = {"train": max(self.options.images), "validation": self.options.validation_images, "test": self.options.test_images}
        return load("fashion_mnist", EVALUATION_BATCH, image_size=side).splits[part].take(counts[part] // EVALUATION_BATCH)

    def pixel_values(self):
        """Returns {part: (pixels, labels)}."""
        if "pixels" not in self.store:
            parts = {part: list(self.part(28, part).as_numpy_iterator()) for part in ("train", "validation", "test")}
            self.store["pixels"] = {
                part: (np.concatenate([x[..., 0].reshape(len(x), -1) for x, _ in batches]), labels_of(batches))
                for part, batches in parts.items()
            }
        return self.store["pixels"]

    def features(self):
        """Returns {part: (features of shape (blocks, images, 2 D), labels)}."""
        if "features" not in self.store:
            extractor = feature_extractor(self.pretrained(include_top=False))
            self.store["features"] = {}
            for part in ("train", "validation", "test"):
                batches = self.part(self.options.side, part)
                found = [extractor.predict_on_batch(x).astype("float16") for x, _ in batches.as_numpy_iterator()]
                self.store["features"][part] = np.concatenate(found, axis=1), labels_of(batches.as_numpy_iterator())
        return self.store["features"]

    def pretrained(self, **arguments):
        side = self.options.side
        return keras_vit.from_pretrained(self.options.weights, input_shape=(side, side, 3), dtype=self.options.dtype, **arguments)

    def pixels(self, images):
        return logistic_regression(first(self.pixel_values(), images))

    def linear(self, images):
        features = self.features()
        blocks = [
            logistic_regression(first({part: (x[block], labels) for part, (x, labels) in features.items()}, images))
            for block in range(len(features["train"][0]))
        ]
        best = max(range(len(blocks)), key=lambda block: blocks[block]["validation"])
        return {**blocks[best], "block": best, "blocks": blocks}

    def knn(self, images):
        block = (self.found("linear", images) or self.linear(images))["block"]
        data = first({part: (unit(x[block].astype("float32")), labels) for part, (x, labels) in self.features().items()}, images)
        scores = {k: neighbors(data, k, "validation") for k in (1, 3, 5, 10, 20)}
        k = max(scores, key=scores.get)
        return {"validation": scores[k], "test": neighbors(data, k, "test"), "block": block, "k": k}

    def train(self, method, images):
        recipe = recipes(method, images, self.options.set)
        side = 28 if method == "micro" else self.options.side
        data = load("fashion_mnist", recipe.batch_size, recipe.augmentation, self.options.seed, image_size=side, train_images=images)
        arguments = dict(num_classes=len(data.class_names))
        if method == "micro":
            model = recipe.build("ViTMicro4", input_shape=data.image_shape, **arguments)
        else:
            model = recipe.build(self.pretrained(pooling="token_gap", **arguments))  # as the linear probe
            if method == "scratch":
                model = model.from_config(model.get_config())
        for phase in recipe.phases():
            phase.compile(model, data.steps_per_epoch, jit_compile=method == "micro")
            epochs, steps = phase.length(data.steps_per_epoch)
            history = model.fit(data.train_from(0), steps_per_epoch=steps, epochs=epochs, verbose=0)
        scores = {part: model.evaluate(self.part(side, part), verbose=0)[1] for part in ("validation", "test")}
        facts = dict(epochs=epochs, steps=epochs * steps, learning_rate=recipe.learning_rate, train=history.history["accuracy"][-1])
        return scores | facts


def feature_extractor(model):
    """Returns a model that outputs the class token and the mean of the patch tokens of every block, after the last normalization."""
    outputs, norm = [], model.get_layer("norm")
    for block in range(model.get_config()["num_layers"]):
        tokens = norm(model.get_layer(f"block_{block}").output)
        outputs.append(ops.concatenate([tokens[:, 0], ops.mean(tokens[:, model.num_prefix_tokens :], axis=1)], axis=-1))
    return keras.Model(model.input, ops.stack(outputs))


def labels_of(batches):
    return np.concatenate([labels.argmax(axis=-1) for _, labels in batches])


def first(data, images):
    """Returns the data with this number of training images."""
    return data | {"train": tuple(values[:images] for values in data["train"])}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def logistic_regression(data):
    """Returns the accuracies of logistic regression on standardized features, with the regularization that is best on validation images."""
    from sklearn.linear_model import LogisticRegression

    mean, std = (getattr(data["train"][0].astype("float32"), name)(axis=0) for name in ("mean", "std"))
    data = {part: ((x.astype("float32") - mean) / np.maximum(std, 1e-3), labels) for part, (x, labels) in data.items()}
    regression, best = LogisticRegression(max_iter=100, tol=1e-3, warm_start=True), None
    for c in (1e-4, 1e-3, 1e-2, 1e-1):
        regression.set_params(C=c).fit(*data["train"])
        scores = {part: float(regression.score(*data[part])) for part in ("validation", "test")}
        if best is None or scores["validation"] > best["validation"]:
            best = scores | {"C": c}
    return best


def neighbors(data, k, part):
    (train, labels), (x, expected) = data["train"], data[part]
    nearest = np.argpartition(-(x @ train.T), k - 1, axis=1)[:, :k]
    votes = np.apply_along_axis(np.bincount, 1, labels[nearest], minlength=10)
    return float((votes.argmax(axis=1) == expected).mean())


def table(benchmark):
    """Returns Markdown tables of the test accuracies by method and number of images, and of the linear probe by block."""
    counts = benchmark.options.images
    lines = ["| test accuracy, % | " + " | ".join(f"{n:,} images" for n in counts) + " | CPU minutes |", "| --- " * (len(counts) + 2) + "|"]
    for method in benchmark.options.methods:
        rows = [benchmark.found(method, images) for images in counts]
        minutes = sum(row["cpu_minutes"] for row in rows if row)
        lines.append(
            f"| {METHODS[method]} | " + " | ".join(f"{100 * row['test']:.1f}" if row else "" for row in rows) + f" | {minutes:.1f} |"
        )
    if "linear" in benchmark.options.methods:
        blocks = [[100 * block["test"] for block in benchmark.found("linear", images)["blocks"]] for images in counts]
        numbers = range(len(blocks[0]))
        lines += ["", f"| linear probe on block | {' | '.join(map(str, numbers))} |", "| --- " * (len(numbers) + 1) + "|"]
        lines += [f"| {n:,} images | " + " | ".join(f"{value:.1f}" for value in values) + " |" for n, values in zip(counts, blocks)]
    return "\n".join(lines)


def plot(benchmark, path):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    counts = benchmark.options.images
    for method, marker in zip(benchmark.options.methods, "osD^vPX*<"):
        rows = [row for images in counts if (row := benchmark.found(method, images))]
        axes.plot([row["images"] for row in rows], [100 * row["test"] for row in rows], marker=marker, label=METHODS[method])
    axes.set(xscale="log", xlabel="Training images", ylabel="Test accuracy (%)", xticks=counts, xticklabels=[f"{n:,}" for n in counts])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def setting(text):
    name, _, value = text.partition("=")
    return name, ast.literal_eval(value)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="weights that keras_vit.from_pretrained reads")
    parser.add_argument("--side", type=int, default=56, help="side of the images in pixels, which the patch must divide")
    parser.add_argument("--images", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--validation-images", type=int, default=2000)
    parser.add_argument("--test-images", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="mixed_bfloat16")
    parser.add_argument("--set", type=setting, nargs="+", default=[], metavar="NAME=VALUE")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--plot", type=pathlib.Path)
    options = parser.parse_args()
    options.set = dict(options.set)
    benchmark = Benchmark(options)
    benchmark.run()
    print(table(benchmark))
    if options.plot:
        plot(benchmark, options.plot)


if __name__ == "__main__":
    main()
