"""The folder of a run: the names of its files, and whether a run may begin there."""

import contextlib
import pathlib

from keras_vit.files import disown

CONFIG, CHECKPOINTS, MODEL, HISTORY, BATCH = "config.toml", "checkpoints", "model.keras", "history.csv", "batch.png"
BEST = "checkpoints/best.weights.h5"


def check_folder(folder: pathlib.Path | None) -> None:
    """Refuses a folder that holds a run, or anything else that a run would not put there before it begins. None is no folder."""
    if folder is None:
        return
    finished, begun = (folder / MODEL).is_file(), (folder / CONFIG).is_file()
    if finished:
        raise ValueError(
            f"The run in this folder is finished. To train its model for more epochs begin another run, with "
            f"`config={str(folder / CONFIG)!r}` and `weights={str(folder)!r}`; `resume` writes its results again. Received: output={folder}"
        )
    if begun:
        raise ValueError(f"There is a run in this folder already: `resume` goes on with it. Received: output={folder}")
    if folder.exists() and (not folder.is_dir() or any(path.name != BATCH for path in folder.glob("[!.]*"))):
        raise ValueError(f"`output` must be a new or an empty folder, or that of a run with `resume`. Received: output={folder}")


def withdraw(folder: pathlib.Path) -> None:
    """Removes what a run has written before its first checkpoint."""
    if any(folder.glob(f"{CHECKPOINTS}*/step-*.npz")):
        return
    for path in folder.glob(f"{CHECKPOINTS}*"):
        disown(path)
    for path in (folder / CONFIG, folder / HISTORY, *folder.glob(f"{CHECKPOINTS}*/.lock")):
        path.unlink(missing_ok=True)
    for path in (*folder.glob(f"{CHECKPOINTS}*"), folder):
        with contextlib.suppress(OSError):  # something else is in it
            path.rmdir()
