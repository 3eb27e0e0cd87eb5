"""Run checkpoints: training resumes after any interruption, and ends with the same result as without it."""

import collections
import concurrent.futures
import json
import math
import pathlib
import signal
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import keras
import ml_dtypes
import numpy as np

from keras_vit.files import disown, own, replacing
from keras_vit.messages import say
from keras_vit.runtime.agreement import check_agreement
from keras_vit.runtime.devices import processes
from keras_vit.runtime.keras_seams import begin_fit_at

END_OF_EPOCH = "end of epoch"  # as `model.stop_training`; other callbacks set True, which ends `fit`


class Checkpoints(keras.callbacks.Callback):
    """Saves a run while `fit` trains, and resumes it when `fit` is called again.

    A run checkpoint is one file with the complete state of a run: weights, optimizer, seed generators (Keras's weight files lack them,
    which restarts every dropout mask), the running means of the metrics, the history, and the position in the data. A run that was killed
    and restarted any number of times ends with the same weights and history as an uninterrupted one.

    This needs training data that are a function of the step, as `resume` takes them. With other data, checkpoints are only written at the
    end of each epoch, and an interrupted epoch starts again. This is exact, too, if each epoch has the same batches.

    `fit` raises FloatingPointError as soon as the loss, or a weight to be saved, is not finite, and OSError if a checkpoint cannot be
    written. Earlier checkpoints stay as they are. SIGTERM (the notice to a preempted machine) and Ctrl-C take effect at the end of the
    step: the run is saved, and after SIGTERM the program exits with 0. A second signal takes effect at once.

    On JAX and torch, a step does not wait for the loss of the previous step: Keras reports losses in the background, and this callback
    handles a step when the next one begins. Callbacks that change the model in `on_train_batch_begin` must therefore come after this one.

    Args:
        folder: str or path-like. The folder of the checkpoints. Only one process at a time may write into it.
        every_steps: int or None. Steps between two checkpoints. Defaults to None.
        every_seconds: float or None. Seconds between two checkpoints. One more is written at the end of each epoch. Defaults to 600.
        keep: int. Number of checkpoints to keep, the newest ones. Defaults to 2.

    Attributes:
        epoch, done, step: int. Finished epochs, finished steps of the current epoch, and finished steps in total.
        history: list with a dict for each finished epoch, including those before a resume: `epoch`, from 1, and the logs of `fit`.

    Raises:
        ValueError: if a number is out of range.

    Example:
    >>> checkpoints = Checkpoints("runs/digits", every_steps=100)
    >>> model.fit(  # doctest: +SKIP
    ...     checkpoints.resume(data.train_from), steps_per_epoch=data.steps_per_epoch, epochs=40,
    ...     validation_data=data.validation, callbacks=[..., checkpoints],  # the last one: it saves what the others changed
    ... )
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        every_steps: int | None = None,
        every_seconds: float | None = 600.0,
        keep: int = 2,
    ):
        super().__init__()
        for name, value in (("every_steps", every_steps), ("every_seconds", every_seconds), ("keep", keep)):
            if name == "keep" if value is None else not value > 0:
                raise ValueError(f"`{name}` must be greater than 0. Received: {name}={value}")
        self.folder = pathlib.Path(folder)
        self.every_steps = every_steps
        self.every_seconds = math.inf if every_seconds is None else every_seconds
        self.keep = keep
        self.epoch = self.done = self.step = 0
        self.history = []
        self._path = self._arrays = None  # of the checkpoint that was read, until it is restored
        self._repeated = 0  # steps before the checkpoint that run again: those of one execution
        self._epoch_steps = 0  # steps of their epoch, or 0 if the checkpoint does not tell
        self._offset = 0  # steps of the current epoch that an earlier `fit` has done
        self._begun = self._ended = 0  # steps of the current epoch that this `fit` has started, and that Keras has reported
        self._losses = collections.deque()  # (step of the epoch, loss) that Keras has reported since the last check
        self._thread = None  # the thread that runs `fit`
        self._snapshot = None  # taken at the end of an epoch, because validation resets the metrics
        self._signal, self._handlers = None, {}
        self._writer, self._writing = concurrent.futures.ThreadPoolExecutor(1), None

    def resume(self, train_from: Callable) -> Any:
        """Returns the training data, starting at the step of the newest checkpoint. The model is restored when `fit` begins.

        Args:
            train_from: function that takes a step, counted from the start of training, and returns an infinite `tf.data.Dataset` that
                starts with the batch of this step. A step must always give the same batch: order and augmentation may only depend on the
                step and a seed.

        Returns:
            The dataset of `train_from`, for `fit` with `steps_per_epoch`.

        Raises:
            OSError: if another process writes into the folder, or the folder is not writable.
            ValueError: if there are checkpoints, but all are damaged.
        """
        self._read()
        return train_from(self.step - self._repeated)

    @property
    def async_safe(self) -> bool:
        """Whether Keras may call `on_train_batch_end` in the background: not if the first steps of `fit` restore the end of an epoch."""
        return not (self._repeated and self.done >= self._epoch_steps)

    def files(self) -> list[pathlib.Path]:
        """Returns the paths of the checkpoints, oldest first."""
        return sorted(self.folder.glob("step-*.npz"))

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._exact = self._arrays is not None  # `resume` was called
        self._execution = self.model.steps_per_execution
        if not self._exact:
            self._read()
        self._check_fit()
        check_agreement({"checkpoint to resume from (its folder must be shared by all workers)": (self.epoch, self.done, self.step)})
        self._saved_at, self._thread = time.monotonic(), threading.get_ident()
        self._offset = max(self.done - self._repeated, 0)
        if self._path:
            say(f"resuming after {self.done} steps of epoch {self.epoch + 1}, from {self._path}")
            self._restore("model", "optimizer")
            begin_fit_at(self.model, self.epoch)  # `on_epoch_begin` checks that it worked
        self._signal, self._begun, self._ended = None, 0, 0
        self._losses.clear()
        if threading.current_thread() is threading.main_thread():  # other threads cannot set signal handlers
            self._handlers = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._path and epoch != self.epoch:
            raise ValueError(f"`fit` must begin with `initial_epoch={self.epoch}`. Received: initial_epoch={epoch}")
        begin_fit_at(self.model, None)  # the next `fit` may begin elsewhere
        self.epoch = epoch
        if not self._repeated:
            self._path = self._arrays = None

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._after_steps(batch, late=True)
        self._begun = batch + self._execution
        if self._exact and self._offset and self._offset + self._begun >= self.params["steps"]:
            self.model.stop_training = END_OF_EPOCH  # ends the epoch after this execution; `on_epoch_end` resets it, and `fit` continues

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._losses.append((batch + 1, (logs or {}).get("loss", 0.0)))
        if threading.get_ident() == self._thread:
            self._after_steps(batch + 1)

    def _after_steps(self, steps, late=False):
        """Handles the steps that have run since the last call: checks their losses, and saves if it is time.

        Args:
            steps: int. Steps of the current epoch that this `fit` has done.
            late: bool. Whether Keras may not have reported their losses yet. Defaults to False.
        """
        if not steps:
            return
        self._check_losses()
        if self._repeated:
            # Metrics create their variables in their first batch. Therefore the execution before the checkpoint runs again, and the
            # checkpoint overwrites its result. An epoch whose steps are all done reaches its validation the same way.
            self._restore("model", "optimizer", "metrics")
            self._path = self._arrays = None
            self._repeated = due = 0
        else:
            before, done = self.step, self._offset + steps
            if done == self.done:
                return
            self.step += done - self.done
            self.done = done
            due = time.monotonic() - self._saved_at >= self.every_seconds
            due = due or self.every_steps and self.step // self.every_steps > before // self.every_steps
        complete = self._exact and self.done >= self.params["steps"]
        if self._exact and (due or complete or self._signal):
            if late:
                self._check_loss(self.step, float(self.model.get_metrics_result().get("loss", 0.0)))
            self._snapshot = self._take_snapshot()
            if due or self._signal:
                self._save()
            if not complete:
                self._snapshot = None
        self._check_writer()
        self._stop_if_asked()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._begun and self._exact:
            self._after_steps(self._begun, late=True)

    def on_test_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._signal and self._snapshot:
            self._save()
        self._stop_if_asked()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._repeated:  # another callback has ended the epoch at once
            self._after_steps(self._begun)
        self._check_losses()  # Keras has reported all of them
        self.step += max(self._offset + self._ended - self.done, 0)
        if self.model.stop_training == END_OF_EPOCH:
            self.model.stop_training = False
        self.history.append({"epoch": epoch + 1, **{name: np.asarray(value).tolist() for name, value in (logs or {}).items()}})
        self.epoch, self.done, self._offset = epoch + 1, 0, 0
        self._begun = self._ended = 0
        self._snapshot = self._take_snapshot()
        self._save()
        self._snapshot = None
        self._stop_if_asked()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._check_writer(wait=True)
        self._stop_if_asked()
        self._release()
        begin_fit_at(self.model, None)  # still set if nothing was left to train
        self._path = self._arrays = None
        whole = self.model.history  # what `fit` returns; it gets the epochs before the resume, too
        whole.epoch, whole.history = [row["epoch"] - 1 for row in self.history], {}
        for row in self.history:
            for name, value in row.items():
                if name != "epoch":
                    whole.history.setdefault(name, []).append(value)

    def _read(self):
        """Reads the newest checkpoint that is not damaged, if there is one."""
        if processes()[0] == 0:
            own(self.folder)
        self._path, self._arrays = None, {}
        state = {"epoch": 0, "done": 0, "step": 0, "repeated": 0, "history": []}
        for path in reversed(self.files()):
            try:
                with np.load(path) as file:  # compares the checksum of each array
                    arrays = dict(file)
                state = json.loads(arrays.pop("state").tobytes())
                if len(arrays) != state["arrays"]:  # a zip archive's table of contents has no checksum
                    raise ValueError("arrays are missing")
                self._path, self._arrays = path, arrays
                break
            except Exception as error:  # a damaged zip archive fails in many ways
                say(f"skipped the damaged checkpoint {path} ({error})")
        else:
            if self.files():
                raise ValueError(f"All checkpoints are damaged: remove them to start again. Received: {self.folder}")
        self.epoch, self.done, self.step, self.history = (state[name] for name in ("epoch", "done", "step", "history"))
        self._repeated = state["repeated"]
        self._epoch_steps = state.get("steps", 0)  # older checkpoints lack it

    def _check_fit(self):
        """Raises a ValueError for arguments of `fit` with which the run cannot be saved or resumed."""
        if self._exact and not self.params["steps"]:
            raise ValueError("With data of `resume`, `fit` needs `steps_per_epoch`. Received: steps_per_epoch=None")
        if self.every_steps and not self._exact:
            raise ValueError(
                f"`every_steps` needs the data of `resume`, which can start at any step. Received: every_steps={self.every_steps}"
            )
        if self._repeated and not self._exact:
            raise ValueError(f"Resuming in the middle of an epoch needs the data of `resume`. Received: {self._path}")
        steps = self.params["steps"]
        same = self._repeated == self.model.steps_per_execution and self._epoch_steps in (0, steps)
        if self._repeated and (not same or self.done > steps):
            raise ValueError(
                "An interrupted epoch must be resumed with the same `steps_per_execution` and `steps_per_epoch`. "
                f"Received: steps_per_execution={self.model.steps_per_execution}, steps_per_epoch={steps}, {self._path}"
            )
        if self._path and not self.model.built:
            raise ValueError(f"The model must be built before `fit` can restore it. Received: {self.model}")

    def _restore(self, *parts):
        variables = run_variables(self.model, *parts)
        arrays = {key: array for key, array in self._arrays.items() if key.split("-")[0] in parts}
        if {key: array.shape for key, array in arrays.items()} != {key: tuple(v.shape) for key, v in variables.items()}:
            raise ValueError(f"The checkpoint belongs to another model, optimizer or metrics. Received: {self._path}")
        for key, variable in variables.items():
            array = arrays[key]
            # NumPy's files have no bfloat16: such arrays come back as raw bytes.
            variable.assign(array.view(getattr(ml_dtypes, variable.dtype)) if array.dtype.kind == "V" else array)

    def _take_snapshot(self):
        """Returns the state and a copy of all variables: training goes on while they are written."""
        parts = ("model", "optimizer", "metrics") if self.done else ("model", "optimizer")  # metrics start again in each epoch
        variables = run_variables(self.model, *parts)
        state = {name: getattr(self, name) for name in ("epoch", "done", "step")}
        state |= {"repeated": self.model.steps_per_execution if self.done else 0, "steps": int(self.params["steps"] or 0)}
        state |= {"history": list(self.history), "arrays": len(variables)}
        arrays = {key: keras.ops.convert_to_numpy(v) for key, v in variables.items()}
        # Keras 3.15 copies. A view of a variable would change while it is written.
        arrays = {key: array if array.flags.owndata else array.copy() for key, array in arrays.items()}
        return state, arrays

    def _save(self):
        """Writes the snapshot in the background, after the one before it is written."""
        self._check_writer(wait=True)
        self._saved_at = time.monotonic()
        if processes()[0] > 0:
            return  # only the chief writes: all workers have the same state
        self._writing = self._writer.submit(self._write, *self._snapshot)

    def _write(self, state, arrays):
        weights = (array for key, array in arrays.items() if not key.startswith("metrics") and array.dtype.kind in "fV")
        if not all(np.isfinite(array).all() for array in weights):
            with keras.StatelessScope([(v, arrays[key]) for key, v in run_variables(self.model, "optimizer").items()]):
                raise FloatingPointError(self._not_finite("A weight", state["step"]))
        path = self.folder / f"step-{state['step']:09d}.npz"
        try:
            with replacing(path) as temporary:
                np.savez(temporary, state=np.frombuffer(json.dumps(state).encode(), np.uint8), **arrays)
        except OSError as error:
            what = f"{error.strerror}, so that a checkpoint could not be written (last good one: {self._last()})"
            raise OSError(error.errno, what, str(path)) from error
        # Files of later steps are damaged ones that were skipped.
        for old in [file for file in self.files() if file <= path][: -self.keep]:
            old.unlink()

    def _check_writer(self, wait=False):
        """Raises the error of the background writer, if there is one."""
        if self._writing and (wait or self._writing.done()):
            writing, self._writing = self._writing, None
            try:
                writing.result()
            except Exception:
                self._release()
                raise

    def _check_losses(self):
        """Raises if a loss that Keras has reported is not finite."""
        while self._losses:
            steps, loss = self._losses.popleft()
            self._ended = max(self._ended, steps)
            self._check_loss(self.step - self.done + self._offset + steps, loss)

    def _check_loss(self, step, loss):
        if not math.isfinite(loss):
            self._check_writer(wait=True)  # which knows if a weight was bad before
            self._release()
            raise FloatingPointError(self._not_finite("The loss", step))

    def _stop_if_asked(self):
        if self._signal:
            self._check_writer(wait=True)
            self._release()
            raise SystemExit(0) if self._signal == signal.SIGTERM else KeyboardInterrupt

    def _on_signal(self, number, frame):
        signal.signal(number, self._handlers[number])  # a second signal has its usual effect
        if any(caller.f_code.co_name == "fit" for caller, _ in traceback.walk_stack(frame)):
            self._signal = number
        else:  # `fit` has ended with an error, after which no callback is called
            signal.raise_signal(number)

    def _release(self):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
        disown(self.folder)

    def _last(self):
        return self.files()[-1] if self.files() else "none"

    def _not_finite(self, what, step):
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        return f"{what} is not finite after step {step}, at learning rate {rate:.3g}. The last good checkpoint: {self._last()}"


def run_variables(model: keras.Model, *parts: Any) -> dict[str, Any]:
    """Returns `{key: variable}` of all variables that training changes. Keys are numbers, because layer names differ between processes."""
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    metrics = {id(v): v for metric in model.metrics for v in metric.variables}
    variables = {
        # Besides weights and metrics, `variables` holds the states of the seed generators.
        "model": [v for v in model.variables if id(v) not in metrics],
        "optimizer": model.optimizer.variables,
        "metrics": metrics.values(),
    }
    return {f"{part}-{number:05d}": v for part in parts for number, v in enumerate(variables[part])}
