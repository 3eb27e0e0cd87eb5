"""A lazy mapping from the keys of a checkpoint file to its tensors, and the memory that they are read into."""

import collections.abc
import contextlib
import errno
import math
import mmap
import pathlib
import threading
from typing import Any

import numpy as np

# A header or a pickle of names takes about 100 bytes per tensor; a megabyte is enough for the largest known models.
MAX_HEADER = 10 << 20
ALIGNMENT = 64  # bytes, of tensors in TensorFlow and JAX
MOST_TENSORS = 50_000  # the largest known checkpoints, with optimizer and running average, have some thousands
MOST_LETTERS, MOST_AXES = 500, 16  # of a tensor's name and shape
MOST_OF_A_REASON = 500  # letters of a parser's message, which may quote the file


class CheckpointError(ValueError):
    """Says that a checkpoint file is damaged, hostile, or of an unknown format."""


class Tensors(collections.abc.Mapping):
    """Maps the keys of a checkpoint to its tensors, and reads each tensor on access.

    An array has the dtype of the file (`ml_dtypes.bfloat16` for bfloat16), and is a separate copy. The mapping is thread-safe.
    `files.open_tensors` returns it. Close it, or use it in a `with` statement.

    Attributes:
        path: pathlib.Path. The opened file.
        shapes: dict. The shape of each key, known without reading a tensor.
        metadata: dict. Other entries of the file; may be empty.
        configuration: dict. What `save` writes about a model into a file without a configuration; may be empty.

    Raises:
        CheckpointError: (a `ValueError`) if a tensor is damaged, when it is read.
        ValueError: if a tensor is read after `close`.
    """

    def __init__(
        self,
        path: pathlib.Path,
        shapes: dict[str, tuple],
        read: Any,
        metadata: dict[str, Any] | None = None,
        close: Any = None,
        configuration: dict[str, Any] | None = None,
    ):
        check_names(path, shapes)
        self.path = path
        self.shapes = shapes
        self.metadata = metadata or {}
        self.configuration = configuration or {}
        self._read = read
        self._close = close
        self._lock = threading.Lock()  # threads share the file and its position

    def __getitem__(self, key):
        return self.read(key)

    def read(self, key: str, scratch: Any = None) -> np.ndarray:
        """Returns an array, in the memory of a `Scratch` if the format allows it; the thread's next read overwrites that."""
        if key not in self.shapes:
            raise KeyError(key)
        if self._read is None:
            raise ValueError(f"Tensors are read while their file is open, and it was closed. Received: key={key!r} of path={self.path}")
        with self._lock, parsing(self.path):
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

    def close(self) -> None:
        """Closes the file. Arrays already read stay valid."""
        close, self._read, self._close = self._close, None, None
        if close:
            close()


def aligned(shape: tuple, dtype: Any) -> np.ndarray:
    """Returns a new array of zeros whose memory tensors can share on a CPU.

    It uses ordinary memory pages: allocating the huge pages that NumPy requests can take longer than reading the tensor.
    """
    memory = mmap.mmap(-1, max(1, math.prod(shape) * np.dtype(dtype).itemsize), access=mmap.ACCESS_COPY)
    return np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)


class Scratch(threading.local):
    """Keeps a buffer for each thread that arrays are read into, because allocating memory costs more than reading."""

    memory = np.empty(0, np.uint8)

    def take(self, size: int) -> np.ndarray:
        if size > len(self.memory):
            self.memory = aligned((size,), np.uint8)
        return self.memory[:size]


@contextlib.contextmanager
def parsing(path: pathlib.Path):
    """Turns the many errors that parsers raise for a damaged file into one clear error."""
    try:
        yield
    except (CheckpointError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (
            None,
            errno.EINVAL,
        ):  # those are of HDF5, and of a position outside of the file
            error.filename = error.filename or str(path)
            raise
        raise CheckpointError(f"A checkpoint file must be complete and well formed: {reason(error)}. Received: path={path}") from error


@contextlib.contextmanager
def naming(path: pathlib.Path):
    """Adds the file's name to errors about what it says, and makes a `ValueError` of those that values of a wrong type raise."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{reason(error, 2000)}, in {path}") from error
    except (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise CheckpointError(
            f"A checkpoint must be described by values of the right types: {reason(error)}. Received: path={path}"
        ) from error


def reason(error: Exception, most: int = MOST_OF_A_REASON) -> str:
    """Returns what an error says, in one line of printable letters: it may quote the file."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(letter if letter.isprintable() else "?" for letter in text[:most])


def check_names(path: pathlib.Path, shapes: dict[str, tuple]) -> None:
    """Refuses more tensors, longer names and more axes than any model has: what compares names would take hours.

    Names are shown to the user, so they must be printable.
    """
    if len(shapes) > MOST_TENSORS:
        raise CheckpointError(f"A checkpoint may hold {MOST_TENSORS:,} tensors at most. Received: {len(shapes):,} in path={path}")
    for name, shape in shapes.items():
        if not (isinstance(name, str) and len(name) <= MOST_LETTERS and name.isprintable() and len(shape) <= MOST_AXES):
            raise CheckpointError(
                f"The name of a tensor must be at most {MOST_LETTERS} printable letters, and its shape at most {MOST_AXES} axes. "
                f"Received: {ascii(name)[:80]} of {len(shape)} axes in path={path}"
            )
