"""Features of images: compute, store, search and evaluate them."""

import importlib

from keras_vit.features.embedding import embed
from keras_vit.features.files import Features, read_features, write_features
from keras_vit.features.probes import evaluate_features, knn_probabilities, nearest, probe_probabilities
from keras_vit.features.search import embed_query, images_of, similar

__all__ = [
    "Features",
    "contact_sheet",
    "embed",
    "embed_query",
    "evaluate_features",
    "images_of",
    "knn_probabilities",
    "nearest",
    "probe_probabilities",
    "read_features",
    "scatter",
    "similar",
    "write_features",
]

PICTURES = ("contact_sheet", "scatter")  # they import `visualize`, which nothing else here needs


def __getattr__(name):
    if name in PICTURES:
        return getattr(importlib.import_module(f"{__name__}.pictures"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
