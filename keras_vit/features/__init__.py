"""The features of images: computed, kept in files, and judged."""

from keras_vit.features.embedding import embed
from keras_vit.features.files import Features, read_features, write_features
from keras_vit.features.probes import evaluate_features, knn_probabilities, nearest, probe_probabilities

__all__ = [
    "Features",
    "embed",
    "evaluate_features",
    "knn_probabilities",
    "nearest",
    "probe_probabilities",
    "read_features",
    "write_features",
]
