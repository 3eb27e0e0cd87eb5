"""The folder of a run: the names of its files, and a check that a new run may use it."""

import contextlib
import pathlib

from keras_vit.files import disown

CONFIG, CHECKPOINTS, MODEL, HISTORY, BATCH = "config.toml", "checkpoints", "model.keras", "history.csv", "batch.png"
BEST = "checkpoints/best.weights.h5"


def check_folder(folder: pathlib.Path | None) -> None:
    """Raises a ValueError if a new run may not write into `folder`: it holds a run, or files of something else. None passes."""
    if folder is None:
        return
    finished, begun = (folder / MODEL).is_file(), (folder / CONFIG).is_file()
    if finished:
        raise ValueError(
            f"The run in this folder is finished. To train its model for more epochs, start another run with "
            f"`config={str(folder / CONFIG)!r}` and `weights={str(folder)!r}`; `resume` writes its results again. Received: output={folder}"
        )
    if begun:
        raise ValueError(f"This folder already holds a run; `resume` continues it. Received: output={folder}")
    if folder.exists() and (not folder.is_dir() or any(path.name != BATCH for path in folder.glob("[!.]*"))):
        raise ValueError(f"`output` must be a new or empty folder or, with `resume`, the folder of a run. Received: output={folder}")


def withdraw(folder: pathlib.Path) -> None:
    """Removes the files of a run that failed before its first checkpoint."""
    if any(folder.glob(f"{CHECKPOINTS}*/step-*.npz")):
        return
    for path in folder.glob(f"{CHECKPOINTS}*"):
        disown(path)
    for path in (folder / CONFIG, folder / HISTORY, *folder.glob(f"{CHECKPOINTS}*/.lock")):
        path.unlink(missing_ok=True)
    for path in (*folder.glob(f"{CHECKPOINTS}*"), folder):
        with contextlib.suppress(OSError):  # the folder holds other files
            path.rmdir()
