"""Training data: loads a source as `tf.data` datasets, whose order and augmentation only depend on the seed and the step."""

import importlib
from typing import TYPE_CHECKING

from keras_vit.data.preprocessing import evaluation_transform, read_image
from keras_vit.data.sequences import naflex_transform

if TYPE_CHECKING:
    from keras_vit.data.augmentation import AUGMENTATIONS, Augmentation
    from keras_vit.data.pipeline import Data, load
    from keras_vit.data.preview import show_batch
    from keras_vit.data.sources import SOURCES
    from keras_vit.data.token_batches import naflex

__all__ = [
    "AUGMENTATIONS",
    "SOURCES",
    "Augmentation",
    "Data",
    "evaluation_transform",
    "load",
    "naflex",
    "naflex_transform",
    "read_image",
    "show_batch",
]

# Modules that need TensorFlow, for `tf.data`, are imported on first use: reading images for a model on JAX or torch does not need it.
LAZY = {
    "AUGMENTATIONS": "augmentation",
    "Augmentation": "augmentation",
    "Data": "pipeline",
    "SOURCES": "sources",
    "load": "pipeline",
    "naflex": "token_batches",
    "show_batch": "preview",
}


def __getattr__(name):
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{LAZY[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "tensorflow":
            raise
        raise ImportError(f"`keras_vit.data.{name}` needs TensorFlow, for tf.data, on every backend: pip install tensorflow") from error


def __dir__():
    return sorted({*globals(), *LAZY})
