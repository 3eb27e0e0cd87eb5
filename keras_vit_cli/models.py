"""Opens the models and data that commands name, and holds the help texts that several commands share."""

import enum
import pathlib

from keras_vit_cli.configs import parse_options
from keras_vit_cli.console import quiet

SOURCES = "MODEL:TAG (see `keras-vit list --weights`), a run's folder, a file or folder of weights, hf://owner/repository, or an https URL"
DATA_SOURCES = "digits, fashion_mnist, tfds:NAME, or a folder with one subfolder of images per class."
DATA = f"{DATA_SOURCES} [default: the run's]"
DATA_OPTION = "NAME=VALUE for the data source, such as data_dir=sets; repeatable."
STRICT = "Stop at an image that cannot be read, instead of skipping it."
BATCH_SIZE = "Number of images of a batch."
FORCE = "Replace existing output."
IMAGE_SIZE = "Side that images are resized to, in pixels. [default: the source's, or the model's]"
MODEL_SIZE = "Side that images are resized to, in pixels: less takes less time. Positions are resampled. [default: the model's]"
JIT_COMPILE = "Whether to compile with XLA. [default: where it is supported]"


class Engine(enum.StrEnum):
    SCIKIT_LEARN = "scikit-learn"
    FAISS = "faiss"


class Pooling(enum.StrEnum):
    TOKEN = "token"
    GAP = "gap"
    TOKEN_GAP = "token_gap"
    MAP = "map"


ENGINE = "Library for the exact neighbor search. faiss is faster from about ten thousand images on."
POOLING = (
    "token: the class token; gap: mean of the patch tokens; token_gap: both; map: attention pooling. [default: what the model's head reads]"
)


def open_model(source, weights=None, image_size=None):
    """Calls `keras_vit.training.weights.open_model`, which is imported late because it imports Keras.

    With `image_size`, the model is adapted to square images of this side.
    """
    from keras_vit.backbone import of_images
    from keras_vit.training import weights as opening

    model = opening.open_model(source, weights)
    return model if image_size is None else of_images(model).adapt(input_shape=(image_size, image_size, model.config.channels))


def config_of(source):
    """Returns the config of the finished run with this folder or model file; an empty dict for anything else."""
    from keras_vit.training.folder import CONFIG, MODEL
    from keras_vit.training.settings import read_config

    path = pathlib.Path(source).expanduser()
    config = (path if path.is_dir() else path.parent) / CONFIG
    return read_config(config) if config.is_file() and config.with_name(MODEL).is_file() else {}


def data_of(source: str, data: str | None = None) -> str:
    """Returns the data source of a command: the given one, or else that of the run."""
    from keras_vit.training.settings import check_there

    run = config_of(source)
    if data is None and run:
        check_there(run, "data")
    data = data or run.get("data")
    if data is None:
        raise ValueError(
            f"`--data` is missing: give a data source, such as digits. Without it, the model must be a run's folder. Received: {source}"
        )
    return data


def open_data(source, model, data, options=None, strict=False):
    """Returns a `keras_vit.data.Data` with the model's image size and preprocessing, and a dict of the settings that open it again.

    Args:
        source: str. Name or path that the model was opened from. The options of its run are used for the run's data.
        model: the `VisionTransformer`.
        data: str. The data source.
        options: list of NAME=VALUE, or None.
        strict: bool. Whether an image that cannot be read is an error. Defaults to False.
    """
    with quiet():  # it imports TensorFlow, on every backend
        from keras_vit.data import load
    from keras_vit.backbone import of_images
    from keras_vit.training.settings import absolute

    run = config_of(source)
    given = run.get("data_options", {}) if data == run.get("data") else {}
    given = given | parse_options(options) | ({"strict": True} if strict else {})
    given.pop("shard_by", None)  # only for workers that train together
    rows, columns = of_images(model).input_shape[1:3]
    given = {"image_size": run.get("image_size", 224) if rows is None else (rows, columns)} | given
    loaded = load(data, batch_size=1, preprocessing=model.preprocessing, **given)
    return loaded, absolute({"data": data, "data_options": given})
