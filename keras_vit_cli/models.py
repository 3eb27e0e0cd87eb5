"""What commands take for a model: a preset with a tag, a run's folder, or whatever `from_pretrained` reads."""

import pathlib
import re

from keras_vit_cli.configs import CONFIG, read_config

SOURCES = "MODEL:TAG (see `keras-vit list --weights`), a run's folder, a file or folder of weights, hf://owner/repository, or an https URL"


def open_model(source, weights=None):
    """Returns a model with trained weights.

    Args:
        source: str. With `weights` the name of a preset, else one of `SOURCES`.
        weights: str or None. A tag or a source of weights for the preset.
    """
    from keras_vit import zoo
    from keras_vit.checkpoints import catalogue, from_pretrained

    if weights is not None:
        return zoo.create(source, weights=weights)
    path = pathlib.Path(source).expanduser()
    if re.fullmatch(r"\w{2,}(:\w+)?", source) and not path.exists():
        name, _, tag = source.partition(":")
        if not tag:
            catalogue.find_preset(name)
            raise ValueError(f"The weights of {name} must be named: a file, or one of the tags {catalogue.tags(name)}. Received: {source}")
        return zoo.create(name, weights=tag)
    run = path / "model.keras"
    return from_pretrained(run if run.is_file() else source)


def config_of(source):
    """Returns the config of the finished run whose folder or model this is, or an empty dict."""
    path = pathlib.Path(source).expanduser()
    config = (path if path.is_dir() else path.parent) / CONFIG
    return read_config(config) if config.is_file() and config.with_name("model.keras").is_file() else {}
