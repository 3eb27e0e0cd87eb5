"""Writes docs/zoo.md and docs/zoo.csv, every preset with its published weights: `python tests/zoo_page.py`."""

import csv
import io
import pathlib

import keras_vit
from keras_vit.families import CLIP, IMAGENET

DOCS = pathlib.Path(__file__).parents[1] / "docs"
ZOO = """# Model zoo

Every preset, with its published weights. Parameters and multiply-adds (GMACs) are computed for the image size of the row and the
preset's own head; top-1 is the published accuracy on ImageNet-1k. Click on a column's head to sort by it. The same table [as
CSV](zoo.csv).

`weights=` takes the tag: `keras_vit.ViTB16(weights="augreg2_in21k_ft_in1k")`. Weights belong to their authors: cite the paper that the
checkpoint's page names, and mind its license ([how to cite](weights.md#citing-weights)).

"""
MEANS = {str(CLIP["mean"]): "CLIP's", str(IMAGENET["mean"]): "ImageNet's"}
COLUMNS = ("Preset", "Tag", "Image", "Patch", "Parameters (M)", "GMACs", "Top-1 (%)", "Classes", "Mean", "Resizing", "License", "Source")


def rows():
    """Yields a row for each preset and each of its published weights."""

    def row(name, config, image_size, weights=None):
        model = keras_vit.cost(config, input_shape=(image_size, image_size, config.channels))
        preprocessing = {**config.preprocessing, **(weights.preprocessing if weights else {})}
        return (
            name,
            weights.tag if weights else "",
            image_size,
            config.patch[0] * config.stride,
            round(model.parameters / 1e6, 2),
            round(model.macs / 1e9, 2),
            (weights.top1 or "") if weights else "",
            (weights.classes or "") if weights else "",
            MEANS.get(str(preprocessing["mean"]), preprocessing["mean"]),
            f"{preprocessing['interpolation']}, {preprocessing['crop_mode']}",
            weights.license if weights else "",
            weights.source.removeprefix("hf://") if weights else "",
        )

    for name in keras_vit.list_models():
        config = keras_vit.ViTConfig.of(name)
        found = keras_vit.list_weights(name)
        yield from [row(name, config, weights.resolution, weights) for weights in found] or [row(name, config, config.image_size[0])]


def pages():
    """Returns {name: text} of the files."""
    found = list(rows())
    table = ["| " + " | ".join(COLUMNS) + " |", "| " + " | ".join(["---"] * len(COLUMNS)) + " |"]
    table += ["| " + " | ".join(map(str, row)) + " |" for row in found]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([COLUMNS, *found])
    return {"zoo.md": ZOO + "\n".join(table) + "\n", "zoo.csv": file.getvalue()}


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
