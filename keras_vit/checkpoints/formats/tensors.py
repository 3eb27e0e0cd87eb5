"""Other people's checkpoint files as one lazy mapping from key to array. Nothing a file says is trusted, and no pickle is executed."""

import argparse
import collections.abc
import contextlib
import json
import math
import mmap
import pathlib
import pickletools
import re
import struct
import threading
import zipfile

import ml_dtypes
import numpy as np
import safetensors

KNOWN_FORMATS = "safetensors (one file, or shards with an index), npz, and torch's .pth / .pt / .bin"

# A header or a pickle of names takes about 100 bytes a tensor; a megabyte holds the largest models there are.
_MAX_HEADER = 10 << 20
_DEFLATE_RATIO = 1032  # the most that deflate can expand (zlib's technical note), so a larger claim is a lie
_UNPACKED_RATIO, _UNPACKED_FLOOR = 100, 256 << 20  # weights hardly compress: what unpacks to more than this is a bomb
_MAPPED_BYTES = 32 << 20
ALIGNMENT = 64  # of tensors in TensorFlow and JAX

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16,
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip

# torch's own safe list also holds constructors that allocate what the file asks for (bytearray, torch.Tensor): these do not.
# Namespace, in the files of DeiT and MAE, only keeps attributes.
_TORCH_NAMES = re.compile(
    r"collections OrderedDict|argparse Namespace|torch\._utils _rebuild_(tensor_v2|parameter)"
    r"|torch (Size|device|b?float\d+|u?int\d+|\w+Storage)"
)
_WRAPPERS = ("model", "state_dict", "teacher", "model_ema")


class CheckpointError(ValueError):
    """A checkpoint file is damaged, hostile, or of a format that is not known."""


class Tensors(collections.abc.Mapping):
    """The tensors of a checkpoint, each read when it is asked for.

    A mapping from key to a `numpy` array of the dtype in the file (`ml_dtypes.bfloat16` for bfloat16); each array is a copy of its
    own. Threads may share it. Made by `open_tensors`; close it, or use it in a `with` statement.

    Attributes:
        path: `pathlib.Path` of the file that was opened.
        shapes: dict from key to shape, known without reading a tensor.
        metadata: dict of what else the file says about itself; may be empty.

    Raises:
        CheckpointError: (a `ValueError`) if a tensor that is read turns out to be damaged.
        ValueError: if a tensor is read after `close`.
    """

    def __init__(self, path, shapes, read, metadata=None, close=None):
        self.path = path
        self.shapes = shapes
        self.metadata = metadata or {}
        self._read = read
        self._close = close
        self._lock = threading.Lock()  # readers share a file and its position

    def __getitem__(self, key):
        return self.read(key)

    def read(self, key, scratch=None):
        """Returns an array: where the format allows it, in the memory of a `Scratch`, which lasts until the thread's next one."""
        if key not in self.shapes:
            raise KeyError(key)
        if self._read is None:
            raise ValueError(f"Tensors are read while their file is open, and it was closed. Received: key={key!r} of path={self.path}")
        with self._lock, _parsing(self.path):
            return self._read(key, scratch)

    def __contains__(self, key):
        return key in self.shapes

    def __iter__(self):
        return iter(self.shapes)

    def __len__(self):
        return len(self.shapes)

    def __repr__(self):
        return f"<Tensors: {len(self)} in {self.path}>"

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Closes the file. Arrays already read stay valid."""
        close, self._read, self._close = self._close, None, None
        if close:
            close()


def open_tensors(path):
    """Opens a checkpoint file, or the one checkpoint in a folder, for lazy reading.

    The format is recognised by content. Sizes, offsets and names are checked against the file itself before memory is taken, and
    nothing in the file is executed.

    Args:
        path: str or path of a file (safetensors, a `.safetensors.index.json`, npz, zip-based torch), or of a folder with one of them.

    Returns:
        A `Tensors`.

    Raises:
        CheckpointError: (a `ValueError`) if the file is of no known format, damaged, or hostile.
        ValueError: if there is nothing at `path`, or a folder holds no checkpoint or several.
        ImportError: if the file is torch's and torch is not installed.

    Example:
    >>> import numpy, tempfile
    >>> path = tempfile.mkdtemp() + "/model.npz"
    >>> numpy.savez(path, cls=numpy.zeros((1, 1, 8), "float32"))
    >>> with keras_vit.checkpoints.formats.tensors.open_tensors(path) as tensors:
    ...     tensors.shapes["cls"], tensors["cls"].dtype
    ((1, 1, 8), dtype('float32'))
    """
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        folder, path = path, find_checkpoint(path)
        if path is None:
            raise ValueError(f"A checkpoint folder holds one of: {KNOWN_FORMATS}. Received: path={folder}")
    if not path.is_file():
        raise ValueError(f"`path` must be an existing checkpoint file or folder. Received: path={path}")
    if path.name.endswith(".index.json"):
        return _open_shards(path)
    with path.open("rb") as file:
        head = file.read(9)
    with _parsing(path):
        if head[8:] == b"{":
            return _open_safetensors(path)
        if head[:4] == b"PK\x03\x04":
            return _open_zip(path)
    if head[:1] == b"\x80":
        raise CheckpointError(
            "A bare pickle (what torch wrote before 1.6) can run any code and is never opened. If you trust it, rewrite it with "
            f"`torch.save(torch.load(path, weights_only=True), path)`. Received: path={path}"
        )
    raise CheckpointError(f"The content of a checkpoint file must be one of: {KNOWN_FORMATS}. Received: path={path}, which begins {head!r}")


def aligned(shape, dtype):
    """Returns a new array of zeros, whose memory the backends' tensors can share on a CPU.

    Its pages are the system's ordinary ones: the huge ones that numpy asks for can take longer to get than the tensor to read.
    """
    memory = mmap.mmap(-1, max(1, math.prod(shape) * np.dtype(dtype).itemsize), access=mmap.ACCESS_COPY)
    return np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)


class Scratch(threading.local):
    """Memory of each thread that arrays are read into in turn: new memory costs more than what is read into it."""

    memory = np.empty(0, np.uint8)

    def take(self, size):
        if size > len(self.memory):
            self.memory = aligned((size,), np.uint8)
        return self.memory[:size]


def find_checkpoint(folder):
    """Returns the `pathlib.Path` of the one checkpoint in a folder, or None; the standard names of the Hub come first.

    Raises:
        ValueError: if several files could be meant.
    """
    for name in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    found = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".npz", ".pth", ".pt") and p.is_file())
    if len(found) > 1:
        raise ValueError(f"A folder with several checkpoints is ambiguous; name one of {[p.name for p in found]}. Received: path={folder}")
    return found[0] if found else None


@contextlib.contextmanager
def _parsing(path):
    """A damaged file can raise nearly anything from the parsers below: it leaves here as one clear error."""
    try:
        yield
    except (CheckpointError, ImportError, OSError):
        raise
    except Exception as error:
        raise CheckpointError(f"A checkpoint file must be complete and well formed: {error}. Received: path={path}") from error


def _open_safetensors(path):
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("rb"))
        length = struct.unpack("<Q", file.read(8))[0]
        if length > min(_MAX_HEADER, path.stat().st_size):
            raise CheckpointError(
                f"A safetensors header must lie within its file and {_MAX_HEADER} bytes. Received: {length} in path={path}"
            )
        # The library checks the header: offsets within the file, in order, without gap or overlap, sizes equal to shape and dtype.
        # The bytes are read here: before 0.8 its numpy side knows no bfloat16, and pages that it maps count as memory beside the model's.
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
    """Two entries under one name would let the library check the first while we read the second."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice in its header")
    return table


