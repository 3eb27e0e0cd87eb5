"""`keras-vit info`: prints what a preset costs at a resolution, without building the model."""

import datetime
import enum
import pathlib
import sys
from typing import Annotated

import typer

from keras_vit_cli.console import parse_shape, quiet, table

IMAGENET = 1_281_167  # training images


class Optimizer(enum.StrEnum):
    ADAMW = "AdamW"
    SGD = "SGD"
    LAMB = "Lamb"
    MUON = "Muon"


class Precision(enum.StrEnum):
    FLOAT32 = "float32"
    MIXED_BFLOAT16 = "mixed_bfloat16"
    BFLOAT16 = "bfloat16"


class Quantity(enum.StrEnum):
    MACS = "macs"
    MEMORY = "memory"
    SECONDS = "seconds"


def info(
    name: Annotated[str, typer.Argument(help="Preset, see `keras-vit list`.")],
    input_shape: Annotated[str | None, typer.Option(help="rows,columns,channels, such as 384,384,3. Default: the preset's.")] = None,
    num_classes: Annotated[int | None, typer.Option(min=1, help="Classes of the head. Default: the preset's.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a step.")] = 1,
    training: Annotated[bool, typer.Option("--training", help="Predict training steps, and whether they fit this device.")] = False,
    optimizer: Annotated[Optimizer, typer.Option(help="Optimizer for training.")] = Optimizer.ADAMW,
    dtype: Annotated[Precision, typer.Option(help="Precision.")] = Precision.FLOAT32,
    remat: Annotated[bool, typer.Option("--remat", help="Recompute activations in the backward pass, to save memory.")] = False,
    images: Annotated[int, typer.Option(min=1, help="Images in an epoch.")] = IMAGENET,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Measure the speed of this machine again.")] = False,
    sizes: Annotated[str | None, typer.Option(help="Sides of images to compare, in pixels, such as 224,384,512.")] = None,
    patch_sizes: Annotated[str | None, typer.Option(help="Patch sizes to compare, such as 32,16,8.")] = None,
    plot: Annotated[pathlib.Path | None, typer.Option(help="PNG or SVG file for a plot of the cost by size.")] = None,
    quantity: Annotated[Quantity, typer.Option(help="Quantity that --plot draws.")] = Quantity.MACS,
):
    """Shows what a preset costs.

    Counts parameters, multiply-adds and tokens, and estimates memory by formula, without building the model. --training also predicts the
    time of a step and of an epoch: the first time, this measures the machine for a few seconds, and with --calibrate every time. --sizes
    and --patch-sizes compare resolutions.
    """
    overrides = {} if input_shape is None else {"input_shape": parse_shape(input_shape)}
    overrides |= {} if num_classes is None else {"num_classes": num_classes, "include_top": True}
    overrides |= {"dtype": dtype.value} | ({"remat": True} if remat else {})
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise ValueError(f"`--plot` must end with .png or .svg. Received: {plot}")
    with quiet():
        from keras_vit.config import ViTConfig
        from keras_vit.cost import cost, cost_by_part, estimate_step
    config = ViTConfig.of(name, **overrides)
    steps = compared(config, numbers("--sizes", sizes), numbers("--patch-sizes", patch_sizes))  # raises if a patch does not divide a size
    if plot is not None:
        with quiet():
            from keras_vit.visualize.figures import axes_of
        axes_of(None)  # raises if matplotlib is not installed
    rows, columns = config.grid_size
    total = cost(name, batch_size, **overrides)
    timed = training or calibrate or (plot is not None and quantity is Quantity.SECONDS)
    machine = calibrated(dtype.value, calibrate) if timed else None
    step = estimate_step(config, batch_size, training, optimizer.value, machine if training else None)

    print(f"{name} at {' x '.join(map(str, config.input_shape))}\n")
    table(
        ("", ""),
        [
            ("Parameters", f"{total.parameters:,}"),
            ("Multiply-adds per image", f"{total.macs / batch_size / 1e9:.2f} G"),
            ("    of which attention scores", f"{100 * step.attention_macs / step.macs:.1f} %"),
            ("Grid of patches", f"{rows} x {columns}"),
            ("Tokens", f"{config.num_tokens} ({config.num_patches} patches, {config.num_prefix_tokens} prefix)"),
        ],
    )
    print()
    parts = cost_by_part(name, **overrides).items()
    table(("Part", "Parameters", "GMACs"), [(part, f"{price.parameters:,}", f"{price.macs / 1e9:.3f}") for part, price in parts])
    show_memory(config, batch_size, optimizer.value)
    if training:
        show_step(step, optimizer.value, images)
    if steps:
        show_sizes(steps, batch_size, training, optimizer.value, machine if training else None)
    if plot is not None:
        draw(plot, config, steps, quantity.value, machine, optimizer.value)
        print(f"\n{plot}")


