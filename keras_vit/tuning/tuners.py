"""Tuners of Keras Tuner that resume. Only this file and `workers.py` use private names of keras-tuner 1.4.8.

It corrects these faults of Keras Tuner: JSON files are written in place, so a kill leaves them incomplete; killed trials stay "running"
forever; a resumed grid search ends; failed trials stop a search or block its chief; the error of a worker is lost; a chief does not
notice a dead worker, nor a worker a dead chief; required packages are not declared.
"""

import importlib.util
import json
import pathlib
import shutil
import time
from typing import Any

import keras
import keras_tuner
import numpy as np
from keras_tuner.src.distribute import utils as roles
from keras_tuner.src.engine.oracle import Display
from keras_tuner.src.engine.trial import TrialStatus
from keras_tuner.src.engine.tuner_utils import SaveBestEpoch

from keras_vit.extras import install
from keras_vit.files import disown, own, replacing, require_space
from keras_vit.layers import checks
from keras_vit.messages import duration, say
from keras_vit.runtime.openvino import check_training
from keras_vit.tuning.hypermodel import OBJECTIVE
from keras_vit.tuning.study import open_study, read_history, reason, write_best, write_json
from keras_vit.tuning.workers import client, serve

FINISHED = (TrialStatus.COMPLETED, TrialStatus.FAILED)
MOST_KILLS = 5  # kills without a new checkpoint in between, after which a trial fails: it may need too much memory
MOST_FAILURES = 10  # failed trials in a row, after which a search ends: the cause is not a single trial
# TensorFlow no longer installs TensorBoard, which the tuner imports in each trial. The Gaussian process needs the others.
NEEDED = {"tensorflow": ("tensorboard",), "bayesian": ("scipy", "sklearn")}


class LastingOracle:
    """Mixin of an oracle that survives a kill at any moment, and the loss of workers."""

    def __init__(self, **kwargs: Any):
        super().__init__(**{"objective": OBJECTIVE, **kwargs})
        self._ended_before = 0  # trials that ended before this process
        self._kills = {}  # trial: (its newest checkpoint when it was killed, number of kills at that checkpoint)

    def save(self) -> None:
        write_json(self.get_state(), self._get_oracle_fname())

    def _save_trial(self, trial):
        write_json(trial.get_state(), pathlib.Path(self._get_trial_dir(trial.trial_id)) / "trial.json")

    def get_state(self) -> dict[str, Any]:
        return super().get_state() | {"kills": self._kills}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._kills = state["kills"]

    def reload(self) -> None:
        # A kill may come after the file of a trial is written, and before that of the oracle. Such a trial was not started.
        state = json.loads(pathlib.Path(self._get_oracle_fname()).read_text())
        for folder in pathlib.Path(self._project_dir).glob("trial_*"):
            if folder.name.removeprefix("trial_") not in state["start_order"]:
                shutil.rmtree(folder)
        super().reload()
        # Keras Tuner lists files in arbitrary order, on which the last bits of a Gaussian process depend.
        self.trials = {trial_id: self.trials[trial_id] for trial_id in self.start_order}
        # Keras Tuner retries the trials that the oracle's file calls running, even if they have ended since.
        self._retry_queue = []
        for trial_id in reversed(self.start_order):
            trial = self.trials[trial_id]
            if trial.status not in FINISHED:
                self._give_back(trial)
            elif trial_id not in self.end_order:
                self.end_order.append(trial_id)
        self._ended_before = len(self.end_order)
        self.save()

    @keras_tuner.synchronized
    def create_trial(self, tuner_id: str) -> Any:
        last = [self.trials[trial_id].status for trial_id in self.end_order[self._ended_before :][-MOST_FAILURES:]]
        if last == [TrialStatus.FAILED] * MOST_FAILURES:
            self.max_trials = len(self.trials)
        trial = super().create_trial(tuner_id)
        if trial.status == TrialStatus.STOPPED and self.ongoing_trials:
            # Another worker may still die, so this one must wait to retry its trial.
            trial.status = TrialStatus.IDLE
            self.tuner_ids.add(tuner_id)
        return trial

    @keras_tuner.synchronized
    def end_trial(self, trial: Any) -> None:
        if trial.trial_id in self._retry_queue:
            self._retry_queue.remove(trial.trial_id)
        super().end_trial(trial)

    @keras_tuner.synchronized
    def release(self, tuner_id: str) -> None:
        """Puts the trial of a lost worker back into the queue."""
        self.tuner_ids.discard(tuner_id)
        if trial := self.ongoing_trials.pop(tuner_id, None):
            say(f"{tuner_id} is gone; trial {trial.trial_id} will be tried again")
            self._give_back(trial)
            self.save()

    def _give_back(self, trial):
        checkpoints = pathlib.Path(self._get_trial_dir(trial.trial_id)).glob("checkpoints/step-*.npz")
        newest = max((path.stem for path in checkpoints), default="its start")
        before, times = self._kills.get(trial.trial_id, ("", 0))
        times = times + 1 if before == newest else 1
        self._kills[trial.trial_id] = (newest, times)
        if times < MOST_KILLS:
            self._retry_queue.append(trial.trial_id)
            return
        trial.status, trial.message = TrialStatus.FAILED, f"MemoryError: killed {times} times after {newest}, perhaps for its memory"
        self.end_order.append(trial.trial_id)
        self._save_trial(trial)

    def _check_consecutive_failures(self):
        """Does nothing: Keras Tuner raises here while it holds the lock of the oracle. `create_trial` checks instead."""


