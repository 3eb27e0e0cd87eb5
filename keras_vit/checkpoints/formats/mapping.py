"""What a checkpoint format is made of: rows from our weights to its keys, with how each is laid out there."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """How arrays are turned from theirs to ours (`read`) and back (`write`)."""

    read: Callable
    write: Callable


class File(NamedTuple):
    """What a model is in a file of a format.

    Attributes:
        arguments: dict. Those of the equal model that the file holds: it may have zeros where ours has nothing, and add up constants.
        key: function from a canonical key to the file's.
        configs: dict from the name of a JSON file beside the weights to its content.
        extra: dict from key to array. Tensors that the format wants and no model of ours has.
    """

    arguments: dict
    key: Callable
    configs: dict = {}
    extra: dict = {}


class Row(NamedTuple):
    """Our weights `paths` are their tensors `keys`."""

    paths: tuple
    keys: tuple
    layout: Layout


def row(paths, keys, layout=None):
    as_tuple = lambda x: (x,) if isinstance(x, str) else tuple(x)  # noqa: E731
    return Row(as_tuple(paths), as_tuple(keys), layout or SAME)


def _parted(array, parts=3):
    return tuple(np.ascontiguousarray(a.T) for a in np.split(array, parts, axis=-1))


SAME = Layout(lambda a: a, lambda a: a)
LINEAR = Layout(np.transpose, np.transpose)  # torch keeps a Linear as (out, in)
CONV = Layout(lambda a: np.transpose(a, (2, 3, 1, 0)), lambda a: np.transpose(a, (3, 2, 0, 1)))  # torch: (out, in, rows, columns)
JOINED = Layout(lambda *a: np.concatenate(a).T, lambda a: _parted(a))  # apart there, side by side in ours
JOINED_BIAS = Layout(lambda *a: np.concatenate(a), lambda a: tuple(np.split(a, 3)))


def positions(prefix, grid, lead=(1,)):
    """Their positions (lead, prefix + rows * columns, D) as our prefix table and table, or as the table alone."""
    rows, columns = grid

    def read(a):
        a = np.reshape(a, (-1, a.shape[-1]))
        table = np.reshape(a[prefix:], (rows, columns, -1)) if len(a) == prefix + rows * columns else a
        return (a[:prefix], table) if prefix else table

    def write(*tables):
        flat = np.concatenate([np.reshape(t, (-1, t.shape[-1])) for t in tables])
        return np.reshape(flat, (*lead, *flat.shape))

    return Layout(read, write)


def position_row(arguments, key, lead=(1,)):
    """The row of learned positions, of class tokens and patches."""
    prefix = arguments["class_token"] + arguments["distillation_token"] if arguments["prefix_positions"] else 0
    paths = ("position_embedding/prefix_table", "position_embedding/table") if prefix else "position_embedding/table"
    return row(paths, key, positions(prefix, arguments["position_grid"], lead))


def dense(path, key, layout=LINEAR, kernel="weight", bias="bias", use_bias=True):
    """The rows of a dense layer or convolution."""
    rows = [row(f"{path}/kernel", f"{key}.{kernel}", layout)]
    return rows + ([row(f"{path}/bias", f"{key}.{bias}")] if use_bias else [])


def norm(path, key, scale="weight", bias="bias"):
    """The rows of a normalization."""
    return [row(f"{path}/gamma", f"{key}.{scale}"), row(f"{path}/beta", f"{key}.{bias}")]


def resnet_stem(shapes, root, unit):
    """Returns the `stem` argument for a ResNet of torch's: the key of its root kernel, and the pattern of a unit's first kernel."""
    stages = count(shapes, unit.replace("{}", "{0}", 1).replace("{}", "0", 1))
    block_counts = tuple(count(shapes, unit.replace("{}", str(stage), 1)) for stage in range(stages))
    width = shapes[root][0]
    # GroupNorm and standardised convolution differ from Google's in their epsilons.
    form = dict(norm_epsilon=1e-5, standardization="variance", standardization_epsilon=1e-8)
    return dict(kind="resnet", block_counts=block_counts, width=width, num_groups=min(32, width), **form)


def resnet_rows(stem, root, root_norm, unit):
    """The rows of a ResNet of torch's: keys of its root's kernel and normalization, and the pattern of a unit's."""
    table = [row("stem/root/kernel", f"{root}.weight", CONV)] + norm("stem/root_norm", root_norm)
    for stage, units in enumerate(stem["block_counts"]):
        for number in range(units):
            ours, theirs = f"stem/stage_{stage}_unit_{number}", unit.format(stage, number)
            for n in (1, 2, 3):
                table.append(row(f"{ours}/conv{n}/kernel", f"{theirs}.conv{n}.weight", CONV))
                table += norm(f"{ours}/norm{n}", f"{theirs}.norm{n}")
            if number == 0:  # the first unit of each stage widens
                table.append(row(f"{ours}/shortcut/kernel", f"{theirs}.downsample.conv.weight", CONV))
                table += norm(f"{ours}/shortcut_norm", f"{theirs}.downsample.norm")
    return table


def count(names, pattern, start=0):
    """How many consecutive numbers from `start` `pattern` holds for in `names`, such as "blocks.{}.norm1.weight"."""
    number = start
    while pattern.format(number) in names:
        number += 1
    return number - start


def square_grid(positions, prefixes):
    """Returns (prefix, grid) for a number of positions that fit a square grid behind one of the `prefixes`, the likeliest first."""
    for prefix in prefixes:
        side = math.isqrt(max(0, positions - prefix))
        if side and side * side == positions - prefix:
            return prefix, (side, side)
    return None, None


def lacking(arguments, allowed):
    """Returns the arguments, as "norm_first=False", whose values a format cannot hold: `allowed` has the values, or a test, of each."""
    fits = lambda name, values: values(arguments[name]) if callable(values) else arguments[name] in values  # noqa: E731
    return [f"{name}={arguments[name]!r}" for name, values in allowed.items() if not fits(name, values)]


def square(pair):
    """Returns one number for a pair of equal ones, else the pair as JSON has it."""
    return pair[0] if pair[0] == pair[1] else list(pair)