def numbers(option, text):
    """Returns a tuple of ints from text such as "224,384"; () for None."""
    try:
        found = tuple(int(part) for part in text.split(",")) if text is not None else ()
    except ValueError:
        found = (0,)
    if any(number < 1 for number in found):
        raise ValueError(f"`{option}` must be numbers of pixels, such as 224,384. Received: {text}")
    return found


def compared(config, sizes, patch_sizes):
    """Returns the configurations to compare, from --sizes and --patch-sizes."""
    if not sizes and not patch_sizes:
        return []
    found = []
    for patch in patch_sizes or (config.patch_size,):
        for size in sizes or (config.image_size[0],):
            shape = (size, size, config.channels) if sizes else config.input_shape
            changed = config.replace(patch_size=patch, input_shape=shape)
            _ = changed.grid_size
            found.append(changed)
    return found


def calibrated(precision, again):
    """Returns the calibration of this machine. If it is measured, this takes a few seconds, and a message says so."""
    with quiet():
        from keras_vit.profiling import calibrate, is_calibrated
    if again or not is_calibrated(True, precision):
        print("keras-vit: measuring the speed of this machine, once, for a few seconds ...", file=sys.stderr)
    with quiet():
        return calibrate(True, precision, again)


def show_memory(config, batch_size, optimizer):
    """Prints the peak memory of a step of inference and training, by precision."""
    from keras_vit.cost import step_memory

    kinds = [("Inference", False, False), (f"Training, {optimizer}", True, False), (f"Training, {optimizer}, remat", True, True)]
    precisions = [each.value for each in Precision]
    rows = []
    for label, training, remat in kinds:
        found = [step_memory(config.replace(remat=remat, dtype=each), batch_size, training, optimizer) for each in precisions]
        rows.append((label, *(gib(each.total) for each in found)))
        rows.append(("    of which the batch's activations", *(gib(each.activations + each.scores) for each in found)))
    print()
    table((f"Peak memory of a step, batch {batch_size}", *precisions), rows)


def show_step(step, optimizer, images):
    """Prints the memory and time of a training step, and whether it fits."""
    from keras_vit.cost import largest_batch, this_device

    here, memory, seconds = this_device(), step.memory, step.seconds
    most = largest_batch(here.free_bytes, step.config, optimizer=optimizer)
    verdict = "fits" if memory.total <= here.free_bytes else "does not fit"
    rows = [
        ("Weights, gradients, optimizer", gib(memory.weights + memory.gradients + memory.optimizer)),
        ("Activations and images", gib(memory.activations + memory.scores + memory.batch)),
        (f"Free on {here.name}", f"{gib(here.free_bytes)}: a step of {step.batch_size} images {verdict}"),
        ("Largest batch that fits", f"{most:,}"),
        ("Time of a step", f"{seconds.total:.3g} s, {100 * seconds.attention / seconds.total:.0f} % of it attention scores"),
        ("Images per second", f"{step.batch_size / seconds.total:.3g}"),
        (f"Epoch of {images:,} images", str(datetime.timedelta(seconds=round(step.epoch_seconds(images))))),
    ]
    print()
    table(("Training", ""), rows)


def show_sizes(configs, batch_size, training, optimizer, machine):
    """Prints a row for each size and patch size."""
    from keras_vit.cost import estimate_step

    header = ["Image", "Patch", "Tokens", "GMACs", "Attention", f"Memory, {'training' if training else 'inference'}"]
    header, rows = header + ["Images/s"] * training, []
    for config in configs:
        step = estimate_step(config, batch_size, training, optimizer, machine)
        shape, share = " x ".join(map(str, config.image_size)), step.attention_macs / step.macs
        row = [shape, config.patch_size, config.num_tokens, f"{step.macs / batch_size / 1e9:.2f}", f"{100 * share:.1f} %"]
        row += [gib(step.memory.total)] + ([f"{batch_size / step.seconds.total:.3g}"] if training else [])
        rows.append(row)
    print()
    table(header, rows)


def draw(path, config, configs, quantity, machine, optimizer):
    from keras_vit.files import replacing
    from keras_vit.visualize import cost_curves

    sides = [each.image_size[0] for each in configs] or [96, 1024]
    patches = list(dict.fromkeys(each.patch_size for each in configs)) or None
    span = (min(sides), max(sides)) if min(sides) < max(sides) else (96, max(1024, *sides))
    ax = cost_curves(config, span, patches, quantity, machine=machine, optimizer=optimizer)
    with replacing(path) as temporary:
        ax.figure.savefig(temporary)


def gib(count):
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"
