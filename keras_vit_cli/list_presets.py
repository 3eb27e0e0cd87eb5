"""`keras-vit list`: the presets and what they cost."""

from typing import Annotated

import typer

from keras_vit_cli.console import quiet, table


def list_presets(
    pattern: Annotated[str, typer.Argument(help="Names to list, such as '*B16*'.")] = "*",
    weights: Annotated[bool, typer.Option("--weights", help="List their published weights.")] = False,
    recipes: Annotated[bool, typer.Option("--recipes", help="List training recipes.")] = False,
):
    """Lists the presets.

    Shows the sides of image and patch in pixels, the parameters, and the multiply-adds of one image; or the published weights with the side
    of their images, the classes, the accuracy on ImageNet-1k in percent, the size of the file, and the licence; or the training recipes,
    and where they are from.
    """
    if recipes:
        _list_recipes(pattern)
        return
    with quiet():
        from keras_vit.cost import arguments, cost, grid_size
        from keras_vit.presets import list_models
    names = list_models(pattern)
    if not names:
        raise ValueError(f"No preset matches the pattern; `keras-vit list` shows all. Received: {pattern}")
    if weights:
        table(("Name", "Tag", "Image", "Classes", "Top-1", "MB", "Licence"), _weights(pattern), names=2)
        return
    rows = []
    for name in names:
        config, price = arguments(name), cost(name)
        side = config["input_shape"][0]
        # Of the image, not of a stem's map: what the number in a hybrid's name means.
        patch = side // grid_size(config)[0]
        rows.append((name, side, patch, f"{price.parameters:,}", f"{price.macs / 1e9:.2f}"))
    table(("Name", "Image", "Patch", "Parameters", "GMACs"), rows)


def _list_recipes(pattern):
    import fnmatch

    with quiet():
        from keras_vit.training import RECIPES
    found = {name: recipe for name, recipe in RECIPES.items() if fnmatch.fnmatchcase(name, pattern.lower())}
    if not found:
        raise ValueError(f"No recipe matches the pattern; `keras-vit list --recipes` shows all. Received: {pattern}")
    rows = []
    for name, r in found.items():
        length = f"{r.epochs} epochs" if r.epochs else f"{r.steps:,} steps"
        rate = f"{r.learning_rate:g}" + (f" per {r.learning_rate_images}" if r.learning_rate_images else "")
        rows.append((name, length, r.batch_size, r.optimizer, rate, f"{r.weight_decay:g}", f"{r.drop_path_rate:g}", r.augmentation))
    table(("Recipe", "Length", "Batch", "Optimizer", "Learning rate", "Decay", "Drop path", "Augmentation"), rows)
    print("\nSources")
    for name, recipe in found.items():
        print(f"{name}: {recipe.source}")


def _weights(pattern):
    from keras_vit.checkpoints.catalogue import list_weights

    for row in list_weights(pattern):
        top1 = "" if row.top1 is None else f"{row.top1:.2f}"
        yield row.model, row.tag, row.resolution, row.classes or "", top1, row.megabytes, row.licence
