"""The tensors of a checkpoint file as one lazy mapping from key to array, and the memory that they are read into."""

import collections.abc
import contextlib
import math
import mmap
import pathlib
import threading
from typing import Any

import numpy as np

# A header or a pickle of names takes about 100 bytes a tensor; a megabyte holds the largest models there are.
MAX_HEADER = 10 << 20
ALIGNMENT = 64  # of tensors in TensorFlow and JAX


class CheckpointError(ValueError):
    """A checkpoint file is damaged, hostile, or of a format that is not known."""


class Tensors(collections.abc.Mapping):
    """The tensors of a checkpoint, each read when it is asked for.

    A mapping from key to a `numpy` array of the dtype in the file (`ml_dtypes.bfloat16` for bfloat16); each array is a copy of its
    own. Threads may share it. Made by `files.open_tensors`; close it, or use it in a `with` statement.

    Attributes:
        path: `pathlib.Path` of the file that was opened.
        shapes: dict from key to shape, known without reading a tensor.
        metadata: dict of what else the file says about itself; may be empty.
        configuration: dict of what our own `save` writes about a model into a file without a configuration; may be empty.

    Raises:
        CheckpointError: (a `ValueError`) if a tensor that is read turns out to be damaged.
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
        self.path = path
        self.shapes = shapes
        self.metadata = metadata or {}
        self.configuration = configuration or {}
        self._read = read
        self._close = close
        self._lock = threading.Lock()  # readers share a file and its position

    def __getitem__(self, key):
        return self.read(key)

    def read(self, key: str, scratch: Any = None) -> np.ndarray:
        """Returns an array: where the format allows it, in the memory of a `Scratch`, which lasts until the thread's next one."""
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
    """Returns a new array of zeros, whose memory the backends' tensors can share on a CPU.

    Its pages are the system's ordinary ones: the huge ones that numpy asks for can take longer to get than the tensor to read.
    """
    memory = mmap.mmap(-1, max(1, math.prod(shape) * np.dtype(dtype).itemsize), access=mmap.ACCESS_COPY)
    return np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)


class Scratch(threading.local):
    """Memory of each thread that arrays are read into in turn: new memory costs more than what is read into it."""

    memory = np.empty(0, np.uint8)

    def take(self, size: int) -> np.ndarray:
        if size > len(self.memory):
            self.memory = aligned((size,), np.uint8)
        return self.memory[:size]


@contextlib.contextmanager
def parsing(path: pathlib.Path):
    """A damaged file can raise nearly anything from the parsers below: it leaves here as one clear error."""
    try:
        yield
    except (CheckpointError, ImportError, OSError):
        raise
    except Exception as error:
        raise CheckpointError(f"A checkpoint file must be complete and well formed: {error}. Received: path={path}") from error
