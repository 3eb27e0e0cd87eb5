"""`keras-vit evaluate`: evaluates a model on labeled images."""

import enum
import json
import pathlib
from typing import Annotated, Any

import typer

from keras_vit_cli.console import check_new_folder, quiet, table
from keras_vit_cli.models import (
    BATCH_SIZE,
    DATA,
    DATA_OPTION,
    ENGINE,
    MODEL_SIZE,
    POOLING,
    SOURCES,
    STRICT,
    Engine,
    Pooling,
    config_of,
    data_of,
    open_data,
    open_model,
)

MOST_CLASSES = 40


class Split(enum.StrEnum):
    TEST = "test"
    VALIDATION = "validation"
    TRAIN = "train"
    ALL = "all"


def evaluate(
    model: Annotated[str, typer.Argument(help=f"{SOURCES}.")],
    data: Annotated[str, typer.Option(help=DATA)] = None,
    split: Annotated[Split, typer.Option("--split", "--part", help="Images to evaluate.")] = Split.TEST,
    data_option: Annotated[list[str], typer.Option(help=DATA_OPTION)] = None,
    strict: Annotated[bool, typer.Option("--strict", help=STRICT)] = False,
    batch_size: Annotated[int, typer.Option(min=1, help=BATCH_SIZE)] = 32,
    image_size: Annotated[int, typer.Option(min=1, help=MODEL_SIZE)] = None,
    knn: Annotated[int, typer.Option(min=1, metavar="K", help="Evaluate features instead of the head, by K nearest neighbors.")] = None,
    linear_probe: Annotated[bool, typer.Option("--linear-probe", help="Evaluate features by logistic regression.")] = False,
    blocks: Annotated[str, typer.Option(help="For --knn and --linear-probe: all, or numbers of blocks, such as 0,5,-1.")] = None,
    pooling: Annotated[Pooling, typer.Option(help=f"For --knn and --linear-probe. {POOLING}")] = None,
    engine: Annotated[Engine, typer.Option(help=f"For --knn. {ENGINE} [default: scikit-learn]")] = None,
    output: Annotated[pathlib.Path, typer.Option(help="New or empty folder for the results and pictures.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
):
    """Evaluates a model.

    Prints accuracy, top-5 accuracy, calibration error, confusion matrix, metrics of each class, and images per second. Images are resized
    and cropped as in the evaluation of the weights. Without test images, the validation images are used, and the output says so.

    --knn and --linear-probe evaluate features, also of weights without a head, by scikit-learn or faiss. Probes are fitted to the features
    of the training images. Neighbors are those of the highest cosine similarity, and vote by exp(similarity / 0.07).
    """
    features = knn is not None or linear_probe
    if not features and (blocks or pooling):
        raise ValueError(f"`--{'blocks' if blocks else 'pooling'}` needs `--knn` or `--linear-probe`")
    if engine is not None and knn is None:
        raise ValueError("`--engine` needs `--knn`")
    if features and split in (Split.TRAIN, Split.ALL):
        raise ValueError(f"Probes are fitted to training images: evaluate them on test or validation. Received: --split {split.value}")
    blocks = parse_blocks(blocks)
    if output is not None:
        check_new_folder(output)
    with quiet():
        from keras_vit.features import evaluate_features
        from keras_vit.training.results.summary import evaluate_split
    run = config_of(model)
    data = data_of(model, data)
    classifier = open_model(model, image_size=image_size)
    if features:
        loaded, _ = open_data(model, classifier, data, data_option, strict)
        chosen: dict[str, Any] = dict(
            knn=knn,
            linear_probe=linear_probe,
            pooling=pooling and pooling.value,
            blocks=blocks,
            batch_size=batch_size,
            engine=(engine or Engine.SCIKIT_LEARN).value,
        )
        result = evaluate_features(classifier, loaded, split.value, **chosen)
        if output is not None:
            write_json(output, result)
        if as_json:
            print(json.dumps(result, indent=2))
        else:
            show_features(result, f"Features of {model} on {data}, {result['split']}")
        return
    config = classifier.get_config()
    if not config["include_top"]:
        raise ValueError(f"These weights have no head: they give features, not classes. `--knn` evaluates features. Received: {model}")
    loaded, _ = open_data(model, classifier, data, data_option, strict)
    names = config["class_names"] or run.get("class_names") or loaded.class_names
    for mine, theirs in ((config["num_classes"], len(loaded.class_names)), *zip(names, loaded.class_names)):
        if mine != theirs:
            raise ValueError(f"Model and data must have the same classes. Received: {mine!r} in the model, {theirs!r} in the data")
    result, predictions = evaluate_split(classifier, loaded, split.value, batch_size)
    if output is not None:
        write(output, result, predictions, model, f"{data}, {result['split']}", names)
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        show(result, f"{model} on {data}, {result['split']}")


def parse_blocks(text):
    """Returns the value of --blocks for `evaluate_features`: None, "all", or a tuple of ints from text such as "0,5,-1"."""
    if text is None or text == "all":
        return text
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise ValueError(f"`--blocks` must be all, or numbers of blocks, such as 0,5,-1. Received: {text}") from None


def show_features(result, title):
    print(f"{title}: {result['images']:,} images, {result['train_images']:,} for training\n")
    rows = [
        (row["method"], "" if row["block"] is None else row["block"], percent(row["accuracy"]), percent(row.get("top5_accuracy")))
        for row in result["results"]
    ]
    table(("Method", "Block", "Accuracy", "Top-5 accuracy"), rows)


def percent(value):
    return "" if value is None else f"{100 * value:.2f} %"


def show(result, title):
    print(f"{title}\n")
    rows = [
        ("Images", f"{result['images']:,}"),
        ("Accuracy", percent(result["accuracy"])),
        ("Top-5 accuracy", percent(result["top5_accuracy"])),
        ("Log loss", f"{result['log_loss']:.4f}"),
        ("Calibration error", percent(result["calibration_error"])),
        ("Images per second", f"{result['images_per_second']:.0f}" if result["images_per_second"] else ""),
    ]
    table(("", ""), [row for row in rows if row[1]])
    classes = (
        sorted(result["classes"], key=lambda row: (row["f1"] is None, row["f1"]))
        if len(result["classes"]) > MOST_CLASSES
        else result["classes"]
    )
    print(f"\nThe {MOST_CLASSES} worst of {len(classes)} classes" if len(classes) > MOST_CLASSES else "")
    rows = [(c["name"], c["images"], *(percent(c[key]) for key in ("precision", "recall", "f1"))) for c in classes[:MOST_CLASSES]]
    table(("Class", "Images", "Precision", "Recall", "F1"), rows)
    if len(classes) <= MOST_CLASSES // 2:
        print("\nTrue class (row) by predicted class (column)")
        names = [row["name"] for row in classes]
        table(("", *(name[:8] for name in names)), [(name, *counts) for name, counts in zip(names, result["confusion_matrix"])])


def write(folder, result, predictions, model, data, names):
    """Writes the results and pictures."""
    from keras_vit.training import write_report

    write_json(folder, result)
    facts = {
        "Accuracy": f"{100 * result['accuracy']:.2f} % of {result['images']:,} images",
        "Calibration error": f"{100 * result['calibration_error']:.2f} %",
        "Data": data,
    }
    labels, probabilities, shown, _ = predictions
    write_report(folder, f"{model} on {data}", facts, None, shown, labels, probabilities, names, split=result["split"])


def write_json(folder, result):
    from keras_vit.files import replacing

    with replacing(folder / "evaluation.json") as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")
