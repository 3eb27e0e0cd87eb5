"""Evaluates the model of a run, and writes its results into the run's folder: model, history, metrics and report."""

import csv
import json
import pathlib
from typing import Any

import keras
import numpy as np

from keras_vit.files import replacing
from keras_vit.layers import checks
from keras_vit.messages import counted, duration
from keras_vit.training.folder import BATCH, CONFIG, HISTORY, MODEL
from keras_vit.training.results.metrics import evaluate_predictions
from keras_vit.training.results.pictures import chosen_mistakes, wrapped
from keras_vit.training.results.predictions import Predictions, predict_dataset
from keras_vit.training.results.report import write_report

EXPLAINED = "mistakes_explained.png"
SPLITS = ("train", "validation", "test")


def evaluate_split(model: keras.Model, data: Any, split: str = "test", batch_size: int = 32) -> tuple[dict, Predictions]:
    """Evaluates a model on the images of a split.

    Args:
        model: a classifier.
        data: a `keras_vit.data.Data`.
        split: "test", "validation", "train" or "all". Without test images, "test" means "validation". Defaults to "test".
        batch_size: int. Number of images of a batch. Defaults to 32.

    Returns:
        (result, predictions): the dict of `evaluate_predictions` with `split` and `images_per_second`, and the `Predictions`.

    Example:
    >>> data = keras_vit.data.load("digits")
    >>> model = keras_vit.ViTMicro4(num_classes=10, input_shape=data.image_shape)
    >>> result, predictions = evaluate_split(model, data)
    >>> result["split"], result["images"]
    ('test', 359)
    """
    checks.one_of("split", split, (*SPLITS, "all"))
    if split == "test" and data.test is data.validation:
        split = "validation"
    names = SPLITS if split == "all" else (split,)
    datasets = {id(data.splits[name]): data.splits[name] for name in names}.values()  # validation and test may be the same
    batches = (batch for dataset in datasets for batch in dataset.rebatch(batch_size))
    predictions = predict_dataset(model, batches)
    result = evaluate_predictions(predictions.probabilities, predictions.labels, data.class_names)
    return {"split": split} | result | {"images_per_second": predictions.images_per_second}, predictions


def numbered(before: list[dict], rows: list[dict]) -> list[dict]:
    """Returns the rows of a history after those of earlier phases, with epochs numbered throughout."""
    return [*before, *(row | {"epoch": len(before) + row["epoch"]} for row in rows)]


def write_history(history: list[dict], path: pathlib.Path) -> None:
    """Writes the epochs of a run as a CSV file."""
    with replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, history[0])
        writer.writeheader()
        writer.writerows(history)


def explain_mistakes(
    model: keras.Model, images: Any, labels: Any, probabilities: Any, class_names: tuple[str, ...] | list[str], most: int = 8
) -> Any:
    """Draws the relevance of each patch for the predicted class in the most confident mistakes; without any, in the least certain images.

    Args:
        model: the classifier.
        images: dict from row numbers to the available images, as the model takes them.
        labels: int array `(n,)`. The true classes.
        probabilities: array `(n, classes)`.
        class_names: sequence of str.
        most: int. Maximum number of images. Defaults to 8.

    Returns:
        A matplotlib figure.
    """
    from keras_vit.visualize.explanation import draw_relevances

    chosen, predicted = chosen_mistakes(labels, probabilities, images, most), np.argmax(probabilities, axis=-1)
    lines = [(f"true {class_names[labels[i]]}", f"predicted {class_names[predicted[i]]}") for i in chosen]
    titles = ["\n".join(wrapped(line, 1.9) for line in two) for two in lines]
    wrong = bool(np.any(predicted != labels))
    heading = ("Most confident mistakes" if wrong else "Least certain images") + ":\nbright patches spoke for the predicted class"
    return draw_relevances(model, np.stack([images[i] for i in chosen]), predicted[chosen], titles, heading)


def write_results(run: Any, seconds: float, verbose: bool = True):
    """Writes model, history, metrics and report of a run, and prints its accuracy and the paths of all files.

    Args:
        run: a `keras_vit.training.Run` that has been trained.
        seconds: float. Duration of the training.
        verbose: bool. Whether to print. Defaults to True.
    """
    output, config, model, data, history = run.output, run.config, run.model, run.data, run.history
    result, (labels, probabilities, shown, _) = evaluate_split(model, data, batch_size=run.recipe.batch_size)
    split, right = result.pop("split"), round(result["accuracy"] * len(labels))
    del result["images_per_second"]  # the file only holds what a repeated run reproduces
    with replacing(output / MODEL) as temporary:
        model.save(temporary)
    write_history(history, output / HISTORY)
    with replacing(output / f"{split}.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")
    run.show_batch()
    name = f"{split.capitalize()} accuracy"
    facts = {
        name: f"{100 * right / len(labels):.2f} % ({right} of {len(labels)} images)",
        "Calibration error": f"{100 * result['calibration_error']:.2f} %",
        "Model": f"{run.name}, {model.count_params():,} parameters, images of {data.image_shape[0]} x {data.image_shape[1]}",
        "Data": f"{config.get('data', 'arrays')}: " + ", ".join(f"{size:,} {split}" for split, size in data.sizes.items()),
        "Recipe": f"{config['recipe']}, {counted(len(history), 'epoch')}, batch {run.recipe.batch_size}, seed {config['seed']}",
    }
    rate = run.recipe.learning_rate * run.recipe.batch_size / (run.recipe.learning_rate_images or run.recipe.batch_size)
    facts["Optimizer"] = f"{run.recipe.optimizer}, highest learning rate {rate:.3g}, schedule {run.recipe.schedule}"
    facts["Duration"] = duration(seconds) + (" since it was resumed" if run.resumed else "")
    facts["Repeat it"] = f"keras-vit train --config {output / CONFIG} --output RUN"
    if config.get("keep_best"):
        best = max(history, key=lambda row: row["val_accuracy"])
        facts["Kept"] = f"the weights of epoch {best['epoch']}, validation accuracy {100 * best['val_accuracy']:.2f} %"
    explained = explain_mistakes(model, shown, labels, probabilities, data.class_names)
    with replacing(output / EXPLAINED) as temporary:
        explained.savefig(temporary)
    title = f"{run.name} on {config.get('data', 'arrays')}"
    more = {
        "First augmented batch": (BATCH, "Images of the first training batch, after augmentation"),
        "What the model looked at": (EXPLAINED, "Most confident mistakes, above maps of what spoke for the predicted class"),
    }
    pictures = write_report(output, title, facts, history, shown, labels, probabilities, data.class_names, more, split, run.phases)
    if not verbose:
        return
    print(f"\n{name} {right / len(labels):.4f} ({right} of {len(labels)} images)\n")
    files = {"Model": MODEL, "History": HISTORY, "Config": CONFIG, f"{split.capitalize()} figures": f"{split}.json"}
    for what, path in ({what: output / file for what, file in files.items()} | pictures).items():
        print(f"{what:26}{path}")


def describe(phase: Any, steps_per_epoch: int | None = None) -> str:
    """Returns a description of what a phase of a recipe trains and, with `steps_per_epoch`, for how many epochs."""
    if steps_per_epoch is not None:
        return f"{describe(phase)}, {counted(phase.length(steps_per_epoch)[0], 'epoch')}"
    if phase.lora_rank:
        return "low-rank updates of the attention kernels, and the head"
    if phase.frozen_blocks == "all":
        return "only the head"
    return "all weights" if phase.frozen_blocks is None else f"all layers after the first {counted(phase.frozen_blocks, 'block')}"
