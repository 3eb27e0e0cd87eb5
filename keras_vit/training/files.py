"""Files that are whole or absent: a program that is killed while writing leaves the old file as it was."""

import contextlib
import os
import pathlib


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary path beside `path`; what the body writes there takes the place of `path` at its end.

    Args:
        path: str or path-like.

    Example:
    >>> with replacing("model.keras") as temporary:  # doctest: +SKIP
    ...     model.save(temporary)
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f".unfinished-{path.name}")  # the suffix stays: Keras chooses the format by it
    try:
        yield temporary
        for written in (temporary, path.parent):
            descriptor = os.open(written, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
