"""Search spaces as data, and the architectures of a space that fit a budget."""

import dataclasses
import itertools
import math
import numbers
from typing import Any

from keras_vit.cost import cost
from keras_vit.layers import checks
from keras_vit.names import Table, choose
from keras_vit.stems import stem_config
from keras_vit.training import Recipe

STEMS = {
    "patch": None,
    "conv": dict(kind="conv", filters=(16, 32, 64, 64), strides=(2, 1, 2, 1)),
    "resnet": dict(kind="resnet", block_counts=(2,), width=32),
}
POOLINGS = {
    "token": dict(pooling="token", class_token=True),
    "gap": dict(pooling="gap"),
    "map": dict(pooling="map"),
}
DIMENSIONS = ("hidden_dim", "num_layers", "num_heads", "mlp_dim")
# Not all combinations of these are valid, so they are searched as one parameter.
ARCHITECTURE = ("model", *DIMENSIONS, "patch_size", "stem", "pooling", "frozen_blocks")
AUGMENTATION = ("randaugment", "mixup")
FIXED = ("source", "epochs", "steps", "head_epochs", "frozen_blocks")
TRAINING = tuple(field.name for field in dataclasses.fields(Recipe) if field.name not in FIXED)
PARAMETERS = {name: name for name in (*ARCHITECTURE, *AUGMENTATION, *TRAINING)}


def between(low: float, high: float) -> dict[str, Any]:
    """Returns a range with a logarithmic scale."""
    return {"low": low, "high": high, "log": True}


SPACES = Table(
    "search space",
    {
        # For fine-tuning pretrained weights on new data.
        "finetune": {
            "learning_rate": between(3e-5, 3e-3),
            "layer_decay": (0.65, 0.75, 0.85, 1.0),
            "weight_decay": between(1e-3, 0.3),
            "warmup_epochs": (0.0, 0.5, 1.0),
            "drop_path_rate": (0.0, 0.1, 0.2),
            "dropout_rate": (0.0, 0.1),
            "batch_size": (16, 32, 64),
            "frozen_blocks": ("none", 0, 3, 6, 9, "all"),
            "randaugment": (0, 5, 10),
            "mixup": (0.0, 0.1, 0.2),
        },
        # For a new model within a budget.
        "from_scratch": {
            "hidden_dim": (64, 128, 192, 384),
            "num_layers": (2, 4, 6, 12),
            "num_heads": (2, 4, 6),
            "mlp_dim": (128, 256, 512, 1024),
            "patch_size": (4, 7, 8, 16),
            "stem": ("patch", "conv", "resnet"),
            "pooling": ("token", "gap"),
            "learning_rate": between(5e-4, 3e-3),
            "warmup_epochs": (0.25, 1.0),
            "weight_decay": between(0.01, 0.3),
            "batch_size": (16, 32, 64),
            "drop_path_rate": (0.0, 0.1),
            "augmentation": ("none", "digits", "flip"),
            "randaugment": (0, 3),
            "mixup": (0.0, 0.2),
        },
        # For the regularization of a fixed model.
        "augment": {
            "randaugment": (0, 2, 5, 10, 15),
            "mixup": (0.0, 0.1, 0.2, 0.5, 0.8),
            "label_smoothing": (0.0, 0.1),
            "dropout_rate": (0.0, 0.1),
            "drop_path_rate": (0.0, 0.1, 0.2, 0.3),
        },
    },
)


def open_space(space: str | dict[str, Any]) -> dict[str, Any]:
    """Returns the rows of a search space.

    A row maps a parameter to a tuple of values, or to a range `{"low": ..., "high": ...}`, with `"log": True` for a logarithmic scale. A
    range between ints contains ints only.

    Args:
        space: str or dict. Name of a row of `SPACES`, or rows. `patch_size` is in pixels of the image, also after a stem. Values of `stem`
            and `pooling` are rows of `STEMS` and `POOLINGS`, those of `model` presets, those of `frozen_blocks` "none", a number, or
            "all". `randaugment` (magnitude) and `mixup` (alpha) are added to the augmentation, and 0 adds nothing. All other parameters
            are values of a `Recipe`.

    Returns:
        dict from the name of each parameter to its values.

    Raises:
        ValueError: if the name of the space or of a parameter is unknown, or a row has another form.
    """
    rows = choose("search space", space, SPACES) if isinstance(space, str) else space
    if not isinstance(rows, dict) or not rows:
        raise ValueError(f"A search space must have parameters. Received: space={space!r}")
    return {choose("parameter", name, PARAMETERS): _row(name, row) for name, row in rows.items()}


