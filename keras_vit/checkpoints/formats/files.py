"""Opens checkpoint files: finds the file in a folder, and its format. Files are not trusted, and no pickle is executed."""

import contextlib
import json
import os
import pathlib
import re
import struct

import ml_dtypes
import numpy as np
import safetensors

from keras_vit.checkpoints.formats.archives import open_zip
from keras_vit.checkpoints.formats.tensors import MAX_HEADER, CheckpointError, Tensors, aligned, parsing

KNOWN_FORMATS = "safetensors (one file, or shards with an index), npz, and torch's .pth / .pt / .bin"

STANDARD_NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".ckpt", ".pth.tar")  # that are searched for in a folder
_SHARD = re.compile(r"-\d+-of-\d+")

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16,
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


def open_tensors(path: str | os.PathLike[str]) -> Tensors:
    """Opens a checkpoint file, or the one checkpoint in a folder, for lazy reading.

    The format is recognized by content. Sizes, offsets and names are checked against the file before memory is allocated, and nothing
    in the file is executed.

    Args:
        path: str or path of a file (safetensors, a `.safetensors.index.json`, npz, zip-based torch), or of a folder with one of them.

    Returns:
        A `Tensors`.

    Raises:
        CheckpointError: (a `ValueError`) if the file is of an unknown format, damaged, or hostile.
        ValueError: if there is nothing at `path`, or a folder holds no checkpoint or several.
        ImportError: if the file is torch's and torch is not installed.

    Example:
    >>> import numpy, tempfile
    >>> path = tempfile.mkdtemp() + "/model.npz"
    >>> numpy.savez(path, cls=numpy.zeros((1, 1, 8), "float32"))
    >>> with keras_vit.checkpoints.formats.files.open_tensors(path) as tensors:
    ...     tensors.shapes["cls"], tensors["cls"].dtype
    ((1, 1, 8), dtype('float32'))
    """
    given = pathlib.Path(path).expanduser()
    file = find_checkpoint(given) if given.is_dir() else given
    if file is None:
        raise ValueError(f"A checkpoint folder holds one of: {KNOWN_FORMATS}. Received: path={given}")
    if not file.is_file():
        raise ValueError(f"`path` must be an existing checkpoint file or folder. Received: path={given}")
    whole = _SHARD.sub("", file.name)
    if whole != file.name and (file.parent / f"{whole}.index.json").is_file():
        file = file.parent / f"{whole}.index.json"  # one shard is not a whole model
    return _open_shards(file) if file.name.endswith(".index.json") else _open_file(file)


def _open_file(path):
    with path.open("rb") as file:
        head = file.read(9)
    with parsing(path):
        if head[8:] == b"{":
            return _open_safetensors(path)
        if head[:4] == b"PK\x03\x04":
            return open_zip(path)
    if head[:1] == b"\x80":
        raise CheckpointError(
            "A bare pickle (what torch wrote before 1.6) can run any code and is never opened. If you trust it, rewrite it with "
            f"`torch.save(torch.load(path, weights_only=True), path)`. Received: path={path}"
        )
    raise CheckpointError(f"The content of a checkpoint file must be one of: {KNOWN_FORMATS}. Received: path={path}, which begins {head!r}")


def find_checkpoint(folder: pathlib.Path) -> pathlib.Path | None:
    """Returns the `pathlib.Path` of the checkpoint in a folder, or None. The standard names of the Hub come first.

    Raises:
        ValueError: if the folder holds several checkpoints.
    """
    for name in STANDARD_NAMES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(p for p in folder.iterdir() if p.name.endswith((*SUFFIXES, ".index.json")) and p.is_file())
    indexes = [p for p in found if p.name.endswith(".index.json")]
    if len(indexes) == 1 and all(_SHARD.search(p.name) for p in found if p not in indexes):
        return indexes[0]
    if len(found) > 1:
        raise ValueError(f"A folder with several checkpoints is ambiguous; name one of {[p.name for p in found]}. Received: path={folder}")
    return found[0] if found else None


def _open_safetensors(path):
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        length = struct.unpack("<Q", file.read(8))[0]
        if length > min(MAX_HEADER, path.stat().st_size):
            raise CheckpointError(
                f"A safetensors header must lie within its file and {MAX_HEADER} bytes. Received: {length} in path={path}"
            )
        # The library checks the header: offsets within the file, in order, without gap or overlap, sizes equal to shape and dtype.
        # The bytes are read here: before 0.8, its NumPy interface lacks bfloat16, and its mapped pages count as memory beside the model.
        with safetensors.safe_open(path, framework="numpy"):
            pass
        header = json.loads(file.read(length), object_pairs_hook=_distinct)
        metadata = header.pop("__metadata__", {})
        unknown = sorted({entry["dtype"] for entry in header.values()} - set(_DTYPES))
        if unknown:
            raise CheckpointError(f"The dtypes of a safetensors file must be among {list(_DTYPES)}. Received: {unknown} in path={path}")

        def read(key, scratch):
            entry = header[key]
            start, stop = entry["data_offsets"]
            file.seek(8 + length + start)
            array = aligned((stop - start,), np.uint8) if scratch is None else scratch.take(stop - start)
            if file.readinto(array) != stop - start:
                raise EOFError("it ends within a tensor")
            return array.view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])

        return Tensors(path, {key: tuple(entry["shape"]) for key, entry in header.items()}, read, metadata, stack.pop_all().close)


def _distinct(pairs):
    """Returns a dict, or raises ValueError if a name occurs twice: the library would check one entry, and we read the other."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice in its header")
    return table


def _open_shards(index):
    if index.stat().st_size > MAX_HEADER:
        raise CheckpointError(f"An index must take at most {MAX_HEADER} bytes. Received: {index.stat().st_size} in path={index}")
    with parsing(index), contextlib.ExitStack() as stack:
        table = json.loads(index.read_bytes())
        where = table["weight_map"]
        shards = {}
        for name in sorted(set(where.values())):
            # The rules of Windows are stricter: both separators, and drive letters.
            if name in ("", "..") or pathlib.PureWindowsPath(name).name != name:
                raise CheckpointError(f"A shard must be a plain file name beside its index. Received: {name!r} in path={index}")
            if not (index.parent / name).is_file():
                raise CheckpointError(f"Every shard of an index must lie beside it. Received: path={index} without {name!r}")
            shards[name] = stack.enter_context(_open_file(index.parent / name))
        missing = [key for key, name in where.items() if key not in shards[name]]
        if missing:
            raise CheckpointError(f"Every tensor of an index must be in its shard. Received: path={index} without {missing[:5]}")
        shapes = {key: shards[name].shapes[key] for key, name in where.items()}
        read = lambda key, scratch: shards[where[key]].read(key, scratch)  # noqa: E731
        return Tensors(index, shapes, read, table.get("metadata"), stack.pop_all().close)
