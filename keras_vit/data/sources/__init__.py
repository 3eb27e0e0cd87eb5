"""Where images come from: one file a source, one row of `SOURCES` for those that have a name."""

import os

import numpy as np

from keras_vit.data.sources import arrays, digits, fashion_mnist, folder, tfds
from keras_vit.data.sources.source import Source, Split
from keras_vit.names import Table

SOURCES = Table("data source", {"digits": digits.digits, "fashion_mnist": fashion_mnist.fashion_mnist})


def open_source(source, options):
    """Returns the `Source` that the user named. Arguments as in `keras_vit.data.load`."""
    if isinstance(source, (tuple, list)):
        if len(source) == 2 and all(map(is_pair, source)):
            return arrays.arrays(*source[0], test=source[1], **options)
        if len(source) != 2:
            raise ValueError(
                f"A source of arrays must be a tuple (images, labels). Received: {type(source).__name__} of {len(source)} values"
            )
        return arrays.arrays(*source, **options)
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(
            "A source must be a name, the path of a folder, or a tuple (images, labels) of arrays. "
            f"Received: source of type {type(source).__name__}"
        )
    source = os.fspath(source)
    if source.startswith("tfds:"):
        return tfds.tfds(source.removeprefix("tfds:"), **options)
    path = os.path.expanduser(source)
    if source not in SOURCES and (os.path.isdir(path) or os.path.basename(path) != path):
        return folder.folder(path, **options)
    return SOURCES[source](**options)


def is_pair(part):
    """Whether `part` is (images, labels), as opposed to images or labels alone."""
    return isinstance(part, (tuple, list)) and len(part) == 2 and np.ndim(part[0]) in (3, 4) and np.ndim(part[1]) in (1, 2)
