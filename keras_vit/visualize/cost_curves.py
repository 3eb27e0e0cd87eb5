"""Draws the cost of an image by its size, and where attention scores, which grow with the square of the tokens, overtake the rest."""

import itertools
from collections.abc import Sequence
from typing import Any

from keras_vit.config import ViTConfig
from keras_vit.cost import Machine, Step, estimate_step
from keras_vit.visualize.figures import axes_of

HUES = ("#1f6fb4", "#d1571d", "#3a8f3a", "#8b4fa3", "#7a6a00")
# Label of each quantity, and a function that returns (total, attention scores) of a step with one image.
QUANTITIES = {
    "macs": ("Multiply-adds per image (G)", lambda step: (step.macs / 1e9, step.attention_macs / 1e9)),
    "memory": ("Peak memory per image (MiB)", lambda step: (_images_memory(step) / 2**20, step.memory.scores / 2**20)),
    "seconds": ("Time per image (ms)", lambda step: (1e3 * (step.seconds.dense + step.seconds.attention), 1e3 * step.seconds.attention)),
}


def cost_curves(
    model: Any,
    sizes: tuple[int, int] = (96, 1024),
    patch_sizes: Sequence[int] | None = None,
    quantity: str = "macs",
    ax: Any = None,
    machine: Machine | None = None,
    **more: Any,
) -> Any:
    """Draws the cost of an image by its size: attention scores, which grow with the square of the number of tokens, and the rest.

    A dot marks the size from which attention scores cost more than everything else.

    Args:
        model: a `VisionTransformer`, the name of a preset, a `ViTConfig`, or a dict of arguments of `VisionTransformer`.
        sizes: pair of ints. The smallest and the largest side of the square images, in pixels. Defaults to (96, 1024).
        patch_sizes: sequence of ints or None. Patch sizes to compare. Defaults to None, the model's own.
        quantity: str. "macs", "memory" or "seconds" of a training step or, with `training=False`, of inference. Defaults to "macs".
        ax: matplotlib axes or None. Axes to draw into; None creates a figure. Defaults to None.
        machine: `keras_vit.cost.Machine` or None. Result of `keras_vit.profiling.calibrate`, which "seconds" needs. Defaults to None.
        **more: further arguments of `keras_vit.estimate_step`, such as `training`, `remat` or `dtype`.

    Returns:
        The matplotlib axes.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if `quantity` is unknown, a patch divides none of the sizes, or "seconds" is drawn without `machine`.

    Example:
    >>> ax = keras_vit.visualize.cost_curves("ViTTi16", patch_sizes=(16, 8))
    >>> ax.get_xlabel()
    'Side of the image (pixels)'
    """
    label, parts_of = QUANTITIES[_checked(quantity, machine)]
    ax = axes_of(ax, 6.4, 4.2)
    own = ViTConfig.of(model)
    for hue, patch in zip(itertools.cycle(HUES), patch_sizes or (own.patch_size,)):
        steps = _steps(own, patch, sizes, machine, more)
        sides, whole, squared = zip(*((side, *parts_of(step)) for side, step in steps))
        rest = [total - part for total, part in zip(whole, squared)]
        name = patch if isinstance(patch, int) else "x".join(map(str, patch))
        ax.plot(sides, rest, color=hue, linewidth=1.6, label=f"patch {name}: everything else")
        ax.plot(sides, squared, color=hue, linewidth=1.6, linestyle="--", label=f"patch {name}: attention scores")
        if (place := overtakes(rest, squared)) is not None:
            ax.plot(sides[place], squared[place], "o", color=hue, markersize=7)
            ax.annotate(
                f"{sides[place]} pixels", (sides[place], squared[place]), (-6, 8), textcoords="offset points", ha="right", color=hue
            )
    ax.set(xlabel="Side of the image (pixels)", ylabel=label, yscale="log", title="Where attention overtakes the rest")
    ax.legend(frameon=False, fontsize="small")
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, color="#e5e5e5")
    ax.set_axisbelow(True)
    return ax


def overtakes(rest: Sequence[float], squared: Sequence[float]) -> int | None:
    """Returns the first position at which the curve `squared` is not below the curve `rest`, or None.

    Example:
    >>> overtakes([3, 4, 5], [1, 4, 9])
    1
    """
    return next((i for i, (one, other) in enumerate(zip(rest, squared)) if other >= one), None)


def _steps(config, patch, sizes, machine, more) -> list[tuple[int, Step]]:
    """Returns a list of (side, estimate) for at most about a hundred sides that the patch divides."""
    unit = config.stride * max(config.replace(patch_size=patch).patch)
    sides = range(-(-sizes[0] // unit) * unit, sizes[1] + 1, unit)
    if not sides:
        raise ValueError(f"The patch must divide a size in this range. Received: sizes={sizes}, patch_size={patch}")
    sides = sides[:: max(1, len(sides) // 100)]

    def shape(side):
        return (config.channels, side, side) if config.data_format == "channels_first" else (side, side, config.channels)

    return [(side, estimate_step(config, 1, machine=machine, input_shape=shape(side), patch_size=patch, **more)) for side in sides]


def _images_memory(step):
    return step.memory.activations + step.memory.scores + step.memory.batch


def _checked(quantity, machine):
    if quantity not in QUANTITIES:
        raise ValueError(f"`quantity` must be one of {', '.join(map(repr, QUANTITIES))}. Received: quantity={quantity!r}")
    if quantity == "seconds" and machine is None:
        raise ValueError('"seconds" needs `machine`, the result of `keras_vit.profiling.calibrate()`. Received: machine=None')
    return quantity
