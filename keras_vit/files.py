"""Files that are whole or absent, and folders that one program at a time writes into."""

import contextlib
import errno
import os
import pathlib
import shutil

import filelock

UNFINISHED = ".unfinished-"
_OWNED = {}  # folder: its lock


def cache_folder(*names):
    """Returns a subfolder of the package's cache, `$KERAS_HOME/keras_vit` (default `~/.keras/keras_vit`), as a `pathlib.Path`."""
    return pathlib.Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser().joinpath("keras_vit", *names)


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary path; what the body writes there takes the place of `path` at its end.

    A program that is killed while writing leaves the old file as it was, and so does an error. After an error nothing is left behind:
    neither what the body wrote nor the folders that were made for it.

    Args:
        path: str or path-like. Folders that it lies in are made.

    Raises:
        OSError: naming the path and the space, if the disk is full.

    Example:
    >>> with replacing("model.keras") as temporary:  # doctest: +SKIP
    ...     model.save(temporary)
    """
    path = pathlib.Path(path)
    made = [parent for parent in path.parents if not parent.exists()]
    # A folder, because libraries put files of their own beside the one that they write. The file's suffix tells Keras the format.
    folder = path.with_name(UNFINISHED + path.name)
    temporary = folder / path.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield temporary
        synchronize(temporary)
        os.replace(temporary, path)
        synchronize(path.parent)  # a new name lasts once its folder is on the disk
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):  # another program may have put something there
                parent.rmdir()
        if full := disk_full(error, path):
            raise full from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def disk_full(error, path):
    """Returns the OSError that says where there is how little space, if this is what an error is about, else None."""
    # HDF5's errors have the number in their text alone.
    if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT) and os.strerror(errno.ENOSPC) not in str(error):
        return None
    folder = next(parent for parent in pathlib.Path(path).absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    return OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {free:,} bytes are free in {folder}, and nothing was written", str(path))


def require_space(path, size):
    """Raises an OSError if `size` bytes cannot be written to `path`, before anything is."""
    folder = next(parent for parent in pathlib.Path(path).absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {size:,} bytes are needed, and {free:,} are free in {folder}", str(path))


def synchronize(path):
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
        shutil.rmtree(path) if path.is_dir() else path.unlink()  # a file of versions before 0.2


def disown(folder):
    """Lets other processes own `folder` again."""
    if lock := _OWNED.pop(pathlib.Path(folder).resolve(), None):
        lock.release()
