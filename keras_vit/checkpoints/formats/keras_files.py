"""Keras's own files, `.keras` and `.weights.h5`: what they declare is checked before Keras makes memory for it."""

import contextlib
import json
import math
import pathlib
import zipfile
from typing import Any

import h5py
import keras

from keras_vit.checkpoints.formats.archives import checked_members
from keras_vit.checkpoints.formats.tensors import MAX_HEADER, MOST_TENSORS, CheckpointError, parsing
from keras_vit.config import ViTConfig
from keras_vit.cost import cost
from keras_vit.vision_transformer import VisionTransformer

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
_PER_PARAMETER = 0.4  # bytes in a file at the least: those of int4, and some that compression saves
_PER_BLOCK = 1000  # bytes in a file at the least: names and places of a block's weights
_FLOOR = 32 << 20  # parameters that any file may ask for
_COMPRESSION, _SMALL = 10, 1 << 16  # of a dataset, which Keras never compresses; and bytes that any may have


def load_keras(path: pathlib.Path, compile: bool = False) -> VisionTransformer:
    """Loads the `VisionTransformer` in a `.keras` file.

    Args:
        path: pathlib.Path. The file.
        compile: bool. Whether it is compiled as it was when it was saved. Defaults to False.

    Raises:
        CheckpointError: (a `ValueError`) if it holds no VisionTransformer, is damaged, or declares more than it holds.
    """
    with parsing(path):
        with zipfile.ZipFile(path) as archive:
            members = checked_members(path, archive)
            packed = WEIGHTS in members and members[WEIGHTS].compress_type != zipfile.ZIP_STORED
            if not {CONFIG, WEIGHTS} <= members.keys() or members[CONFIG].file_size > MAX_HEADER or packed:
                raise CheckpointError(
                    f"A `.keras` file must hold {CONFIG}, of {MAX_HEADER} bytes at most, and {WEIGHTS}, not compressed. "
                    f"Received: path={path} with {ascii(list(members))[:200]}"
                )
            saved = json.loads(archive.read(CONFIG))
            _check_class(path, saved)
            with archive.open(WEIGHTS) as weights, h5py.File(weights) as file:
                _check_datasets(path, file)
            _check_size(path, saved["config"], members[WEIGHTS].file_size)
        return keras.saving.load_model(path, compile=compile)


@contextlib.contextmanager
def open_h5(path: pathlib.Path):
    """Yields the open `h5py.File` of a `.weights.h5` file after checking what its datasets declare.

    Raises:
        CheckpointError: (a `ValueError`) if it is damaged, or declares more than it holds.
    """
    with parsing(path):
        if not h5py.is_hdf5(path):
            raise CheckpointError(f"A `.weights.h5` file must be one of HDF5. Received: path={path}")
        with h5py.File(path) as file:
            _check_datasets(path, file)
            yield file


def _check_class(path, saved):
    name = saved["registered_name"] or saved["class_name"]
    found = keras.saving.get_registered_object(name)
    if not (isinstance(found, type) and issubclass(found, VisionTransformer)):
        what = ascii(saved["class_name"])[1:-1][:80]
        raise CheckpointError(f"A `.keras` file of weights must hold a VisionTransformer. Received: {path} with a {what}")


def _check_datasets(path, file):
    """Refuses links and datasets that lead elsewhere, and those of more bytes than the file stores for them."""
    seen = 0

    def check(group):
        nonlocal seen
        for name in group:
            seen += 1
            if seen > MOST_TENSORS:  # a group may be linked into itself
                raise CheckpointError(f"A weights file may hold {MOST_TENSORS:,} entries at most. Received: path={path}")
            if group.get(name, getlink=True, getclass=True) is not h5py.HardLink:
                raise CheckpointError(f"A weights file must not hold links. Received: {ascii(name)[:80]} in path={path}")
            entry = group[name]
            if isinstance(entry, h5py.Group):
                check(entry)
            elif isinstance(entry, h5py.Dataset):
                declared, stored = math.prod(entry.shape or ()) * entry.dtype.itemsize, entry.id.get_storage_size()
                if entry.external or entry.is_virtual or declared > max(stored * _COMPRESSION, _SMALL):
                    raise CheckpointError(
                        "A dataset must lie in its file, and hold as much as it declares. "
                        f"Received: {ascii(entry.name)[:80]} of {declared} bytes, {stored} of them stored, in path={path}"
                    )

    check(file)


def _check_size(path, config: dict[str, Any], size):
    """Refuses the configuration of a model that is many times larger than its weights in the file."""
    c = ViTConfig.of({key: value for key, value in config.items() if key not in ("trainable", "sublayers")})
    blocks = c.num_layers + sum(getattr(c.stem, "block_counts", ())) + len(getattr(c.stem, "filters", ()))
    if blocks * _PER_BLOCK <= size:
        rows, columns = (n * patch * c.stride for n, patch in zip(c.table_grid, c.patch))
        shape = (c.channels, rows, columns) if c.data_format == "channels_first" else (rows, columns, c.channels)
        closed = c.replace(input_shape=shape, position_grid=c.table_grid) if None in c.input_shape else c
        # Positions are computed where they are not learned.
        parameters = cost(closed).parameters + c.hidden_dim * (closed.num_tokens or 0)
        if parameters * _PER_PARAMETER <= size or parameters <= _FLOOR:
            return
    raise CheckpointError(
        "The model that a `.keras` file describes must be as large as its weights. "
        f"Received: hidden_dim={c.hidden_dim}, num_layers={c.num_layers}, num_classes={c.num_classes} and {size} bytes of weights in {path}"
    )
