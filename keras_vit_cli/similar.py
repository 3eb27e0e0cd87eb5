"""`keras-vit similar`: finds the images of a data set that are most similar to another image."""

import json
import pathlib
from typing import Annotated

import typer

from keras_vit_cli.console import quiet, table
from keras_vit_cli.models import ENGINE, SOURCES, Engine, open_model


def similar(
    image: Annotated[str, typer.Argument(help="Image file.")],
    index: Annotated[pathlib.Path, typer.Option(help="File of features, as `keras-vit embed` writes it.")],
    count: Annotated[
        int, typer.Option("-k", "--count", min=1, help="Number of images to find. [default: 10, or all if there are fewer]")
    ] = None,
    output: Annotated[pathlib.Path, typer.Option(help="PNG file for a contact sheet of the images.")] = None,
    model: Annotated[str, typer.Option(help=f"The model, if it has been moved. {SOURCES}. [default: that of the index]")] = None,
    data: Annotated[str, typer.Option(help="The data, if they have been moved. [default: those of the index]")] = None,
    engine: Annotated[Engine, typer.Option(help=ENGINE)] = Engine.SCIKIT_LEARN,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
):
    """Finds similar images.

    Lists the images of the index whose features have the highest cosine similarity, best first. --output draws them.
    """
    if output is not None and output.suffix != ".png":
        raise ValueError(f"`--output` must end with .png. Received: {output}")
    with quiet():
        from keras_vit.data import read_image
        from keras_vit.data.preprocessing import printable
        from keras_vit.features import contact_sheet, embed_query, images_of, read_features
        from keras_vit.features import similar as find
        from keras_vit.files import replacing
        from keras_vit.visualize.figures import axes_of

        if output is not None:
            axes_of(None)  # raises if matplotlib is not installed
    shown = read_image(image)  # a mistyped name should fail before the model is loaded
    features = read_features(index)
    source, weights = (model, None) if model else (features.settings.get(key) for key in ("model", "weights"))
    if source is None:
        raise ValueError(f"`--model` is missing: the file does not name the model of its features. Received: {index}")
    vit = open_model(source, weights, features.settings.get("image_size"))
    (query,) = embed_query(vit, [image], features)
    found = find(features, query, count, engine.value)

    def title(row):
        return row["label"] if "label" in row else printable(pathlib.Path(row["name"]).name)

    if output is not None:
        images = [shown, *images_of(features, [row["row"] for row in found], data)]
        titles = ["searched for", *(f"{title(row)}\n{row['similarity']:.3f}" for row in found)]
        sheet = contact_sheet(images, titles, f"Nearest to {pathlib.Path(image).name}, by cosine similarity")
        with replacing(output) as temporary:
            sheet.savefig(temporary)
    if as_json:
        print(json.dumps([{key: value for key, value in row.items() if key != "row"} for row in found], indent=2))
        return
    if features.names is not None:
        table(("Image", "Similarity"), [(printable(row["name"]), f"{row['similarity']:.4f}") for row in found])
        return
    rows = [(row["label"], row["split"], row["index"], f"{row['similarity']:.4f}") for row in found]
    table(("Class", "Split", "Image", "Similarity"), rows, names=2)
