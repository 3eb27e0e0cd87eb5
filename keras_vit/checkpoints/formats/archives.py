"""Zip archives of tensors: NumPy's npz and torch's files. No pickle is executed, and all stated sizes are checked."""

import argparse
import contextlib
import json
import math
import pathlib
import pickletools
import re
import zipfile
from typing import Any

import ml_dtypes
import numpy as np

from keras_vit.checkpoints.formats.tensors import MOST_TENSORS, CheckpointError, Tensors, parsing

_DEFLATE_RATIO = 1032  # the largest ratio of deflate (zlib's technical note); a larger one is false
_UNPACKED_RATIO, _UNPACKED_FLOOR = 100, 256 << 20  # weights hardly compress: a larger ratio is a zip bomb
_MAPPED_BYTES = 32 << 20

# torch's safe list also allows constructors that allocate as much as the file states (bytearray, torch.Tensor). This list does not.
# Namespace, in the files of DeiT, MAE and DINO, only keeps attributes; NumPy scalars are accuracies and losses beside a model.
_TORCH_NAMES = re.compile(
    r"collections OrderedDict|argparse Namespace|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch (Size|device|b?float\d+|u?int\d+|\w+Storage)"
    r"|numpy\._?core\.multiarray scalar|numpy dtype|numpy\.dtypes \w+DType|_codecs encode"
)
_MAX_DEPTH = 8  # of nested dicts in a torch file, because a dict may contain itself
_MAX_PICKLE = 4 << 20  # bytes: an empty list takes one there and a hundred in memory


def open_zip(path: pathlib.Path) -> Tensors:
    """Opens an npz file or a torch file."""
    with contextlib.ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(path))
        members = checked_members(path, archive)
        pickles = [name for name in members if pathlib.PurePosixPath(name).name == "data.pkl"]
        if pickles:
            return _open_torch(path, archive, members, *pickles)
        shapes = {name.removesuffix(".npy"): _npy_shape(path, archive, info, "biuf") for name, info in members.items()}

        def read(key, scratch):
            with archive.open(members[key + ".npy"]) as member:
                array = np.lib.format.read_array(member, allow_pickle=False)
            return array.view(ml_dtypes.bfloat16) if array.dtype.kind == "V" else array

        return Tensors(path, shapes, read, close=stack.pop_all().close, configuration=_comment(archive))


