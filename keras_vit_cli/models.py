"""Opens the model that a command names: a preset with a tag, a run's folder, or anything that `from_pretrained` reads."""

import enum
import pathlib

from keras_vit_cli.configs import parse_options

SOURCES = "MODEL:TAG (see `keras-vit list --weights`), a run's folder, a file or folder of weights, hf://owner/repository, or an https URL"
DATA = "digits, fashion_mnist, tfds:NAME, or a folder with a folder of images for each class. [default: the run's]"


class Engine(enum.StrEnum):
    SCIKIT_LEARN = "scikit-learn"
    FAISS = "faiss"


class Pooling(enum.StrEnum):
    TOKEN = "token"
    GAP = "gap"
    TOKEN_GAP = "token_gap"
    MAP = "map"


ENGINE = "What searches neighbors, exactly. faiss is faster from some ten thousand images on."
POOLING = (
    "token: the class token; gap: mean of the patch tokens; token_gap: both; map: attention pooling. [default: what the model's head reads]"
)


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


def data_of(source, data=None):
    """Returns the name of the data that a command takes: the one that is given, or else that of the run."""
    from keras_vit.training.settings import check_there

    run = config_of(source)
    if data is None and run:
        check_there(run, "data")
    data = data or run.get("data")
    if data is None:
        raise ValueError(
            f"`--data` is missing: name a data source, such as digits. Without it the model must be a run's folder. Received: {source}"
        )
    return data


def open_data(source, model, data, options=None, strict=False):
    """Returns a `keras_vit.data.Data` with images as a model takes them, and a dict of the settings that open it again, from anywhere.

    Args:
        source: str. What the model was opened from: its run has options of the data.
        model: the `VisionTransformer`.
        data: str. The data source.
        options: list of NAME=VALUE.
        strict: bool. Whether an image that cannot be read is an error.
    """
    from keras_vit.data import load
    from keras_vit.training.settings import absolute

    run = config_of(source)
    given = run.get("data_options", {}) if data == run.get("data") else {}
    given = given | parse_options(options) | ({"strict": True} if strict else {})
    given.pop("shard_by", None)  # of several workers that train
    rows, columns = model.input_shape[1:3]
    given = {"image_size": run.get("image_size", 224) if rows is None else (rows, columns)} | given
    loaded = load(data, batch_size=1, preprocessing=model.preprocessing, **given)
    return loaded, absolute({"data": data, "data_options": given})