class RandomOracle(LastingOracle, keras_tuner.oracles.RandomSearchOracle):
    pass


class HyperbandOracle(LastingOracle, keras_tuner.oracles.HyperbandOracle):
    pass


class BayesianOracle(LastingOracle, keras_tuner.oracles.BayesianOptimizationOracle):
    def populate_space(self, trial_id: str) -> dict[str, Any]:
        self._random_state = np.random.RandomState(self.seed + len(self.trials))  # the state of Keras Tuner restarts with each process
        return super().populate_space(trial_id)


class GridOracle(LastingOracle, keras_tuner.oracles.GridSearchOracle):
    def populate_space(self, trial_id: str) -> dict[str, Any]:
        # Keras Tuner keeps its position in the grid only in memory. The finished trials give it, too.
        values = {hp.name: hp.default for hp in self.hyperparameters.space}
        while values and self._duplicate(values):
            values = self._get_next_combination(values)
        return {"status": TrialStatus.RUNNING if values else TrialStatus.STOPPED, "values": values}


TUNERS = {
    "random": lambda trials, epochs, **more: RandomOracle(max_trials=trials, **more),
    "hyperband": lambda trials, epochs, **more: HyperbandOracle(max_epochs=epochs, hyperband_iterations=10**6, **more),
    "bayesian": lambda trials, epochs, **more: BayesianOracle(max_trials=trials, num_initial_points=max(3, trials // 4), **more),
    "grid": lambda trials, epochs, **more: GridOracle(max_trials=trials, **more),
}


class Search(keras_tuner.Tuner):
    """Runs a hyperparameter search in a folder. The search can be killed at any moment, and the same call resumes it.

    It has the methods of a `keras_tuner.Tuner`, such as `get_best_hyperparameters`. The folder holds the files of Keras Tuner, and
    `best.toml`, the config of the best trial so far. If a trial fails, the reason is recorded and the search continues.

    Several processes can share a search, as in Keras Tuner. KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT are the address of the chief.
    KERASTUNER_TUNER_ID is the name of a process: "chief", or any other unique name. All processes need the same folder. If a worker dies,
    another worker resumes its trial from the last checkpoint.

    Args:
        hypermodel: ViTHyperModel. The search space and its data.
        folder: str or path-like. A new or empty folder, or the folder of the same search.
        tuner: str. "random", "hyperband", "bayesian" or "grid". Defaults to "hyperband".
        trials: int. Number of trials; each promotion by Hyperband counts as a trial. Defaults to 20.
        seed: int. Seed of the sampled values. Defaults to 0.
        distribution_strategy: `tf.distribute.Strategy` or None. Strategy of each trial. Defaults to None.
        wait: float. Seconds that a chief waits for a worker, and a worker for its chief. Defaults to 600.0.

    Raises:
        ValueError: if an argument is unknown, or the folder belongs to another search.
        ImportError: if a package is missing.
        OSError: if another process is searching in the folder.

    Example:
    >>> hypermodel = ViTHyperModel("digits", "from_scratch", max_parameters=500_000)  # doctest: +SKIP
    >>> search = Search(hypermodel, "studies/digits", trials=20)  # doctest: +SKIP
    >>> search.search()  # doctest: +SKIP
    """

    def __init__(
        self,
        hypermodel: Any,
        folder: Any,
        tuner: str = "hyperband",
        trials: int = 20,
        seed: int = 0,
        distribution_strategy: Any = None,
        wait: float = 600.0,
    ):
        checks.one_of("tuner", tuner, TUNERS)
        checks.integer("trials", trials)
        check_packages(tuner)
        self.is_worker = roles.has_chief_oracle() and not roles.is_chief_oracle()
        self.folder, self.wait = pathlib.Path(folder).resolve(), wait
        folder, replicas = self.folder, getattr(distribution_strategy, "num_replicas_in_sync", 1)
        for batch_size in hypermodel.batch_sizes:
            if batch_size % replicas:
                raise ValueError(f"The {replicas} devices must share a batch equally. Received: batch_size={batch_size}")
        if not self.is_worker:
            open_study(folder, hypermodel.describe() | {"tuner": tuner, "search_seed": seed})
            own(folder)
        oracle = TUNERS[tuner](trials, hypermodel.recipe.epochs, seed=seed + 1)  # to Keras Tuner, 0 means no seed
        oracle.max_trials = trials  # Hyperband has no such argument
        oracle._display = Progress(oracle, hypermodel, folder)
        places = dict(directory=folder.parent, project_name=folder.name)
        super().__init__(oracle, hypermodel, distribution_strategy=distribution_strategy, **places)
        if oracle.start_order:
            say(f"resuming the search in {folder}: {len(oracle.end_order)} trials have ended")
        if self.is_worker:
            self.oracle = client(oracle, wait)

    def search(self) -> None:
        """Runs the remaining trials. A chief lets its workers run them."""
        if self.is_worker:
            self.oracle.hold(super().search)
            return
        try:
            if roles.is_chief_oracle():
                self.save()
                serve(self.oracle, self.wait)
            else:
                super().search(verbose=0)
            self.oracle._display.write_best()  # a kill may have prevented this
        finally:
            disown(self.folder)

    # A tuner has no state. Keras Tuner resumes if the tuner's file exists, but writes it later than the oracle's.
    def _get_tuner_fname(self):
        return str(pathlib.Path(self.project_dir) / "oracle.json")

    def save(self) -> None:
        if not self.is_worker:
            self.oracle.save()

    def reload(self) -> None:
        if not self.is_worker:
            self.oracle.reload()

    def _populate_initial_space(self):
        hp = self.oracle.get_space()
        self.hypermodel.declare_hyperparameters(hp)  # all parameters, so no model needs to be built
        self.oracle.update_space(hp)

    def _build_and_fit_model(self, trial, *args, callbacks, **kwargs):
        callbacks = [BestWeights(c.objective, c.filepath) if isinstance(c, SaveBestEpoch) else c for c in callbacks]
        return super()._build_and_fit_model(trial, *args, callbacks=callbacks, **kwargs)


class BestWeights(SaveBestEpoch):
    """Saves weights atomically, and remembers the best epoch when a trial resumes."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        path = pathlib.Path(self.filepath)
        if path.exists() and (history := read_history(path.parent)):
            self.best_value = max(row[self.objective.name] for row in history)

    def _save_model(self):
        require_space(self.filepath, 4 * self.model.count_params())  # HDF5 crashes if the disk fills up while it writes
        with replacing(self.filepath) as temporary:
            self.model.save_weights(temporary)


class Progress(Display):
    """Prints a line at the end of each trial."""

    def __init__(self, oracle: Any, hypermodel: Any, folder: Any):
        super().__init__(oracle)
        self.hypermodel, self.folder = hypermodel, folder
        self.begun, self.ended, self.starts = time.monotonic(), 0, {}

    def on_trial_begin(self, trial: Any) -> None:
        self.starts[trial.trial_id] = time.monotonic()

    def on_trial_end(self, trial: Any) -> None:
        self.ended += 1
        oracle, now = self.oracle, time.monotonic()
        done = len(oracle.end_order)
        (best,) = oracle.get_best_trials()
        if trial.status == TrialStatus.COMPLETED:
            what = f"{oracle.objective.name} {trial.score:.4f}"
        else:
            what = f"failed: {reason(trial.message)}"
        line = f"trial {trial.trial_id} ({done} of {oracle.max_trials}): {what}, {duration(now - self.starts[trial.trial_id])}"
        if best.status == TrialStatus.COMPLETED:
            line += f"; best {best.score:.4f} (trial {best.trial_id})"
        if left := oracle.max_trials - done:
            line += f"; about {duration(left * (now - self.begun) / self.ended)} left"
        print(line, flush=True)
        self.write_best()

    def write_best(self) -> None:
        """Writes the config of the best trial so far."""
        for best in self.oracle.get_best_trials():
            if best.status == TrialStatus.COMPLETED:
                write_best(self.hypermodel.config(best.hyperparameters.values), self.folder)


def check_packages(tuner: str) -> None:
    """Raises ImportError if a package is missing that a tuner needs, and ValueError on a backend that cannot train."""
    check_training()
    for package in (*NEEDED.get(keras.backend.backend(), ()), *NEEDED.get(tuner, ())):
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"Keras Tuner needs {package}, which is not installed: {install('tune')}")
