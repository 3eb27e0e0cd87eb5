"""Data sources. Each has a file of its own; those with a name are rows of `SOURCES`."""

import dataclasses
import inspect
import numbers
import os
from typing import Any

import numpy as np

from keras_vit.data.sources import arrays, digits, fashion_mnist, folder, tars, tfds
from keras_vit.data.sources.decoded import decoded_once
from keras_vit.data.sources.source import Source, Split
from keras_vit.names import Table, choose

SOURCES = Table("data source, and no folder of this name", {"digits": digits.digits, "fashion_mnist": fashion_mnist.fashion_mnist})


def open_source(source: Any, options: dict[str, Any]) -> Source:
    """Returns the `Source` for what a user may pass as `source`. Arguments as in `keras_vit.data.load`."""
    if isinstance(source, Source):
        if options:
            raise ValueError(f"A `Source` object accepts no options. Received: {', '.join(options)}")
        return dataclasses.replace(source, splits=dict(source.splits))
    if isinstance(source, (tuple, list)):
        if len(source) == 2 and all(map(is_pair, source)):
            return with_options(arrays.arrays, options | {"test": source[1]}, *source[0])
        if len(source) != 2:
            raise ValueError(
                f"A source of arrays must be a tuple (images, labels). Received: {type(source).__name__} of {len(source)} values"
            )
        return with_options(arrays.arrays, options, *source)
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(
            "A source must be a name, the path of a folder, or a tuple (images, labels) of arrays. "
            f"Received: source of type {type(source).__name__}"
        )
    source = os.fspath(source)
    if source.startswith("tfds:"):
        return with_options(tfds.tfds, options, source.removeprefix("tfds:"))
    path = os.path.expanduser(source)
    if source not in SOURCES and (os.path.exists(path) or os.path.basename(path) != path):
        return with_options(tars.tars if tars.holds_tars(path) else folder.folder, options, path)
    return with_options(SOURCES[source], options)


def with_options(source, options: Any, *arguments: Any):
    """Calls a data source with the user's options. Raises a ValueError for an option that is unknown or whose type is not its default's."""
    own = list(inspect.signature(source).parameters.values())[len(arguments) :]
    defaults = {parameter.name: parameter.default for parameter in own}
    if "part" in options and "part" not in defaults:
        raise ValueError(f"`shard_by='files'` needs tar files or a data set of TFDS. Received: {source.__name__}")
    for name, value in options.items():
        default = choose("option of the data source", name, defaults)
        kind = {bool: bool, float: numbers.Real, str: (str, os.PathLike)}.get(type(default), object)
        if not isinstance(value, kind) or (kind is numbers.Real and isinstance(value, bool)):
            raise ValueError(f"`{name}` must be of the type of its default, {default!r}. Received: {name}={value!r}")
    return source(*arguments, **options)


def is_pair(part):
    """Returns whether `part` is a pair (images, labels), and not images or labels only."""
    return isinstance(part, (tuple, list)) and len(part) == 2 and np.ndim(part[0]) in (3, 4) and np.ndim(part[1]) in (1, 2)
