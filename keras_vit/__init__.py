"""Vision Transformers for Keras: layers, models and presets.

>>> import keras_vit
>>> model = keras_vit.ViTB16(num_classes=10)  # doctest: +SKIP
"""

import importlib

from keras_vit import one_dnn

one_dnn.turn_on()  # before Keras imports TensorFlow

# ruff: noqa: E402
from keras_vit import features, layers, presets, training, zoo
from keras_vit.backbone import feature_maps, merge_tokens
from keras_vit.checkpoints import from_pretrained
from keras_vit.checkpoints.catalogue import list_weights
from keras_vit.checkpoints.imagenet import decode_predictions
from keras_vit.config import ViTConfig
from keras_vit.cost import cost, estimate_step
from keras_vit.features import embed
from keras_vit.presets import list_models
from keras_vit.quantization import quantize
from keras_vit.training.soup import soup
from keras_vit.version import __version__
from keras_vit.vision_transformer import VisionTransformer
from keras_vit.zero_shot import zero_shot
from keras_vit.zoo import *  # noqa: F403 (one function for each preset)

__all__ = [
    "ViTConfig",
    "VisionTransformer",
    "__version__",
    "cost",
    "decode_predictions",
    "embed",
    "estimate_step",
    "feature_maps",
    "features",
    "from_pretrained",
    "layers",
    "list_models",
    "list_weights",
    "merge_tokens",
    "presets",
    "quantize",
    "soup",
    "training",
    "zero_shot",
    "zoo",
    *zoo.FUNCTIONS,
]

# Imported where they are first named: they bring TensorFlow or matplotlib, which a model does not need.
LAZY = ("data", "export", "profiling", "tuning", "visualize")


def __getattr__(name):
    if name in LAZY:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *LAZY})
