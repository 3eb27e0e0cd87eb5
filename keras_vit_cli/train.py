"""`keras-vit train`: a run in a folder, from the data to the report; it can be stopped, and gone on with."""

import csv
import dataclasses
import json
import pathlib
import shlex
import signal
import sys
from typing import Annotated

import typer

from keras_vit_cli.console import quiet

CONFIG, CHECKPOINTS = "config.json", "checkpoints"


def train(
    output: Annotated[pathlib.Path, typer.Option(help="Folder of the run: a new or an empty one, or with --resume that of a run.")],
    data: Annotated[
        str | None, typer.Option(help="digits, fashion_mnist, tfds:NAME, or a folder with a folder of images for each class.")
    ] = None,
    model: Annotated[str, typer.Option(help="Preset, see `keras-vit list`. [default: ViTMicro4]")] = None,
    recipe: Annotated[str, typer.Option(help="How to train. [default: small_data]")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training images. [default: the recipe's]")] = None,
    batch_size: Annotated[int, typer.Option(help="Images a step. [default: the recipe's]")] = None,
    learning_rate: Annotated[float, typer.Option(help="The highest learning rate. [default: the recipe's]")] = None,
    image_size: Annotated[int, typer.Option(help="Side to resize images to, in pixels. [default: the source's, or the preset's]")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same run. [default: 0]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints. [default: those of 10 minutes, or an epoch]")] = None,
):
    """Trains a model.

    Writes the model, its history and a report with pictures into a folder. Whatever stops the run, Ctrl-C, a signal or a crash of the
    machine: --resume goes on with it, and it ends with the same model as one that was not stopped.
    """
    given = {name: value for name, value in locals().items() if name not in ("output", "resume", "save_every") and value is not None}
    config = config_of_old(output, given) if resume else config_of_new(output, given)
    run(output, config, save_every)


def config_of_new(output, given):
    """Returns the config of a new run: what the user gave, and the defaults of the rest."""
    if output.exists() and (not output.is_dir() or any(output.glob("[!.]*"))):  # what a killed run left unfinished is hidden
        raise ValueError(f"`--output` must be a new or an empty folder; with --resume a run that is there goes on. Received: {output}")
    if "data" not in given:
        raise ValueError("`--data` is missing: name a data source, such as digits")
    with quiet():
        from keras_vit.data.pipeline import choose
        from keras_vit.training import RECIPES
    config = {"data": None, "model": "ViTMicro4", "image_size": None, "seed": 0, "recipe": "small_data"} | given
    recipe = choose("recipe", config["recipe"], RECIPES)
    changed = {field.name: config.pop(field.name) for field in dataclasses.fields(recipe) if field.name in config}
    return config | {"training": dataclasses.asdict(dataclasses.replace(recipe, **changed))}


def config_of_old(output, given):
    """Returns the config of the run in `output`, once what the user gave agrees with it."""
    try:
        config = json.loads((output / CONFIG).read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"There is no run to resume in `--output`. Received: {output}") from None
    settings = config | config["training"]
    for name, value in given.items():
        if value != settings[name]:
            option = "--" + name.replace("_", "-")
            raise ValueError(f"A run keeps its settings, and this one was begun with {option} {settings[name]}. Received: {option} {value}")
    return config


def run(output, config, save_every):
    """Trains from the newest checkpoint, or from the beginning, and writes the results."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # outside `fit`, which saves first, there is nothing to save
    with quiet():
        import keras

        from keras_vit import zoo
        from keras_vit.data import SOURCES, load
        from keras_vit.presets import preset
        from keras_vit.training import Checkpoints, Recipe, replacing

    keras.utils.set_random_seed(config["seed"])
    recipe = Recipe(**config["training"])
    size = config["image_size"]
    if size is None and config["data"] not in SOURCES:  # whose images have no size of their own
        size = preset(config["model"]).get("input_shape", (224,))[0]
    options = {} if size is None else {"image_size": size}
    data = load(config["data"], batch_size=recipe.batch_size, augmentation=recipe.augmentation, seed=config["seed"], **options)
    model = zoo.create(
        config["model"],
        num_classes=len(data.class_names),
        input_shape=data.image_shape,
        dropout_rate=recipe.dropout_rate,
        drop_path_rate=recipe.drop_path_rate,
    )
    recipe.compile(model, data.steps_per_epoch)
    output.mkdir(parents=True, exist_ok=True)
    with replacing(output / CONFIG) as temporary:
        # With the size that the source chose: its default may change.
        known = {"image_size": data.image_shape[0], "class_names": list(data.class_names)}
        temporary.write_text(json.dumps(config | known, indent=2) + "\n")

    sizes = ", ".join(f"{size:,} {part}" for part, size in data.sizes.items())
    print(f"{config['data']}: {sizes} images of {data.image_shape[0]} x {data.image_shape[1]}, {len(data.class_names)} classes")
    print(f"{config['model']}: {model.count_params():,} parameters, recipe {config['recipe']}")
    checkpoints = Checkpoints(output / CHECKPOINTS, every_steps=save_every)
    try:
        model.fit(
            checkpoints.resume(data.train_from),
            steps_per_epoch=data.steps_per_epoch,
            epochs=recipe.epochs,
            validation_data=data.validation,
            callbacks=[checkpoints],
            shuffle=False,  # the data comes shuffled; Keras would warn
            verbose=1 if sys.stdout.isatty() else 2,  # a bar on a terminal, a line an epoch in a file
        )
        write_results(output, config, model, data, checkpoints.history)
    except FloatingPointError as error:
        raise ValueError(error) from None
    except (KeyboardInterrupt, SystemExit) as stop:
        command = shlex.join(["keras-vit", "train", "--output", str(output), "--resume"])
        print(flush=True)  # ends the line of the progress bar
        where = f"epoch {checkpoints.epoch} of {recipe.epochs}" + f" and {checkpoints.done} steps" * (checkpoints.done > 0)
        print(f"keras-vit: stopped after {where}; go on with: {command}", file=sys.stderr)
        raise typer.Exit(130 if isinstance(stop, KeyboardInterrupt) else 0) from None


def write_results(output, config, model, data, history):
    """Writes model, history and report, and prints the test accuracy and where everything is."""
    import numpy as np

    from keras_vit.training import replacing, write_report

    images, labels = (np.concatenate(parts) for parts in zip(*data.test.as_numpy_iterator()))
    labels = labels.argmax(axis=-1)
    probabilities = model.predict(images, batch_size=config["training"]["batch_size"], verbose=0)
    right = int((probabilities.argmax(axis=-1) == labels).sum())
    print(f"\nTest accuracy {right / len(labels):.4f} ({right} of {len(labels)} images)\n")

    with replacing(output / "model.keras") as temporary:
        model.save(temporary)
    with replacing(output / "history.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, history[0])
        writer.writeheader()
        writer.writerows(history)
    facts = {
        "Test accuracy": f"{100 * right / len(labels):.2f} % ({right} of {len(labels)} images)",
        "Model": f"{config['model']}, {model.count_params():,} parameters, images of {data.image_shape[0]} x {data.image_shape[1]}",
        "Data": f"{config['data']}: " + ", ".join(f"{size:,} {part}" for part, size in data.sizes.items()),
        "Recipe": f"{config['recipe']}, {len(history)} epochs, batch {config['training']['batch_size']}, seed {config['seed']}",
    }
    pictures = write_report(
        output, f"{config['model']} on {config['data']}", facts, history, images, labels, probabilities, data.class_names
    )
    files = {"Model": output / "model.keras", "History": output / "history.csv", "Config": output / CONFIG} | pictures
    for name, path in files.items():
        print(f"{name:18}{path}")