def _open_shards(index):
    if index.stat().st_size > _MAX_HEADER:
        raise CheckpointError(f"An index must take at most {_MAX_HEADER} bytes. Received: {index.stat().st_size} in path={index}")
    with _parsing(index), contextlib.ExitStack() as stack:
        table = json.loads(index.read_bytes())
        where = table["weight_map"]
        shards = {}
        for name in sorted(set(where.values())):
            # Windows' rules are the stricter ones: both separators and drive letters.
            if name in ("", "..") or pathlib.PureWindowsPath(name).name != name:
                raise CheckpointError(f"A shard must be a plain file name beside its index. Received: {name!r} in path={index}")
            if not (index.parent / name).is_file():
                raise CheckpointError(f"Every shard of an index must lie beside it. Received: path={index} without {name!r}")
            with _parsing(index.parent / name):
                shards[name] = stack.enter_context(_open_safetensors(index.parent / name))
        missing = [key for key, name in where.items() if key not in shards[name]]
        if missing:
            raise CheckpointError(f"Every tensor of an index must be in its shard. Received: path={index} without {missing[:5]}")
        shapes = {key: shards[name].shapes[key] for key, name in where.items()}
        read = lambda key, scratch: shards[where[key]].read(key, scratch)  # noqa: E731
        return Tensors(index, shapes, read, table.get("metadata"), stack.pop_all().close)


def _open_zip(path):
    with contextlib.ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(path))
        members = _checked_members(path, archive)
        pickles = [name for name in members if pathlib.PurePosixPath(name).name == "data.pkl"]
        if pickles:
            return _open_torch(path, archive, members, *pickles)
        shapes = {name.removesuffix(".npy"): _npy_shape(path, archive, info) for name, info in members.items()}

        def read(key, scratch):
            with archive.open(members[key + ".npy"]) as member:
                array = np.lib.format.read_array(member, allow_pickle=False)
            return array.view(ml_dtypes.bfloat16) if array.dtype.kind == "V" else array

        return Tensors(path, shapes, read, close=stack.pop_all().close)


