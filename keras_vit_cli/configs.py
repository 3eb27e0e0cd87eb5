"""The config of a run: what `train` was told, as a TOML file that it writes and takes."""

import dataclasses
import pathlib
import tomllib

from keras_vit_cli.console import quiet

CONFIG = "config.toml"
DEFAULTS = {"seed": 0, "recipe": "small_data"}
KEYS = {
    "data": str,
    "data_options": dict,
    "train_images": int,
    "model": str,
    "weights": str,
    "architecture": dict,
    "teacher": str,
    "recipe": str,
    "image_size": int,
    "seed": int,
    "mixed_precision": bool,
    "jit_compile": bool,
    "accumulation_steps": int,
    "strategy": str,
    "devices": str,
    "training": dict,
    "class_names": list,
}


def read_config(path):
    """Returns the dict in a config file, or in the folder of a run."""
    path = pathlib.Path(path)
    path = path / CONFIG if path.is_dir() else path
    try:
        config = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"A config must be a TOML file: {error}. Received: {path}") from None
    except UnicodeDecodeError:
        raise ValueError(f"A config must be a TOML file. Received: {path}") from None
    for key, value in config.items():
        if key not in KEYS:
            raise ValueError(f"A config has the keys {', '.join(KEYS)}. Received: {key} in {path}")
        if not isinstance(value, KEYS[key]) or (KEYS[key] is int and isinstance(value, bool)):
            raise ValueError(f"`{key}` must be of type {KEYS[key].__name__}. Received: {value!r} in {path}")
    return config


def write_config(config, path):
    """Writes the dict as a TOML file."""
    import tomli_w

    from keras_vit.training import replacing

    with replacing(path) as temporary:
        temporary.write_text(tomli_w.dumps(config), encoding="utf-8")


def complete(config, given):
    """Returns the config of a new run: that of a file, what the user gave, and the recipe's values under "training".

    Args:
        config: dict, as `read_config` gives it; empty without a file.
        given: dict, in which a recipe's values stand beside the rest.
    """
    with quiet():
        from keras_vit.names import choose
        from keras_vit.training import RECIPES, Recipe
    fields = {field.name for field in dataclasses.fields(Recipe)}
    training = {} if "recipe" in given else config.get("training", {})
    config = DEFAULTS | config | {key: value for key, value in given.items() if key not in fields}
    if "model" not in config and "weights" not in config:
        config["model"] = "ViTMicro4"
    changes = training | {key: value for key, value in given.items() if key in fields}
    if unknown := sorted(set(changes) - fields):
        raise ValueError(f"`training` has the values of a recipe: {', '.join(sorted(fields))}. Received: {', '.join(unknown)}")
    for one, other in (("epochs", "steps"), ("steps", "epochs")):
        if one in changes:
            changes.setdefault(other, None)
    recipe = dataclasses.replace(choose("recipe", config["recipe"], RECIPES), **changes)
    training = {key: value for key, value in dataclasses.asdict(recipe).items() if value is not None}  # TOML has no null
    return config | {"training": training}


def parse_options(texts):
    """Reads NAME=VALUE, where a value that is no number or boolean of TOML is a string."""
    options = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"`--data-option` must be NAME=VALUE. Received: {text}")
        try:
            options[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            options[name] = value
    return options
