"""Building blocks of checkpoint formats: rows that map our weights to keys of the file, with the layout of the arrays."""

import functools
import logging
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_vit.layers import checks

log = logging.getLogger("keras_vit")

# Names of activations in other libraries' configurations. If several map to one of ours, the first is written.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "quickgelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
}


class Layout(NamedTuple):
    """Holds the functions that convert arrays from the file's layout to ours (`read`) and back (`write`)."""

    read: Callable
    write: Any  # None for what is read alone


class File(NamedTuple):
    """Describes how a model is written in a format.

    Attributes:
        arguments: dict. Arguments of the equivalent model in the file, which may have zeros for weights that ours lacks.
        key: callable. Maps a canonical key to the file's key.
        configs: dict. The content of each JSON file beside the weights, by file name.
        extra: dict. Arrays by key that the format requires and our model lacks.
        comment: dict. Settings that a format without a configuration cannot hold, for its comment.
        details: dict. The keyword arguments of the format's `rows`.
    """

    arguments: dict
    key: Callable
    configs: dict = {}
    extra: dict = {}
    comment: dict = {}
    details: dict = {}


class Row(NamedTuple):
    """Maps our weights `paths` to their tensors `keys`."""

    paths: tuple
    keys: tuple
    layout: Layout


def row(paths: Any, keys: Any, layout: Layout | None = None) -> Row:
    """Returns a `Row`. `paths` and `keys` are each a str or a sequence of str."""
    as_tuple = lambda x: (x,) if isinstance(x, str) else tuple(x)  # noqa: E731
    return Row(as_tuple(paths), as_tuple(keys), layout or SAME)


def _parted(array, parts=3):
    return tuple(np.ascontiguousarray(a.T) for a in np.split(array, parts, axis=-1))


SAME = Layout(lambda a: a, lambda a: a)
LINEAR = Layout(np.transpose, np.transpose)  # torch stores a Linear as (out, in)
CONV = Layout(lambda a: np.transpose(a, (2, 3, 1, 0)), lambda a: np.transpose(a, (3, 2, 0, 1)))  # torch: (out, in, rows, columns)
JOINED = Layout(lambda *a: np.concatenate(a).T, lambda a: _parted(a))  # separate in the file, concatenated in ours
JOINED_BIAS = Layout(lambda *a: np.concatenate(a), lambda a: tuple(np.split(a, 3)))
JOINED_PAIR = Layout(JOINED.read, lambda a: _parted(a, 2))
JOINED_PAIR_BIAS = Layout(JOINED_BIAS.read, lambda a: tuple(np.split(a, 2)))


def positions(prefix: int, grid: tuple[int, int], lead: tuple[int, ...] = (1,)) -> Layout:
    """Returns the layout of positions: (lead, prefix + rows * columns, D) in the file, a table and maybe a prefix table in ours."""
    rows, columns = grid

    def read(a):
        a = np.reshape(a, (-1, a.shape[-1]))
        table = np.reshape(a[prefix:], (rows, columns, -1)) if len(a) == prefix + rows * columns else a
        return (a[:prefix], table) if prefix else table

    def write(*tables):
        flat = np.concatenate([np.reshape(t, (-1, t.shape[-1])) for t in tables])
        return np.reshape(flat, (*lead, *flat.shape))

    return Layout(read, write)


def cut_patches(patch_size: Any, linear: bool) -> Layout:
    """Returns the layout of the projection of patches that are cut already (NaFlex): a matrix in the file, a patch kernel in ours.

    Args:
        patch_size: int or pair of ints.
        linear: bool. Whether the matrix is (D, values), as in torch, and not (values, D).
    """
    turned = np.transpose if linear else lambda a: a
    patch = checks.positive_pair("patch_size", patch_size)
    return Layout(lambda a: np.reshape(turned(a), (*patch, -1, turned(a).shape[-1])), lambda a: turned(np.reshape(a, (-1, a.shape[-1]))))