def read_npz(path: Any) -> dict[str, np.ndarray]:
    """Returns the arrays of numbers and text in an npz file, after checking that the file holds what it declares.

    Args:
        path: str or path-like.

    Raises:
        CheckpointError: (a `ValueError`) if the file is damaged or hostile.
    """
    path = pathlib.Path(path)
    with parsing(path), zipfile.ZipFile(path) as archive:
        members = checked_members(path, archive)
        for info in members.values():
            _npy_shape(path, archive, info, "biufU")
        arrays = {}
        for name, info in members.items():
            with archive.open(info) as member:
                arrays[name.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
        return arrays


def _comment(archive):
    """Returns the JSON object in an archive's comment, or an empty dict if the comment is not ours."""
    with contextlib.suppress(ValueError):
        content = json.loads(archive.comment)
        return content if isinstance(content, dict) else {}
    return {}


def checked_members(path: pathlib.Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Returns {name: ZipInfo} after checking that all stated sizes are possible for a file of this size."""
    members = {}
    for info in archive.infolist():
        parts = pathlib.PurePosixPath(info.filename).parts
        long = any(len(part.encode()) > 255 for part in parts)  # no file can have this name
        if info.filename in members or ".." in parts or parts[:1] == ("/",) or "\\" in info.filename or long:
            raise CheckpointError(
                f"The members of a zip must have distinct relative names of files. Received: {info.filename[:80]!r} in path={path}"
            )
        stored = info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size
        deflated = info.compress_type == zipfile.ZIP_DEFLATED and info.file_size <= _DEFLATE_RATIO * info.compress_size
        if info.flag_bits & 1 or not (stored or deflated):
            raise CheckpointError(
                "The members of a zip must be stored or deflated, unencrypted, and of a size that their bytes can hold. "
                f"Received: {info.filename[:80]!r} of {info.file_size} bytes from {info.compress_size} in path={path}"
            )
        members[info.filename] = info
    packed, unpacked = (sum(getattr(i, size) for i in members.values()) for size in ("compress_size", "file_size"))
    size = path.stat().st_size
    if packed > size or unpacked > max(_UNPACKED_RATIO * size, _UNPACKED_FLOOR):
        raise CheckpointError(
            f"A zip may unpack to {_UNPACKED_RATIO} times its size at most. Received: {unpacked} bytes from {size} in path={path}"
        )
    return members


def _npy_shape(path, archive, info, kinds):
    if not info.filename.endswith(".npy"):
        raise CheckpointError(f"The members of an npz must be .npy arrays. Received: {info.filename[:80]!r} in path={path}")
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = header(member)
        start = member.tell()
    # NumPy saves arrays of bfloat16, which it does not know, as raw pairs of bytes: V2.
    if not (dtype.kind in kinds or dtype == np.dtype("V2")):
        raise CheckpointError(
            f"The arrays of an npz must be real numbers{' or str' if 'U' in kinds else ''}; "
            "an object array is a pickle, which can run code and is never opened. "
            f"Received: dtype {ascii(dtype)[:80]} in {info.filename[:80]!r} of path={path}"
        )
    if min(shape, default=0) < 0 or start + math.prod(shape) * dtype.itemsize != info.file_size:
        raise CheckpointError(
            "The shape in an npy header must account for the member's bytes exactly. "
            f"Received: shape {shape} of {dtype} in {info.file_size} bytes of {info.filename[:80]!r} in path={path}"
        )
    return shape


def _open_torch(path, archive, members, name, *others):
    if others or any(info.compress_type != zipfile.ZIP_STORED for info in members.values()) or members[name].file_size > _MAX_PICKLE:
        raise CheckpointError(
            f"A torch file must store its members unpacked, with one data.pkl of at most {_MAX_PICKLE} bytes. Received: path={path}"
        )
    wanted = set()
    for opcode, argument, _ in pickletools.genops(archive.read(name)):
        if opcode.name in ("GLOBAL", "INST"):
            wanted.add(argument)
        elif opcode.name in ("STACK_GLOBAL", "OBJ", "EXT1", "EXT2", "EXT4"):
            wanted.add(opcode.name)  # later opcodes of pickle that name code; torch.save does not use them
    refused = sorted(n for n in wanted if not _TORCH_NAMES.fullmatch(n))
    if refused:
        raise CheckpointError(
            "A torch file may hold only tensors and plain values; this one wants to run code and was refused. "
            f"Received: {ascii(', '.join(refused))[1:-1][:200]} in path={path}"
        )
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "A torch checkpoint is read with torch: `pip install torch`, or convert the file to safetensors elsewhere. "
            f"Received: path={path}"
        ) from error

    def load():
        with torch.serialization.safe_globals(_safe_globals()):
            content = torch.load(path, weights_only=True, mmap=True, map_location="cpu")
        return dict(_named(content, torch.Tensor, path)) if isinstance(content, dict) else {}

    tensors, touched = load(), 0
    if not tensors:
        raise CheckpointError(f"A torch file must hold a dict of tensors, or of such dicts. Received: path={path}")
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"A tensor must be dense and held in full by the file. Received: {key!r} in path={path}")
        if tensor.is_complex() or tensor.is_quantized:
            raise CheckpointError(f"A tensor must hold real numbers. Received: {key!r} of {tensor.dtype} in path={path}")

    def read(key, scratch):
        nonlocal tensors, touched
        if touched > _MAPPED_BYTES:  # mapped pages count as memory of this process until the mapping is closed
            tensors, touched = load(), 0
        tensor = tensors[key].detach()
        touched += tensor.numel() * tensor.element_size()
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        if tensor.dtype == torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()

    def close():
        nonlocal tensors
        tensors = {}

    return Tensors(path, {key: tuple(tensor.shape) for key, tensor in tensors.items()}, read, close=close)


class _Ignored:
    """Stands for NumPy's scalars beside a model, and their dtypes: made of them, they allocate as much memory as the file states."""

    def __init__(self, *arguments):
        pass

    def __setstate__(self, state):
        pass


def _safe_globals():
    """Returns what `_TORCH_NAMES` allows beyond torch's own list."""
    kinds = [kind.__name__ for kind in {type(np.dtype(kind)) for kind in ("f8", "f4", "f2", "i8", "i4", "?")}]
    names = ["numpy.dtype", *(f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")), *(f"numpy.dtypes.{kind}" for kind in kinds)]
    return [argparse.Namespace, *((_Ignored, name) for name in names)]


def _named(content, tensor_type, path):
    """Yields (key, tensor) of a dict and its nested dicts, whose names become prefixes, as in "model.cls_token"."""
    seen = 0

    def walk(content, prefix, depth):
        nonlocal seen
        for key, value in content.items():
            seen += 1
            if seen > MOST_TENSORS:  # the same dict may be in many places
                raise CheckpointError(f"A torch file may hold {MOST_TENSORS:,} entries at most. Received: path={path}")
            if isinstance(key, str) and isinstance(value, tensor_type):
                yield prefix + key, value
            elif isinstance(key, str) and isinstance(value, dict) and depth < _MAX_DEPTH:
                yield from walk(value, f"{prefix}{key}.", depth + 1)

    return walk(content, "", 0)
