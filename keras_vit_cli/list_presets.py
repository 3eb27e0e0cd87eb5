"""`keras-vit list`: lists presets, published weights and training recipes."""

import fnmatch
import json
import pathlib
from typing import Annotated

import typer

from keras_vit_cli.console import quiet, table

# Written by `python -m keras_vit_cli.list_presets`, because importing Keras and its backend would take ten seconds.
FACTS = pathlib.Path(__file__).with_name("presets.json")


def list_presets(
    pattern: Annotated[str, typer.Argument(help="Names to list, such as '*B16*'.")] = "*",
    weights: Annotated[bool, typer.Option("--weights", help="List the published weights of the presets.")] = False,
    recipes: Annotated[bool, typer.Option("--recipes", help="List training recipes.")] = False,
):
    """Lists presets, published weights or training recipes.

    Presets: side of image and patch in pixels, parameters, multiply-adds per image, and number of published weights.

    Weights: side of the images, number of classes, ImageNet-1k accuracy in percent, size of the file, and license.

    Recipes: their values, and the papers or code that they are from.
    """
    if recipes:
        _list_recipes(pattern)
        return
    listed = json.loads(FACTS.read_text())
    rows = {kind: [row for row in listed[kind] if fnmatch.fnmatchcase(row[0].lower(), pattern.lower())] for kind in listed}
    if not rows["presets"]:
        with quiet():
            from keras_vit.checkpoints.catalogue import find_preset
        find_preset(pattern)
    elif weights:
        table(("Name", "Tag", "Image", "Classes", "Top-1", "MB", "License"), rows["weights"], names=2)
    else:
        table(("Name", "Image", "Patch", "Parameters", "GMACs", "Weights"), rows["presets"])


def _list_recipes(pattern):
    with quiet():
        from keras_vit.training import RECIPES
    found = {name: recipe for name, recipe in RECIPES.items() if fnmatch.fnmatchcase(name, pattern.lower())}
    if not found:
        raise ValueError(f"No recipe matches the pattern; `keras-vit list --recipes` shows all. Received: {pattern}")
    rows = []
    for name, r in found.items():
        length = f"{r.epochs} epochs" if r.epochs else f"{r.steps:,} steps"
        length = f"{r.head_epochs} + {length}" if r.head_epochs else length  # epochs of only the head come first
        rate = f"{r.learning_rate:g}" + (f" per {r.learning_rate_images}" if r.learning_rate_images else "")
        rows.append((name, length, r.batch_size, r.optimizer, rate, f"{r.weight_decay:g}", f"{r.drop_path_rate:g}", r.augmentation))
    table(("Recipe", "Length", "Batch", "Optimizer", "Learning rate", "Decay", "Drop path", "Augmentation"), rows)
    print("\nSources")
    for name, recipe in found.items():
        print(f"{name}: {recipe.source}")


def facts():
    """Returns the contents of `FACTS`: a row of strings for each preset, and for each published file of weights."""
    from keras_vit.checkpoints.catalogue import list_weights
    from keras_vit.config import ViTConfig
    from keras_vit.cost import cost
    from keras_vit.presets import list_models

    presets = []
    for name in list_models():
        config, price = ViTConfig.of(name), cost(name)
        side = config.input_shape[0]
        # In pixels of the image, not of a stem's feature map: the number in a hybrid's name.
        patch = side // config.grid_size[0]
        presets.append((name, side, patch, f"{price.parameters:,}", f"{price.macs / 1e9:.2f}", len(list_weights(name)) or ""))
    weights = []
    for row in list_weights():
        top1 = "" if row.top1 is None else f"{row.top1:.2f}"
        weights.append((row.model, row.tag, row.resolution, row.classes or "", top1, row.megabytes, row.license))
    return {kind: [list(map(str, row)) for row in rows] for kind, rows in (("presets", presets), ("weights", weights))}


if __name__ == "__main__":
    lines = (f'"{kind}": [\n' + ",\n".join(map(json.dumps, rows)) + "\n]" for kind, rows in facts().items())
    FACTS.write_text("{\n" + ",\n".join(lines) + "\n}\n")
