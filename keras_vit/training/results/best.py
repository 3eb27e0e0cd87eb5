"""The best epoch of a run, and early stopping. Both only depend on the history, so that a resumed run gives the same result."""

import pathlib
from collections.abc import Callable
from typing import Any

import keras

from keras_vit.files import replacing

SCORE = "val_accuracy"


class BestEpoch(keras.callbacks.Callback):
    """Saves the weights after each epoch whose validation accuracy is higher than in all epochs before it.

    Args:
        path: `pathlib.Path` of the file, `*.weights.h5`.
        history: function that returns the finished epochs, a list of dicts with `val_accuracy`.
    """

    def __init__(self, path: pathlib.Path, history: Callable[[], list[dict]]):
        super().__init__()
        self.path, self.history = path, history

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs[SCORE] > max((row[SCORE] for row in self.history()), default=-1.0):
            model = self.model  # on JAX, reading this attribute copies the training state into the variables
            self.path.parent.mkdir(exist_ok=True)
            with replacing(self.path) as temporary:
                getattr(model, "student", model).save_weights(temporary)  # only the student of a `Distillation` is saved


def is_stale(history: list[dict], patience: int | None) -> bool:
    """Returns whether the validation accuracy has not risen for `patience` epochs. Always False with a patience of None."""
    scores = [row[SCORE] for row in history]
    return bool(scores) and patience is not None and len(scores) - 1 - scores.index(max(scores)) >= patience
