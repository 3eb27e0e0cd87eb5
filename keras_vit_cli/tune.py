"""`keras-vit tune`: a hyperparameter search in a folder, which can be stopped and resumed."""

import pathlib
import shlex
import signal
import sys
from typing import Annotated

import typer

from keras_vit_cli.configs import parse_options
from keras_vit_cli.console import quiet, table
from keras_vit_cli.models import DATA_OPTION, DATA_SOURCES, IMAGE_SIZE, JIT_COMPILE, SOURCES, open_model

NOT_SEARCHED = ("teacher", "accumulation_steps")


def tune(
    output: Annotated[pathlib.Path, typer.Option(help="Folder of the search: new, empty, or that of the same search.")],
    data: Annotated[str, typer.Option(help=DATA_SOURCES)] = None,
    data_option: Annotated[list[str], typer.Option(help=DATA_OPTION)] = None,
    train_images: Annotated[
        int, typer.Option(min=1, help="Train on a fixed, stratified subset of this many images. [default: all]")
    ] = None,
    space: Annotated[
        str, typer.Option(help="finetune, from_scratch, augment, or a TOML file. [default: finetune with --weights, else from_scratch]")
    ] = None,
    tuner: Annotated[str, typer.Option(help="random, hyperband, bayesian or grid.")] = "hyperband",
    trials: Annotated[int, typer.Option(min=1, help="Number of trials. The same command with a larger number adds trials.")] = 20,
    max_parameters: Annotated[int, typer.Option(min=1, help="Largest number of parameters.")] = None,
    max_macs: Annotated[int, typer.Option(min=1, help="Largest number of multiply-adds per image.")] = None,
    patience: Annotated[int, typer.Option(min=1, help="Stop a trial when its validation accuracy has not risen for N epochs.")] = None,
    model: Annotated[
        str, typer.Option(help="Preset, for arguments that are not searched. [default: that of the weights, or ViTMicro4]")
    ] = None,
    weights: Annotated[str, typer.Option(help=f"Weights that each trial starts from: a tag of the preset; or {SOURCES}.")] = None,
    recipe: Annotated[
        str, typer.Option(help="Recipe, for values that are not searched. [default: finetune with --weights, else small_data]")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Epochs of a complete trial. [default: the recipe's]")] = None,
    image_size: Annotated[int, typer.Option(min=1, help=IMAGE_SIZE)] = None,
    mixed_precision: Annotated[bool, typer.Option("--mixed-precision", help="Compute in bfloat16.")] = None,
    jit_compile: Annotated[bool, typer.Option(help=JIT_COMPILE)] = None,
    strategy: Annotated[str, typer.Option(help="auto, one_device, or mirrored: each trial on all GPUs. [default: auto]")] = None,
    devices: Annotated[str, typer.Option(help="cpu:N makes N virtual devices, to try --strategy.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same search. [default: 0]")] = None,
    config: Annotated[pathlib.Path, typer.Option(help="TOML file with settings, such as a run's. Options override it.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the search in the output folder, or start it. This is also the default.")
    ] = False,
    wait: Annotated[float, typer.Option(help="Seconds that a chief waits for workers, and a worker for its chief.")] = 600.0,
):
    """Searches for the best model and recipe.

    Prints a line for each finished trial, and writes a report with pictures and best.toml, a config for `keras-vit train --config`. If it
    is stopped, the same command resumes the search and the interrupted trial. For several processes or machines see docs/tuning.md.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    given = dict(
        data=data,
        data_options=parse_options(data_option) or None,
        train_images=train_images,
        model=model,
        weights=weights,
        recipe=recipe,
        epochs=epochs,
        image_size=image_size,
        mixed_precision=mixed_precision,
        jit_compile=jit_compile,
        strategy=strategy,
        devices=devices,
        seed=seed,
    )
    given = {name: value for name, value in given.items() if value is not None}
    with quiet():
        from keras_vit.training import settings
    settled = settings.complete(settings.read_config(config) if config else {}, given)
    if "data" not in settled:
        raise ValueError("`--data` is missing: give a data source, such as digits")
    for name in NOT_SEARCHED:
        if name in settled:
            raise ValueError(f"A search does not support `{name}`. Received: {name} = {settled[name]}")
    space = space or ("finetune" if "weights" in settled else "from_scratch")
    rows = read_space(space) if space.endswith(".toml") else space
    limits = dict(max_parameters=max_parameters, max_macs=max_macs, patience=settled.get("patience") if patience is None else patience)
    try:
        search = open_search(output, settled, rows, tuner, trials, wait, limits)
        search.search()
    except KeyboardInterrupt:
        print(f"\nkeras-vit: stopped; resume with: {shlex.join(['keras-vit', *sys.argv[1:]])}", file=sys.stderr)
        raise typer.Exit(130) from None
    if not search.is_worker:
        show(output)


def read_space(path):
    """Returns the rows of a search space from a TOML file."""
    from keras_vit.reading import read_toml

    return read_toml(path, "A search space")


def open_search(output, config, space, tuner, trials, wait, limits):
    """Returns the `Search` of a config."""
    with quiet():
        import keras

        from keras_vit.extras import install

        try:
            from keras_vit.tuning import Search, ViTHyperModel
        except ModuleNotFoundError as error:
            raise ImportError(f"A search needs {error.name}: {install('tune')}") from None
        from keras_vit.training import Recipe, virtual_devices
        from keras_vit.training import strategy as strategy_of

        if "devices" in config:
            virtual_devices(config["devices"])
    chosen = None
    if keras.backend.backend() == "tensorflow":
        chosen = strategy_of(config.get("strategy", "auto"))
        chosen = chosen if chosen.num_replicas_in_sync > 1 else None
    elif "strategy" in config:
        raise ValueError(f"`--strategy` needs the TensorFlow backend. Received: the backend {keras.backend.backend()}")
    model = config.get("model")
    if "weights" in config:
        model = open_model(model, config["weights"]) if model else open_model(config["weights"])
    kept = ("weights", "recipe", "model", "data", "strategy", "devices", "class_names")
    hypermodel = ViTHyperModel(
        config["data"],
        space,
        model,
        Recipe(**config["training"]),
        architecture=config.get("architecture"),
        image_size=config.get("image_size"),
        seed=config["seed"],
        mixed_precision=config.get("mixed_precision", False),
        jit_compile=config.get("jit_compile"),
        settings={name: config[name] for name in kept if name in config},
        **limits,
        **config.get("data_options", {}),
        **{name: config[name] for name in ("train_images",) if name in config},
    )
    return Search(hypermodel, output, tuner, trials, config["seed"], chosen, wait)


def show(output):
    """Writes the report, and prints the best trials and the paths of all files."""
    from keras_vit.tuning import read_trials, write_report
    from keras_vit.tuning.study import BEST

    trials = read_trials(output)
    if not any(trial.score is not None for trial in trials):
        raise ValueError(f"No trial was completed. The last one: {trials[-1].reason if trials else 'none was started'}")
    best = [trial for trial in trials if trial.score is not None][:5]
    print()
    rows = [("val_accuracy", *(f"{trial.score:.4f}" for trial in best)), ("epochs", *(len(trial.history) for trial in best))]
    rows += [(name, *(trial.values[name] for trial in best)) for name in best[0].values]
    table(("Trial", *(trial.number for trial in best)), [[f"{x:.3g}" if isinstance(x, float) else x for x in row] for row in rows])
    print()
    for name, path in ({"Config": output / BEST} | write_report(output)).items():
        print(f"{name:30}{path}")
    print(f"\nTrain the best one: {shlex.join(['keras-vit', 'train', '--config', str(output / BEST), '--output', 'RUN'])}")
