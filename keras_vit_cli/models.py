"""What commands take for a model: a preset with a tag, a run's folder, or whatever `from_pretrained` reads."""

import json
import pathlib
import re

SOURCES = "MODEL:TAG (see `keras-vit list --weights`), a run's folder, a file or folder of weights, hf://owner/repository, or an https URL"


def open_model(source, weights=None):
    """Returns a model with trained weights.

    Args:
        source: str. With `weights` the name of a preset, else one of `SOURCES`.
        weights: str or None. A tag or a source of weights for the preset.
    """
    from keras_vit import zoo
    from keras_vit.checkpoints import catalogue, from_pretrained

    path = pathlib.Path(source).expanduser()
    if weights is not None:
        return zoo.create(source, weights=weights)
    if re.fullmatch(r"\w{2,}(:\w+)?", source) and not path.exists():
        name, _, tag = source.partition(":")
        if not tag:
            tags = ", ".join(row.tag for row in catalogue.list_weights(name)) or "none is published"
            raise ValueError(f"The weights of {name} must be named: a file, or one of the tags ({tags}). Received: {source}")
        return zoo.create(name, weights=tag)
    run = path / "model.keras"
    return from_pretrained(run if run.is_file() else source)


def class_names_of(source):
    """Returns the class names in the config.json of the run whose folder or model this is, or None."""
    path = pathlib.Path(source).expanduser()
    config = (path if path.is_dir() else path.parent) / "config.json"
    is_run = config.is_file() and config.with_name("model.keras").is_file()
    return json.loads(config.read_text()).get("class_names") if is_run else None
