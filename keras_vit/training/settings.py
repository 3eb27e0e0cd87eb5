"""The settings of a run, as `config.toml` holds them: reading, checking, completing and writing them."""

import dataclasses
import os
import pathlib
from typing import Any

from keras_vit.checkpoints import catalogue
from keras_vit.files import replacing
from keras_vit.layers import checks
from keras_vit.names import choose, nearest
from keras_vit.reading import read_toml
from keras_vit.training.folder import CONFIG
from keras_vit.training.recipe import Recipe
from keras_vit.training.recipes import RECIPES

KEYS = {  # name of a setting: (its type, its least value if it is an int)
    "data": (str, None),
    "data_options": (dict, None),
    "train_images": (int, 1),
    "model": (str, None),
    "weights": (str, None),
    "architecture": (dict, None),
    "teacher": (str, None),
    "recipe": (str, None),
    "image_size": (int, 1),
    "seed": (int, 0),
    "mixed_precision": (bool, None),
    "jit_compile": (bool, None),
    "accumulation_steps": (int, 1),
    "strategy": (str, None),
    "devices": (str, None),
    "keep_best": (bool, None),
    "patience": (int, 1),
    "training": (dict, None),
    "class_names": (list, None),
}
RECIPE_VALUES = tuple(field.name for field in dataclasses.fields(Recipe))
PATHS = ("data", "weights", "teacher")
PATH_OPTIONS = ("data_dir", "folder")  # of data sources


def read_config(path: str | pathlib.Path) -> dict[str, Any]:
    """Returns the settings in a TOML file, or in the `config.toml` of a folder, as a dict.

    Raises:
        ValueError: if the file is not TOML, or a setting is unknown or has the wrong type.
        OSError: if there is no such file.
    """
    path = pathlib.Path(path)
    path = path / CONFIG if path.is_dir() else path
    config = read_toml(path, "A config")
    check(config, f" in {path}")
    return config


def write_config(config: dict[str, Any], path: pathlib.Path) -> None:
    """Writes settings as a TOML file."""
    import tomli_w

    with replacing(path) as temporary:
        temporary.write_text(tomli_w.dumps(config), encoding="utf-8")