def _checked_members(path, archive):
    """Returns {name: ZipInfo} once every claim of the zip's own table is possible for a file of this size."""
    members = {}
    for info in archive.infolist():
        parts = pathlib.PurePosixPath(info.filename).parts
        if info.filename in members or ".." in parts or parts[:1] == ("/",) or "\\" in info.filename:
            raise CheckpointError(f"The members of a zip must have distinct relative names. Received: {info.filename!r} in path={path}")
        stored = info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size
        deflated = info.compress_type == zipfile.ZIP_DEFLATED and info.file_size <= _DEFLATE_RATIO * info.compress_size
        if info.flag_bits & 1 or not (stored or deflated):
            raise CheckpointError(
                "The members of a zip must be stored or deflated, unencrypted, and of a size that their bytes can hold. "
                f"Received: {info.filename!r} of {info.file_size} bytes from {info.compress_size} in path={path}"
            )
        members[info.filename] = info
    packed, unpacked = (sum(getattr(i, size) for i in members.values()) for size in ("compress_size", "file_size"))
    size = path.stat().st_size
    if packed > size or unpacked > max(_UNPACKED_RATIO * size, _UNPACKED_FLOOR):
        raise CheckpointError(
            f"A zip may unpack to {_UNPACKED_RATIO} times its size at most. Received: {unpacked} bytes from {size} in path={path}"
        )
    return members


def _npy_shape(path, archive, info):
    if not info.filename.endswith(".npy"):
        raise CheckpointError(f"The members of an npz must be .npy arrays. Received: {info.filename!r} in path={path}")
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = header(member)
        start = member.tell()
    # Arrays of bfloat16 were saved by a numpy that did not know the type: two bytes of nothing, V2.
    if not (dtype.kind in "biuf" or dtype == np.dtype("V2")):
        raise CheckpointError(
            "The arrays of an npz must be numbers; an object array is a pickle, which can run code and is never opened. "
            f"Received: dtype {dtype} in {info.filename!r} of path={path}"
        )
    if min(shape, default=0) < 0 or start + math.prod(shape) * dtype.itemsize != info.file_size:
        raise CheckpointError(
            "The shape in an npy header must account for the member's bytes exactly. "
            f"Received: shape {shape} of {dtype} in {info.file_size} bytes of {info.filename!r} in path={path}"
        )
    return shape


def _open_torch(path, archive, members, name, *others):
    if others or any(info.compress_type != zipfile.ZIP_STORED for info in members.values()) or members[name].file_size > _MAX_HEADER:
        raise CheckpointError(
            f"A torch file must store its members unpacked, with one data.pkl of at most {_MAX_HEADER} bytes. Received: path={path}"
        )
    wanted = set()
    for opcode, argument, _ in pickletools.genops(archive.read(name)):
        if opcode.name in ("GLOBAL", "INST"):
            wanted.add(argument)
        elif opcode.name in ("STACK_GLOBAL", "OBJ", "EXT1", "EXT2", "EXT4"):
            wanted.add(opcode.name)  # pickle's later ways of naming code, which torch.save does not use
    refused = sorted(n for n in wanted if not _TORCH_NAMES.fullmatch(n))
    if refused:
        raise CheckpointError(
            "A torch file may hold only tensors and plain values; this one wants to run code and was refused. "
            f"Received: {', '.join(refused)} in path={path}"
        )
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            "A torch checkpoint is read with torch: `pip install torch`, or convert the file to safetensors elsewhere. "
            f"Received: path={path}"
        ) from error

    def load():
        with torch.serialization.safe_globals([argparse.Namespace]):
            return _state_dict(torch.load(path, weights_only=True, mmap=True, map_location="cpu"), torch.Tensor)

    tensors, touched = load(), 0
    if not tensors:
        raise CheckpointError(f"A torch file must hold a dict of tensors, bare or under one of {list(_WRAPPERS)}. Received: path={path}")
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"A tensor must be dense and held in full by the file. Received: {key!r} in path={path}")

    def read(key, scratch):
        nonlocal tensors, touched
        if touched > _MAPPED_BYTES:  # the pages of a mapping count as this process's memory until it is dropped
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


def _state_dict(content, tensor_type):
    """Returns {key: tensor} from a training checkpoint, which keeps its model beside optimizer, epoch and arguments."""
    if not isinstance(content, dict):
        return {}
    inner = next(filter(None, (_state_dict(content.get(name), tensor_type) for name in _WRAPPERS)), None)
    return inner or {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, tensor_type)}
