"""Atomic writing of files, locks on folders, and the cache folder."""

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
    """Writes a file or folder atomically: yields a temporary path, which replaces `path` at the end of the body.

    If the program is killed while writing, or an error is raised, the old file stays as it was. After an error or Ctrl-C, the temporary
    file is removed, and so are folders that were created for it. What a killed program left is removed by the next one that writes `path`.

    Args:
        path: str or path-like. Missing parent folders are created.

    Raises:
        OSError: if the disk is full, with the path and the free space.

    Example:
    >>> with replacing("model.keras") as temporary:  # doctest: +SKIP
    ...     model.save(temporary)
    """
    path = pathlib.Path(path)
    made = [parent for parent in path.parents if not parent.exists()]
    # A temporary folder, because libraries write further files next to the one they are asked for, and Keras needs the file's suffix.
    folder = path.with_name(UNFINISHED + path.name)
    temporary, replaced = folder / path.name, folder / f"{path.name}.replaced"
    try:
        if replaced.exists() and not path.exists():  # a program was killed between the two names below
            replaced.rename(path)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        yield temporary
        for written in (*temporary.rglob("*"), temporary):
            synchronize(written)
        if temporary.is_dir() and path.exists():
            path.rename(replaced)  # `os.replace` does not replace a folder
        os.replace(temporary, path)
        synchronize(path.parent)  # the new name is only durable once its folder is on the disk
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        if full := disk_full(error, path):
            raise full from error
        raise
    finally:  # also after Ctrl-C
        if replaced.exists() and not path.exists():
            replaced.rename(path)
        shutil.rmtree(folder, ignore_errors=True)
        for parent in [] if path.exists() else made:
            with contextlib.suppress(OSError):  # another program may have put something there
                parent.rmdir()


def disk_full(error, path):
    """Returns an OSError with the free space if `error` means that the disk is full, else None."""
    # HDF5's errors only have the error number in their text.
    if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT) and os.strerror(errno.ENOSPC) not in str(error):
        return None
    folder = next(parent for parent in pathlib.Path(path).absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    return OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {free:,} bytes are free in {folder}, and nothing was written", str(path))


def require_space(path, size):
    """Raises an OSError if the disk has no space for a file of `size` bytes at `path`."""
    folder = next(parent for parent in pathlib.Path(path).absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {size:,} bytes are needed, and {free:,} are free in {folder}", str(path))


def synchronize(path):
    """Flushes a file, or the names in a folder, to the disk."""
    windows = os.name == "nt"
    if windows and os.path.isdir(path):
        return  # Windows cannot open folders, and writes the entry of a renamed file with the file
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def own(folder):
    """Creates and locks `folder` until `disown` or the end of this process, and removes unfinished files of a killed process.

    Args:
        folder: str or path-like.

    Raises:
        OSError: if another process has locked the folder, or it is not writable.
    """
    folder = pathlib.Path(folder).resolve()
    if folder in _OWNED:
        return
    folder.mkdir(parents=True, exist_ok=True)
    # The system releases this lock whenever the process ends. A plain file would stay after a kill.
    lock = filelock.FileLock(folder / ".lock", timeout=0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise OSError(f"Another process writes into this folder; it must end first. Received: {folder}") from None
    _OWNED[folder] = lock
    for path in folder.glob(UNFINISHED + "*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()  # versions before 0.2 wrote files


def disown(folder):
    """Releases the lock on `folder`."""
    if lock := _OWNED.pop(pathlib.Path(folder).resolve(), None):
        lock.release()
