"""Files that are whole or absent, and folders that one program at a time writes into."""

import contextlib
import os
import pathlib

import filelock

UNFINISHED = ".unfinished-"
_OWNED = {}  # folder: its lock


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary path beside `path`; what the body writes there takes the place of `path` at its end.

    A program that is killed while writing leaves the old file as it was, and so does an error, such as a full disk.

    Args:
        path: str or path-like.

    Example:
    >>> with replacing("model.keras") as temporary:  # doctest: +SKIP
    ...     model.save(temporary)
    """
    path = pathlib.Path(path)
    temporary = path.with_name(UNFINISHED + path.name)  # the suffix stays: Keras chooses the format by it
    try:
        yield temporary
        synchronise(temporary)
        os.replace(temporary, path)
        synchronise(path.parent)  # a new name lasts once its folder is on the disk
    finally:
        temporary.unlink(missing_ok=True)


def synchronise(path):
    """Returns when a file, or the names in a folder, are on the disk."""
    windows = os.name == "nt"
    if windows and os.path.isdir(path):
        return  # Windows opens no folder, and writes a renamed file's entry with the file
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def own(folder):
    """Makes `folder`, keeps other processes out until `disown` or the end of this one, and removes what a killed one left unfinished.

    Args:
        folder: str or path-like.

    Raises:
        OSError: if another process owns the folder, or it cannot be written.
    """
    folder = pathlib.Path(folder).resolve()
    if folder in _OWNED:
        return
    folder.mkdir(parents=True, exist_ok=True)
    # The system releases this lock when the process ends, however it ends: a file alone would stay after a kill.
    lock = filelock.FileLock(folder / ".lock", timeout=0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise OSError(f"Another process writes into this folder; it must end first. Received: {folder}") from None
    _OWNED[folder] = lock
    for path in folder.glob(UNFINISHED + "*"):
        path.unlink()


def disown(folder):
    """Lets other processes own `folder` again."""
    if lock := _OWNED.pop(pathlib.Path(folder).resolve(), None):
        lock.release()
