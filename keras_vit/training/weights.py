"""Opening a model with trained weights by its name: a preset's tag, a run's folder or a file."""

import pathlib
import re

import keras

from keras_vit import zoo
from keras_vit.checkpoints import catalogue, from_pretrained
from keras_vit.reading import read_toml
from keras_vit.training.folder import CONFIG, MODEL


def open_model(source: str, weights: str | None = None) -> keras.Model:
    """Returns a model with trained weights.

    Args:
        source: str. With `weights`, the name of a preset. Without, `MODEL:TAG`, the folder of a run, or anything that
            `keras_vit.from_pretrained` reads.
        weights: str or None. A tag of the preset, the folder of a run, or anything that `keras_vit.from_pretrained` reads. Defaults to
            None.

    Returns:
        A `VisionTransformer`.

    Raises:
        ValueError: if the model or the weights do not exist.
    """
    if weights is not None:
        if not (model := _model_of_run(weights)):
            return zoo.create(source, weights=weights)
        config = model.with_name(CONFIG)
        trained = read_toml(config, "A config").get("model", source) if config.is_file() else source
        if trained != source:
            raise ValueError(f"The run in {weights} trained a {trained}. Received: model={source!r}, weights={str(weights)!r}")
        return from_pretrained(model)  # not `zoo.create`: the run's architecture may differ from the preset's
    if model := _model_of_run(source):
        return from_pretrained(model)
    if re.fullmatch(r"\w{2,}(:\w+)?", source) and not pathlib.Path(source).expanduser().exists():
        name, _, tag = source.partition(":")
        if not tag:
            catalogue.find_preset(name)
            raise ValueError(f"Name the weights of {name}: a file, or one of the tags {catalogue.tags(name)}. Received: {source}")
        return zoo.create(name, weights=tag)
    return from_pretrained(source)


def _model_of_run(source):
    """Returns the path of the model in the folder of a finished run, or None."""
    path = pathlib.Path(source).expanduser() / MODEL
    return path if path.is_file() else None
