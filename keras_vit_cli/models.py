"""Opens the model that a command names: a preset with a tag, a run's folder, or anything that `from_pretrained` reads."""

import pathlib

SOURCES = "MODEL:TAG (see `keras-vit list --weights`), a run's folder, a file or folder of weights, hf://owner/repository, or an https URL"


def open_model(source, weights=None):
    """Returns a model with trained weights, as `keras_vit.training.weights.open_model`, which takes longer to import."""
    from keras_vit.training import weights as opening

    return opening.open_model(source, weights)


def config_of(source):
    """Returns the config of the finished run whose folder or model this is, or an empty dict."""
    from keras_vit.training.folder import CONFIG, MODEL
    from keras_vit.training.settings import read_config

    path = pathlib.Path(source).expanduser()
    config = (path if path.is_dir() else path.parent) / CONFIG
    return read_config(config) if config.is_file() and config.with_name(MODEL).is_file() else {}
