"""`keras-vit predict`: what a model takes photographs for."""

import json
from typing import Annotated

import typer

from keras_vit_cli.console import quiet
from keras_vit_cli.models import SOURCES, config_of, open_model

BATCH_SIZE = 32


def predict(
    images: Annotated[list[str], typer.Argument(help="Image files.")],
    model: Annotated[str | None, typer.Option(help=f"Preset, with --weights; or {SOURCES}.")] = None,
    weights: Annotated[str | None, typer.Option(help="Tag of the preset, or weights as for --model.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes shown for each image.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
):
    """Classifies images.

    Images are resized and cropped as the weights' authors did. Classes are named where they are ImageNet-1k's or a run's, else numbered.
    """
    if model is None and weights is None:
        raise ValueError("A model is missing: give `--model`, `--weights`, or both")
    with quiet():
        from keras_vit.data.preprocessing import evaluation_transform, read_image
    for image in images:
        read_image(image)  # before minutes of loading, or hours of downloading, for a name mistyped
    source = weights if model is None else model
    classifier = open_model(source, weights if model is not None else None)
    results = classify(classifier, images, evaluation_transform(classifier), top, config_of(source).get("class_names"))
    if as_json:
        print(json.dumps([{"image": image, "predictions": predictions} for image, predictions in zip(images, results)], indent=2))
        return
    for image, predictions in zip(images, results):
        print(image)
        for prediction in predictions:
            print(f"  {prediction['score']:.4f}  {prediction['label']}" + (f" ({prediction['id']})" if "id" in prediction else ""))


def classify(model, images, transform, top, class_names=None):
    """Returns for each image a list of dicts with "class", "label", "score" and, where it is ImageNet's, "id"; the best first."""
    import numpy as np
    from keras import ops

    from keras_vit.checkpoints.imagenet import best, imagenet_classes

    config = model.get_config()
    if not config["include_top"]:
        raise ValueError("These weights have no head: they give features, not classes. Train one (`num_classes=`), or choose tuned weights")
    count = config["num_classes"]
    if class_names is not None and len(class_names) != count:
        raise ValueError(f"The run's config.toml names {len(class_names)} classes; its model has {count}")
    names = [{"label": name} for name in class_names or map(str, range(count))]
    if class_names is None and count == len(imagenet_classes()):
        names = [{"id": wordnet_id, "label": label} for wordnet_id, label in imagenet_classes()]
    results = []
    for first in range(0, len(images), BATCH_SIZE):
        pixels = np.stack([transform(image) for image in images[first : first + BATCH_SIZE]])
        scores = model(pixels)
        if config["classifier_activation"] in (None, "linear"):
            scores = ops.softmax(scores)
        for row in ops.convert_to_numpy(scores):
            results.append([{"class": int(i), **names[i], "score": float(row[i])} for i in best(row, top)])
    return results