def _row(name, row):
    if isinstance(row, dict) and name not in ARCHITECTURE:
        ends = row.get("low"), row.get("high")
        numeric = all(isinstance(end, numbers.Real) and not isinstance(end, bool) for end in ends)
        if numeric and set(row) <= {"low", "high", "log"} and ends[0] < ends[1] and (ends[0] > 0 or not row.get("log")):
            return dict(row)
        raise ValueError(f"A range must have `low` < `high`, and with `log` both must be above 0. Received: {name}={row}")
    if not isinstance(row, (list, tuple)) or not row or len(set(map(repr, row))) < len(row):
        form = "distinct values" if name in ARCHITECTURE else "distinct values, or a range with `low` and `high`"
        raise ValueError(f"A parameter must have {form}. Received: {name}={row!r}")
    if name not in ARCHITECTURE and {type(value) for value in row} == {int, float}:
        return tuple(map(float, row))
    if name not in ARCHITECTURE and len({type(value) for value in row} & {int, float, str}) != 1:
        raise ValueError(f"The values of a parameter must be numbers, or strings. Received: {name}={row!r}")
    return tuple(row)


def architectures(
    rows: dict[str, Any], bases: dict[str, dict], max_parameters: int | None = None, max_macs: int | None = None
) -> list[dict[str, Any]]:
    """Returns the valid combinations of architecture parameters, in ascending order of multiply-adds.

    Args:
        rows: dict. The rows of the space, from `open_space`.
        bases: dict. All arguments of the `VisionTransformer` of each model, by model name.
        max_parameters: int or None. Largest number of parameters; None means no limit. Defaults to None.
        max_macs: int or None. Largest number of multiply-adds in the forward pass of one image; None means no limit. Defaults to None.

    Returns:
        List of dicts from the names in `rows` to values.

    Raises:
        ValueError: if no combination is valid.
    """
    names = [name for name in ARCHITECTURE if name in rows]
    valid, costs, why = [], [], ""
    for values in itertools.product(*(rows[name] for name in names)):
        choice = dict(zip(names, values))
        try:
            price = _price(choice, bases)
        except ValueError as error:
            why = why or str(error)
            continue
        costs.append(price)
        if price.parameters <= (max_parameters or math.inf) and price.macs <= (max_macs or math.inf):
            valid.append((price.macs, price.parameters, len(valid), choice))
    if not costs:
        raise ValueError(f"No combination of the search space can be built. The first fails with: {why}")
    if not valid:
        parameters, macs = (min(getattr(price, name) for price in costs) for name in ("parameters", "macs"))
        raise ValueError(
            f"The budget must allow a configuration of the search space: the smallest have {parameters:,} parameters and {macs:,} "
            f"multiply-adds. Received: max_parameters={max_parameters}, max_macs={max_macs}"
        )
    return [choice for *_, choice in sorted(valid)]


def _price(choice, bases):
    base = bases[choice["model"]] if "model" in choice else next(iter(bases.values()))
    changed = base | arguments_of(choice, base)
    if base["stem"] and not changed["stem"]:  # TOML has no null
        raise ValueError(f"A config cannot remove the stem of a model: start from a model without one. Received: stem={choice['stem']!r}")
    checks.divides("num_heads", changed["num_heads"], "hidden_dim", changed["hidden_dim"])
    if str(changed["position_embedding"]).startswith("sincos"):
        axes = 4 if "2d" in changed["position_embedding"] else 2
        checks.divides(str(axes), axes, "hidden_dim", changed["hidden_dim"])
    frozen = choice.get("frozen_blocks", "none")
    if frozen not in ("none", "all") and not (checks.is_int(frozen, least=0) and frozen <= changed["num_layers"]):
        raise ValueError(f'`frozen_blocks` must be "none", "all", or at most `num_layers`. Received: frozen_blocks={frozen!r}')
    return cost(changed)


def arguments_of(choice: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `VisionTransformer` for a combination, without those that equal `base`."""
    changes = {name: checks.integer(name, choice[name]) for name in DIMENSIONS if name in choice}
    if "pooling" in choice:
        changes |= choose("pooling", choice["pooling"], POOLINGS)
    if "patch_size" in choice or "stem" in choice:
        stem = choose("stem", choice["stem"], STEMS) if "stem" in choice else base["stem"]
        own = [_stride(base["stem"]) * side for side in checks.positive_pair("patch_size", base["patch_size"])]
        pixels = checks.positive_pair("patch_size", choice.get("patch_size", own))
        patch = [checks.divides("stride of the stem", _stride(stem), "patch_size", p) and p // _stride(stem) for p in pixels]
        changes |= {"stem": stem, "patch_size": patch[0] if patch[0] == patch[1] else tuple(patch)}
    return {name: value for name, value in changes.items() if value != base[name]}


def _stride(stem):
    return 1 if stem is None else stem_config(stem).stride
