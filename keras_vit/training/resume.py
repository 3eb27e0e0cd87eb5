"""Checkpoints from which `fit` goes on as if it had never stopped."""

import json
import pathlib
import zipfile
import zlib

import keras
import numpy as np

from keras_vit.training.files import replacing


class Checkpoints(keras.callbacks.Callback):
    """Writes a checkpoint after every epoch, and restores the newest one.

    A checkpoint is one file with all that a run consists of: weights, optimizer, seed generators (Keras's weight files lack them,
    which restarts every dropout mask) and the history. With training data that is a function of the step, such as `keras_vit.data`
    gives, a run that was stopped and resumed ends with the very weights of one that was not.

    Args:
        folder: str or path-like. Made when the first checkpoint is written.
        keep: int. Number of newest checkpoints to keep.

    Attributes:
        history: list with a dict for each epoch so far, also of the epochs before a resume: `epoch`, from 1, and the logs of `fit`.

    Example:
    >>> checkpoints = Checkpoints("runs/digits/checkpoints")  # doctest: +SKIP
    >>> epoch = checkpoints.restore(model)  # doctest: +SKIP
    >>> model.fit(  # doctest: +SKIP
    ...     data.train_from(epoch * data.steps_per_epoch), steps_per_epoch=data.steps_per_epoch, initial_epoch=epoch, epochs=40,
    ...     validation_data=data.validation, callbacks=[checkpoints],
    ... )
    """

    def __init__(self, folder, keep=2):
        super().__init__()
        if keep < 1:
            raise ValueError(f"`keep` must be at least 1. Received: keep={keep}")
        self.folder = pathlib.Path(folder)
        self.keep = keep
        self.history = []

    def restore(self, model):
        """Puts the newest checkpoint that can be read into a compiled model.

        Args:
            model: the compiled keras.Model to restore.

        Returns:
            int. The number of finished epochs, 0 if there is no checkpoint: the `initial_epoch` for `fit`.

        Raises:
            ValueError: if the checkpoint belongs to another model or optimizer.
        """
        for path in reversed(self.files()):
            try:
                with np.load(path) as file:
                    arrays = dict(file)
            except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error):  # damaged on the disk, as the checksums show
                continue
            state = json.loads(arrays.pop("state").tobytes())
            variables = run_variables(model)
            if {k: v.shape for k, v in arrays.items()} != {k: tuple(v.shape) for k, v in variables.items()}:
                raise ValueError(f"The checkpoint belongs to another model or optimizer. Received: {path}")
            for key, variable in variables.items():
                variable.assign(arrays[key])
            self.history = state["history"]
            return state["epoch"]
        return 0

    def on_epoch_end(self, epoch, logs=None):
        self.history.append({"epoch": epoch + 1, **{name: float(value) for name, value in (logs or {}).items()}})
        self.save(epoch + 1)

    def save(self, epoch):
        state = json.dumps({"epoch": epoch, "history": self.history}).encode()
        arrays = {key: keras.ops.convert_to_numpy(v) for key, v in run_variables(self.model).items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / f"epoch-{epoch:05d}.npz") as temporary:
            np.savez(temporary, state=np.frombuffer(state, np.uint8), **arrays)
        for path in self.files()[: -self.keep]:
            path.unlink()

    def files(self):
        """Returns the paths of the checkpoints, the newest last."""
        return sorted(self.folder.glob("epoch-*.npz"))


def run_variables(model):
    """Returns `{key: variable}` of all that changes while training. Keys are numbered: names of layers differ between processes."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    # Metrics begin anew with every epoch. What `variables` has beside `weights` are then the states of the seed generators.
    metrics = {id(v) for metric in model.metrics for v in metric.variables}
    parts = {"model": [v for v in model.variables if id(v) not in metrics], "optimizer": model.optimizer.variables}
    return {f"{part}-{number:05d}": v for part, variables in parts.items() for number, v in enumerate(variables)}
