"""`keras-vit train`: a `keras_vit.training.Run` from the command line."""

import enum
import importlib.util
import pathlib
import shlex
import signal
import sys
from typing import Annotated

import typer

from keras_vit_cli.configs import parse_options
from keras_vit_cli.console import quiet
from keras_vit_cli.models import DATA_OPTION, DATA_SOURCES, IMAGE_SIZE, JIT_COMPILE, SOURCES, STRICT


class Keep(enum.StrEnum):
    LAST = "last"
    BEST = "best"


def train(
    output: Annotated[pathlib.Path, typer.Option(help="Folder of the run: new, empty or, with --resume, an existing run.")],
    data: Annotated[str, typer.Option(help=DATA_SOURCES)] = None,
    data_option: Annotated[list[str], typer.Option(help=DATA_OPTION)] = None,
    strict: Annotated[bool, typer.Option("--strict", help=STRICT)] = None,
    train_images: Annotated[
        int, typer.Option(min=1, help="Train on a fixed, stratified subset of this many training images. [default: all]")
    ] = None,
    model: Annotated[str, typer.Option(help="Preset, see `keras-vit list`. [default: that of the weights, or ViTMicro4]")] = None,
    weights: Annotated[str, typer.Option(help=f"Weights to start from: a tag of the preset; or {SOURCES}.")] = None,
    teacher: Annotated[str, typer.Option(help="Distill this model into the distillation token; sources as for --weights.")] = None,
    recipe: Annotated[
        str, typer.Option(help="Training recipe, see `keras-vit list --recipes`. [default: finetune with --weights, else small_data]")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training images. [default: the recipe's]")] = None,
    head_epochs: Annotated[int, typer.Option(help="Epochs before these that only train the head. [default: the recipe's]")] = None,
    batch_size: Annotated[int, typer.Option(help="Images per step. [default: the recipe's]")] = None,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate. [default: the recipe's]")] = None,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of the kernels. [default: the recipe's]")] = None,
    layer_decay: Annotated[
        float, typer.Option(help="Factor of the learning rate for each block below the head. [default: the recipe's]")
    ] = None,
    freeze: Annotated[str, typer.Option(help="Freeze the first N blocks; all: train only the head. [default: the recipe's]")] = None,
    augmentation: Annotated[str, typer.Option(help="Augmentation of the training images. [default: the recipe's]")] = None,
    drop_path_rate: Annotated[float, typer.Option(help="Rate of stochastic depth. [default: the recipe's]")] = None,
    image_size: Annotated[int, typer.Option(min=1, help=IMAGE_SIZE)] = None,
    mixed_precision: Annotated[bool, typer.Option("--mixed-precision", help="Compute in bfloat16.")] = None,
    jit_compile: Annotated[bool, typer.Option(help=JIT_COMPILE)] = None,
    accumulation_steps: Annotated[
        int, typer.Option(min=1, help="Split each batch into N micro-batches to save memory (gradient accumulation).")
    ] = None,
    keep: Annotated[Keep, typer.Option(help="Epoch whose weights are kept: last, or best by validation accuracy. [default: last]")] = None,
    patience: Annotated[int, typer.Option(min=1, help="Stop when the validation accuracy has not risen for N epochs.")] = None,
    strategy: Annotated[
        str, typer.Option(help="auto, one_device, mirrored: all GPUs, multi_worker: all machines, tpu; on JAX also fsdp, tensor_parallel.")
    ] = None,
    devices: Annotated[str, typer.Option(help="cpu:N makes N virtual devices, to try --strategy.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same run. [default: 0]")] = None,
    config: Annotated[pathlib.Path, typer.Option(help="TOML file with settings, such as another run's. Options override it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in the output folder, or start it if there is none.")] = False,
    save_every: Annotated[
        int, typer.Option(min=1, help="Steps between checkpoints. [default: one every 10 minutes, and one per epoch]")
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write logs for TensorBoard.")] = False,
    show_batch: Annotated[
        bool, typer.Option("--show-batch", help="Write the first batch as a picture, batch.png, and do not train.")
    ] = False,
):
    """Trains a model.

    Writes the model, its history, a report with pictures, and a config that repeats the run into a folder. If the run is stopped, by
    Ctrl-C, a signal or a crash of the machine, the same command with --resume continues it. It ends with the same model as an
    uninterrupted run.
    """
    # Within `fit`, the checkpoint callback handles this signal and saves first. Elsewhere there is nothing to save.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ImportError("`--tensorboard` needs TensorBoard: pip install tensorboard")
    with quiet():
        import keras_vit.data  # noqa: F401 (starts TensorFlow here, and not while something is printed)
        from keras_vit.training import Run
    run = Run(
        data,
        model,
        weights,
        recipe,
        output,
        config=config,
        resume=resume,
        data_options=parse_options(data_option) | ({"strict": True} if strict else {}) or None,
        train_images=train_images,
        teacher=teacher,
        epochs=epochs,
        head_epochs=head_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        layer_decay=layer_decay,
        frozen_blocks=parse_blocks(freeze),
        augmentation=augmentation,
        drop_path_rate=drop_path_rate,
        image_size=image_size,
        mixed_precision=mixed_precision,
        jit_compile=jit_compile,
        accumulation_steps=accumulation_steps,
        keep_best=None if keep is None else keep == Keep.BEST,
        patience=patience,
        strategy=strategy,
        devices=devices,
        seed=seed,
    )
    if show_batch:
        print(run.show_batch())
        return
    if resume:
        print(f"Resuming the run in {output}" if run.resumed else f"Starting a new run in {output}", flush=True)
    try:
        run.train(save_every=save_every, tensorboard=tensorboard)
    except FloatingPointError as error:
        raise ValueError(error) from None
    except (KeyboardInterrupt, SystemExit) as stop:
        if place := run.position():
            command = shlex.join(["keras-vit", "train", "--output", str(output), "--resume"])
            print(flush=True)  # ends the line of the progress bar
            print(f"keras-vit: stopped after {place}; resume with: {command}", file=sys.stderr)
        raise typer.Exit(130 if isinstance(stop, KeyboardInterrupt) else 0) from None


def parse_blocks(text):
    """Returns the value of --freeze: a number of blocks, "all" or None."""
    if text is None or text == "all":
        return text
    if not text.isdigit():
        raise ValueError(f"`--freeze` must be a number of blocks, or all. Received: {text}")
    return int(text)