def check(config: dict[str, Any], where: str = "") -> None:
    """Raises a ValueError for settings with unknown names or wrong types.

    Args:
        config: dict of settings.
        where: str. End of the error message: where the settings come from.

    Raises:
        ValueError: naming the nearest settings, or the right type.
    """
    for key, value in config.items():
        if key not in KEYS:
            raise ValueError(f"Unknown setting; there is {', '.join(nearest(key, KEYS))}. Received: {ascii(key)[1:-1][:80]}{where}")
        kind, least = KEYS[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ValueError(f"`{key}` must be of type {kind.__name__}. Received: {key}={value!r}{where}")
        if least is not None:
            checks.integer(key, value, least)
    if unknown := sorted(set(config.get("training", {})) - set(RECIPE_VALUES)):
        names = ", ".join(nearest(unknown[0], RECIPE_VALUES))
        raise ValueError(
            f"`training` has the values of a recipe, such as {names}. Received: {ascii(', '.join(unknown))[1:-1][:200]}{where}"
        )
    if not all(isinstance(name, str) for name in config.get("class_names", ())):
        raise ValueError(f"`class_names` must be strings. Received: {config['class_names']}{where}")


def complete(config: dict[str, Any], given: dict[str, Any], recipe: Recipe | None = None) -> dict[str, Any]:
    """Returns the settings of a new run: those of a file, those given, and all values of the recipe under "training".

    Paths become absolute, so that a run can be resumed and evaluated from any working directory.

    Args:
        config: dict, as `read_config` returns it; empty without a file.
        given: dict of settings that override those in `config`. Values of the recipe are keys like any other.
        recipe: a `Recipe` that takes the place of the one that the settings name, or None.

    Returns:
        dict of settings.

    Raises:
        ValueError: if a setting is unknown or wrong.
    """
    check(config)
    changes = {key: value for key, value in given.items() if key in RECIPE_VALUES}
    given = {key: value for key, value in given.items() if key not in RECIPE_VALUES}
    check(given)
    training = {} if "recipe" in given else config.get("training", {})
    config = {"seed": 0} | config | given
    if "model" not in config and "weights" not in config:
        config["model"] = "ViTMicro4"
    config.setdefault("recipe", "finetune" if "weights" in config else "small_data")
    if recipe is not None:
        config["recipe"] = next((name for name, row in RECIPES.items() if row == recipe), "own")
    elif {"source", "batch_size"} <= set(training):
        recipe = Recipe(**training)  # a run's own config holds every value, except those that are None, which TOML cannot express
    else:
        recipe = changed(choose("recipe", config["recipe"], RECIPES), training)
    recipe = changed(recipe, changes)
    if config.get("keep_best") and recipe.ema_momentum is not None:
        raise ValueError(
            "`keep_best` cannot be used with `ema_momentum`: the validation accuracy of an epoch is not that of the averaged weights. "
            f"Leave out `keep_best`, or set `ema_momentum` to None. Received: keep_best=True, ema_momentum={recipe.ema_momentum}"
        )
    return absolute(config | {"training": values_of(recipe)})


def changed(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """Returns the recipe with some values changed. Setting `epochs` clears `steps`, and the reverse."""
    for one, other in (("epochs", "steps"), ("steps", "epochs")):
        if one in values:
            values = {other: None} | values
    return dataclasses.replace(recipe, **values)


def values_of(recipe: Recipe) -> dict[str, Any]:
    """Returns the values of a recipe that are not None, as a dict for TOML."""
    if not isinstance(recipe.augmentation, str):
        raise ValueError(
            f"The augmentation of a run must be a name, which its config can hold. Received: augmentation={recipe.augmentation!r}"
        )
    return {key: value for key, value in dataclasses.asdict(recipe).items() if value is not None}


def absolute(config: dict[str, Any]) -> dict[str, Any]:
    """Returns settings with absolute paths in place of relative ones."""
    tags = {row.tag for row in catalogue.CATALOGUE if row.model == config.get("model")}
    found = {key: _absolute(config[key]) for key in PATHS if key in config and _is_path(key, config[key]) and config[key] not in tags}
    options = config.get("data_options", {})
    options = options | {key: _absolute(options[key]) for key in PATH_OPTIONS if isinstance(options.get(key), str)}
    return config | found | ({"data_options": options} if options else {})


def _is_path(key, value):
    if key == "data":
        return not _is_named(value) and (os.path.basename(value) != value or os.path.isdir(value))
    return os.path.exists(os.path.expanduser(value))


def _is_named(data):
    """Returns whether `data` is the name of a data source, and not a folder."""
    from keras_vit.data import SOURCES  # imported late, because it imports TensorFlow

    return data in SOURCES or data.startswith("tfds:")


def _absolute(path):
    return os.path.abspath(os.path.expanduser(path))


def agree(config: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of an existing run, after checking that those given agree with them.

    Data and weights that have been moved may be given by their new path.

    Args:
        config: dict, as `read_config` returns it.
        given: dict, as `complete` takes it.

    Raises:
        ValueError: if a given setting differs from the run's.
    """
    check({key: value for key, value in given.items() if key not in RECIPE_VALUES})
    whole = [field.name for field in dataclasses.fields(Recipe) if field.default is dataclasses.MISSING]
    if missing := [name for name in whole if name not in config.get("training", {})]:
        lacks = f"`training.{missing[0]}`" if "training" in config else "`training`"
        raise ValueError(f"The settings of a run must hold its whole recipe under `training`, as a run writes them. Received: no {lacks}")
    config, given = absolute(config), absolute(given)
    settings = config | config["training"]
    for name, value in (given.get("training", {}) | given).items():
        if name == "training" or value == settings.get(name):
            continue
        if name in PATHS and is_lost(name, settings.get(name)):
            config = config | {name: value}
            continue
        option, was = "--" + name.replace("_", "-"), settings.get(name, "not given")
        raise ValueError(f"A run keeps its settings: this one was started with {option} {was}. Received: {option} {value}")
    return config


def check_there(config: dict[str, Any], key: str) -> None:
    """Raises a ValueError if the data or weights of a run are no longer at their path.

    Args:
        config: dict, as `read_config` returns it.
        key: "data", "weights" or "teacher".
    """
    if is_lost(key, config.get(key)):
        raise ValueError(f"The {key} of this run are no longer at {config[key]}: give their path as `{key}`")


def is_lost(key: str, path: Any) -> bool:
    """Returns whether a setting names a file or folder that does not exist."""
    if path is None or os.path.exists(path):
        return False
    # Earlier versions kept the path of the data as it was given, relative or not.
    return os.path.isabs(path) or (key == "data" and not _is_named(path))