def side_of_patch(values: int, channels: int = 3) -> int:
    """Returns the side of the square patches whose pixels are so many values.

    Raises:
        ValueError: if there is none.
    """
    side = math.isqrt(values // channels)
    if side * side * channels != values:
        raise ValueError(f"The patches must be squares of {channels} channels. Received: a patch embedding of {values} values")
    return side


def kernel_shape(shape: tuple, patch_size: Any = None, channels: int = 3) -> tuple:
    """Returns the shape (D, channels, rows, columns) of a patch kernel, also of one that is a matrix (D, values) in the file.

    Raises:
        ValueError: if the numbers do not fit, or the patches are those of videos.
    """
    if len(shape) == 4:
        return shape
    if len(shape) != 2:
        raise ValueError(f"Models of videos are not read. Received: a patch embedding of shape {tuple(shape)}")
    width, values = shape
    patch = checks.positive_pair("patch_size", patch_size or side_of_patch(values, channels))
    if math.prod(patch) * channels != values:
        agree({"patch_size": patch_size}, {"patch_size": f"{values} values"})
    return (width, channels, *patch)


def position_row(arguments: dict[str, Any], key: str, lead: tuple[int, ...] = (1,), flat: bool = True) -> Row:
    """Returns the row of the learned positions of class tokens and patches.

    `flat` says whether the rows and columns of the grid are one axis in the file. Defaults to True.
    """
    if not flat:
        grid = (*lead, *arguments["position_grid"])
        return row("position_embedding/table", key, Layout(lambda a: a[0] if lead else a, lambda a: np.reshape(a, (*grid, a.shape[-1]))))
    prefix = arguments["class_token"] + arguments["distillation_token"] if arguments["prefix_positions"] else 0
    paths = ("position_embedding/prefix_table", "position_embedding/table") if prefix else "position_embedding/table"
    return row(paths, key, positions(prefix, arguments["position_grid"], lead))


def dense(path: str, key: str, layout: Layout = LINEAR, kernel: str = "weight", bias: str = "bias", use_bias: bool = True) -> list[Row]:
    """Returns the rows of a dense layer or convolution."""
    rows = [row(f"{path}/kernel", f"{key}.{kernel}", layout)]
    return rows + ([row(f"{path}/bias", f"{key}.{bias}")] if use_bias else [])


def dense_pair(path: str, keys: tuple[str, ...]) -> list[Row]:
    """Returns the rows of a dense layer whose outputs are those of two in the file, such as SwiGLU's gate and value."""
    kernel = row(f"{path}/kernel", [f"{key}.weight" for key in keys], JOINED_PAIR)
    return [kernel, row(f"{path}/bias", [f"{key}.bias" for key in keys], JOINED_PAIR_BIAS)]


def norm(path: str, key: str, scale: str = "weight", bias: str = "bias") -> list[Row]:
    """Returns the rows of a normalization."""
    return [row(f"{path}/gamma", f"{key}.{scale}"), row(f"{path}/beta", f"{key}.{bias}")]


def resnet_stem(shapes: dict[str, tuple], root: str, unit: str) -> dict[str, Any]:
    """Returns the `stem` argument for a torch ResNet, given the key of its root kernel and the pattern of a unit's first kernel."""
    stages = count(shapes, unit.replace("{}", "{0}", 1).replace("{}", "0", 1))
    block_counts = tuple(count(shapes, unit.replace("{}", str(stage), 1)) for stage in range(stages))
    width = shapes[root][0]
    # The epsilons of GroupNorm and of the standardized convolution differ from Google's.
    form = dict(norm_epsilon=1e-5, standardization="variance", standardization_epsilon=1e-8)
    return dict(kind="resnet", block_counts=block_counts, width=width, num_groups=min(32, width), **form)


def resnet_rows(stem: dict[str, Any], root: str, root_norm: str, unit: str) -> list[Row]:
    """Returns the rows of a torch ResNet, given the keys of its root's kernel and normalization, and the pattern of a unit's keys."""
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


# timm's hybrids: the counts of units in each stage, and what their stems share.
HYBRIDS = {
    (): "vit_tiny_r_s16_p8_224",
    (2, 2, 2, 2): "vit_base_r26_s32_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}
STEM = dict(
    kind="resnet",
    block_counts=None,  # one of `HYBRIDS`
    width=64,
    num_groups=32,
    norm_epsilon=1e-5,
    standardization="variance",
    standardization_epsilon=1e-8,
)


def conv_stem(shapes: dict[str, tuple]) -> dict[str, Any]:
    """Returns the `stem` argument for timm's stem of convolutions."""
    kernels = [shapes[f"patch_embed.stem.{i}.0.weight"] for i in range(count(shapes, "patch_embed.stem.{}.0.weight"))]
    filters = tuple(kernel[0] for kernel in kernels)
    return dict(kind="conv", filters=filters, strides=tuple(1 if kernel[0] == kernel[1] else 2 for kernel in kernels))


def conv_stem_rows(stem: dict[str, Any]) -> list[Row]:
    """Returns the rows of timm's stem of convolutions."""
    table = []
    for i in range(len(stem["filters"])):
        theirs = f"patch_embed.stem.{i}"
        table.append(row(f"stem/conv_{i}/kernel", f"{theirs}.0.weight", CONV))
        table += norm(f"stem/norm_{i}", f"{theirs}.1")
        table += [row(f"stem/norm_{i}/moving_{ours}", f"{theirs}.1.running_{key}") for ours, key in (("mean", "mean"), ("variance", "var"))]
    return table


def tokens_with_positions(a: dict[str, Any], class_tokens: tuple[str, ...]) -> Row:
    """Returns the row of class tokens, registers and positions of a file in which all of them have positions."""
    paths = (("class_token/token",) if class_tokens else ()) + ("register_tokens/token", "position_embedding/table")
    count, grid = len(class_tokens), a["position_grid"]

    def read(*arrays):
        *tokens, positions = arrays
        tokens = np.concatenate(tokens, axis=1)
        prefix = tokens.shape[1]
        tokens = tokens + positions[:, :prefix]
        table = np.reshape(positions[:, prefix:], (*grid, -1))
        return (tokens[:, :count], tokens[:, count:], table) if count else (tokens, table)

    return row(paths, (*class_tokens, "reg_token", "pos_embed"), Layout(read, None))


def count(names: Any, pattern: str, start: int = 0) -> int:
    """Returns the number of consecutive matches of a pattern such as "blocks.{}.norm1.weight" in `names`, counted from `start`."""
    number = start
    while pattern.format(number) in names:
        number += 1
    return number - start


def position_grid(
    found: int,
    prefixes: tuple[int, ...],
    cell: tuple[int, ...],
    sizes: Any = (),
    given: tuple[int, int] | None = None,
    guesses: tuple[int, ...] | None = None,
) -> tuple[int, tuple[int, int]]:
    """Returns (prefix, grid): the number of positions of prefix tokens, and the rows and columns of the other positions.

    Args:
        found: int. Number of positions in the file.
        prefixes: tuple of ints. Numbers of prefix positions that the format allows, the likeliest first.
        cell: pair of ints. Rows and columns of a patch in pixels of the image.
        sizes: sequence of (height, width). Image sizes that the file may be for, the likeliest first; sizes with None are ignored.
        given: pair of ints or None. A grid that is likelier than those of `sizes`. Defaults to None.
        guesses: tuple of ints or None. The prefixes for which a square grid may be assumed; None means `prefixes`. Defaults to None.

    Raises:
        ValueError: if the grid is ambiguous. The error names the argument to pass.
    """
    grids = [] if given is None else [checks.positive_pair("position_grid", given)]
    grids += [tuple(side // pixels for side, pixels in zip(size, cell)) for size in sizes if len(size) == 2 and None not in size]
    for grid in grids:
        if (prefix := found - math.prod(grid)) in prefixes:
            return prefix, grid
    for prefix in prefixes if guesses is None else guesses:
        side = math.isqrt(max(0, found - prefix))
        if side and side * side == found - prefix:
            return prefix, (side, side)
    raise ValueError(
        f"The checkpoint has {found} positions, and their grid is ambiguous: pass `input_shape=(height, width, channels)` of the images "
        f"that it was trained on, or `position_grid=(rows, columns)`. Received: {found} positions for patches of {cell[0]} x {cell[1]} "
        f"pixels" + "".join(f", which are not {rows} x {columns}" for rows, columns in grids)
    )


def image_sizes(overrides: dict[str, Any], expected: dict[str, Any]) -> list[tuple]:
    """Returns the (height, width) of `input_shape` in the user's arguments and in the preset's; () where there is none."""
    channels_first = (overrides.get("data_format") or keras.config.image_data_format()) == "channels_first"
    given, preset = overrides.get("input_shape") or (), expected.get("input_shape") or ()
    return [tuple(given[1:] if channels_first else given[:-1]), tuple(preset[:-1])]


def agree(config: dict[str, Any], found: dict[str, Any]) -> None:
    """Raises a ValueError if a configuration does not match the tensors.

    Args:
        config: dict. The configuration beside the file.
        found: dict. The values of the tensors, by the key of the configuration.
    """
    differ = [f"{key}={config[key]!r}, the tensors {value!r}" for key, value in found.items() if config.get(key) not in (None, value)]
    if differ:
        raise ValueError(
            f"The config.json beside the checkpoint is of another model: it says {'; '.join(differ)}. Put the file into a folder of its "
            f"own, or its own config.json beside it. Received: {differ[0].partition(',')[0]}"
        )


def known(key: str, value: Any, values: dict) -> Any:
    """Returns the entry of the dict `values` for a value in a configuration.

    Raises:
        ValueError: if there is no entry.
    """
    if value not in values:
        raise ValueError(
            f"The checkpoint's configuration has {key}={value!r}, which is not supported; {key} may be {', '.join(map(repr, values))}. "
            f"Received: {key}={value!r}"
        )
    return values[value]


def class_names(names: Any, num_classes: int | None) -> tuple[str, ...] | None:
    """Returns the class names of a checkpoint as a tuple; None if they are missing, placeholders, or not one for each class.

    Args:
        names: list of str, dict from number to name as in `id2label`, or None.
        num_classes: int or None. Number of outputs of the head; None without a head.
    """
    if isinstance(names, dict):
        names = [names.get(str(i), names.get(i)) for i in range(len(names))]
    if not names or num_classes is None or all(name == f"LABEL_{i}" for i, name in enumerate(names)):
        return None
    if len(names) != num_classes or None in names:
        log.warning("The configuration's names are not those of classes 0 to %d, and are left out: %s", num_classes - 1, names[:3])
        return None
    return tuple(map(str, names))


# What most families lack: the values that a format supports unless it says so.
PLAIN = dict(
    rotary=(None,),
    mlp_norm=(False,),
    attention_norm=(False,),
    norm_branches=(False,),
    final_norm=(True,),
    pooling_num_heads=(None,),
    pooling_mlp_dim=(None,),
    pooling_prefix_tokens=(False,),
    representation_activation=("tanh",),
    representation_bias=(True,),
    token_merging=(None, 0),
    unit_feature=(False,),
    naflex=(False,),
    norm=("layer",),
    norm_embeddings=(False, True),
    projection_bias=(True,),
)


def renaming(renames: list[tuple[str, Any]]) -> Callable[[str], str]:
    """Returns a function that applies pairs of `re.sub`, pattern and replacement, to a name, one after another."""
    return lambda name: functools.reduce(lambda name, pair: re.sub(*pair, name), renames, name)


def lacking(arguments: dict[str, Any], allowed: dict[str, Any]) -> list[str]:
    """Returns the arguments that a format does not support, such as "norm_first=False". `allowed` has the values of each, or a test; what
    it leaves out is as in `PLAIN`."""
    allowed = {**PLAIN, **allowed}
    fits = lambda name, values: values(arguments[name]) if callable(values) else arguments[name] in values  # noqa: E731
    return [f"{name}={arguments[name]!r}" for name, values in allowed.items() if not fits(name, values)]


def square(pair: tuple) -> Any:
    """Returns one number for a pair of equal numbers, else the pair as a list."""
    return pair[0] if pair[0] == pair[1] else list(pair)
