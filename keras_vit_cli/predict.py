"""`keras-vit predict`: classifies images."""

import csv
import json
import os
import pathlib
import sys
from typing import Annotated

import typer

from keras_vit_cli.console import quiet
from keras_vit_cli.models import SOURCES, config_of, open_model

BATCH_SIZE = 32


def predict(
    images: Annotated[list[str], typer.Argument(help="Image files, and folders of images.")],
    model: Annotated[str | None, typer.Option(help=f"Preset, with --weights; or {SOURCES}.")] = None,
    weights: Annotated[str | None, typer.Option(help="Tag of the preset, or weights as for --model.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of classes to print for each image.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one row for each image and class.")] = False,
):
    """Classifies images.

    Images are resized and cropped as in the evaluation of the weights. A folder stands for all images in it and its subfolders; those that
    cannot be read are reported and skipped. Class names are those saved with the model, ImageNet's for weights that were trained on
    ImageNet-1k, or else numbers.
    """
    if model is None and weights is None:
        raise ValueError("A model is missing: give `--model`, `--weights`, or both")
    if as_json and as_csv:
        raise ValueError("`--json` and `--csv` exclude each other")
    with quiet():
        from keras_vit.data.preprocessing import evaluation_transform, read_image
    files, inside = [], set()
    for image in images:
        if os.path.isdir(image):
            found = images_in(image)
            if not found:
                raise ValueError(f"The folder holds no images. Received: {image}")
            files += found
            inside |= set(found)
        else:
            read_image(image)  # a mistyped name should fail before the model is downloaded and loaded
            files.append(image)
    source = weights if model is None else model
    classifier = open_model(source, weights if model is not None else None)
    labels = labels_of(classifier, config_of(source).get("class_names"))
    results = classify(classifier, files, evaluation_transform(classifier), top, labels, skip=inside)
    show = show_json if as_json else show_csv if as_csv else show_text
    show(results)


def images_in(folder):
    """Returns the sorted paths of the images in a folder and its subfolders, without hidden files and those of operating systems."""
    from PIL import Image

    from keras_vit.data.preprocessing import formats

    known = formats()
    suffixes = {suffix for suffix, format in Image.registered_extensions().items() if format in known}
    found = []
    for path in sorted(pathlib.Path(folder).rglob("*")):
        hidden = any(part.startswith((".", "@", "__MACOSX")) for part in path.relative_to(folder).parts)
        if path.suffix.lower() in suffixes and not hidden and path.is_file():
            found.append(str(path))
    return found


def labels_of(model, class_names=None):
    """Returns a dict for each class with "label" and, for classes of ImageNet, "id".

    Args:
        model: a `VisionTransformer`.
        class_names: list of str or None. Names from the run's config, for models that were saved without names.
    """
    from keras_vit.checkpoints.imagenet import imagenet_classes, imagenet_labels

    config = model.get_config()
    if not config["include_top"]:
        raise ValueError(
            "These weights have no head: they give features, not classes. Train a head (`num_classes=`), or choose fine-tuned weights"
        )
    count, names = config["num_classes"], model.class_names or class_names
    if names is not None and len(names) != count:
        raise ValueError(f"The run's config.toml must name all classes of its model. Received: {len(names)} names, {count} classes")
    if names is not None and tuple(names) == imagenet_labels():
        return [{"id": wordnet_id, "label": label} for wordnet_id, label in imagenet_classes()]
    return [{"label": name} for name in names or map(str, range(count))]


def classify(model, images, transform, top, labels, skip=()):
    """Yields (image, predictions). Predictions are dicts with "class", "label", "score" and, for ImageNet, "id", best first.

    Args:
        model: a `VisionTransformer`.
        images: list of paths.
        transform: function that returns the array of an image at a path.
        top: int. Number of classes for each image.
        labels: as `labels_of` returns them.
        skip: paths that may be skipped, with a line on stderr, if they cannot be read. For others this is an error. Defaults to ().
    """
    import numpy as np
    from keras import ops

    from keras_vit.checkpoints.imagenet import best

    logits = model.get_config()["classifier_activation"] in (None, "linear")
    # A single batch takes less time than compiling a function for many.
    forward = model if len(images) <= BATCH_SIZE else model.predict_on_batch
    for first in range(0, len(images), BATCH_SIZE):
        readable = []
        for image in images[first : first + BATCH_SIZE]:
            try:
                readable.append((image, transform(image)))
            except ValueError as error:
                if image not in skip:
                    raise
                print("keras-vit: Skipped:", *str(error).split(), file=sys.stderr)
        if not readable:
            continue
        scores = forward(np.stack([pixels for _, pixels in readable]))
        scores = ops.convert_to_numpy(ops.softmax(scores) if logits else scores)
        for (image, _), row in zip(readable, scores):
            yield image, [{"class": int(i), **labels[i], "score": float(row[i])} for i in best(row, top)]


def show_text(results):
    for image, predictions in results:
        print(image)
        for prediction in predictions:
            print(f"  {prediction['score']:.4f}  {prediction['label']}" + (f" ({prediction['id']})" if "id" in prediction else ""))


def show_json(results):
    print(json.dumps([{"image": image, "predictions": predictions} for image, predictions in results], indent=2))


def show_csv(results):
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("image", "rank", "class", "label", "score"))
    for image, predictions in results:
        for rank, prediction in enumerate(predictions, 1):
            writer.writerow((image, rank, prediction["class"], prediction["label"], f"{prediction['score']:.6f}"))
