"""The features of images: computed, kept in files, and judged."""

from keras_vit.features.embedding import embed
from keras_vit.features.files import Features, read_features, write_features

__all__ = ["Features", "embed", "read_features", "write_features"]
