"""Reads and writes the folder of a search: its settings, its trials and the best trial."""

import csv
import dataclasses
import json
import os
import pathlib
import re
from typing import Any

import tomli_w

from keras_vit.files import replacing
from keras_vit.training.folder import HISTORY

STUDY, BEST = "study.json", "best.toml"


@dataclasses.dataclass(frozen=True)
class TrialRow:
    """A trial of a search.

    Attributes:
        number: str. Number of the trial.
        status: str. "COMPLETED", "FAILED" or "RUNNING".
        values: dict. Parameters by name.
        score: float or None. Validation accuracy; None if the trial is not completed.
        history: list of dicts, one for each epoch.
        reason: str. Why a failed trial failed.
    """

    number: str
    status: str
    values: dict
    score: float | None
    history: list
    reason: str


def open_study(folder: pathlib.Path, settings: dict[str, Any]) -> None:
    """Records the search's settings, or checks that they match an existing study.

    Raises:
        ValueError: if the folder belongs to another search, or holds other files.
    """
    settings = json.loads(json.dumps(settings))  # for comparison: JSON turns tuples into lists
    path = folder / STUDY
    if path.exists():
        begun = json.loads(path.read_text(encoding="utf-8"))
        for name in settings | begun:
            was, now = begun.get(name), settings.get(name)
            if now != was and not (name in ("data", "weights") and now == os.path.abspath(str(was))):  # 0.1.0 kept relative paths
                raise ValueError(f"The folder belongs to another search: its `{name}` is {was!r}. Received: {name}={now!r}, {folder}")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.glob("[!.]*"))):
        raise ValueError(f"The folder must be new, empty, or that of the same search. Received: {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(settings, path)


def write_json(value: Any, path: pathlib.Path) -> None:
    """Writes a JSON file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")


def write_best(config: dict[str, Any], folder: pathlib.Path) -> None:
    """Writes the config of the best trial to `best.toml`."""
    with replacing(folder / BEST) as temporary:
        temporary.write_text(tomli_w.dumps(config), encoding="utf-8")


def read_trials(folder: str | pathlib.Path) -> list[TrialRow]:
    """Returns a `TrialRow` for each trial of a study, the best first and trials without a score last.

    Args:
        folder: str or path-like. The folder of the search.
    """
    rows = []
    for path in sorted(pathlib.Path(folder).glob("trial_*/trial.json")):
        trial = json.loads(path.read_text(encoding="utf-8"))
        values = {name: value for name, value in trial["hyperparameters"]["values"].items() if not name.startswith("tuner/")}
        values = json.loads(values.pop("architecture", "{}")) | values
        rows.append(
            TrialRow(trial["trial_id"], trial["status"], values, trial["score"], read_history(path.parent), reason(trial["message"]))
        )
    return sorted(rows, key=lambda row: -1.0 if row.score is None else row.score, reverse=True)


def read_history(folder: str | pathlib.Path) -> list[dict]:
    """Returns the finished epochs of the trial in a folder as a list of dicts, like `Run.history`."""
    path = pathlib.Path(folder) / HISTORY
    if path.exists():
        with path.open(newline="") as file:
            return [{name: int(value) if name == "epoch" else float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    path = path.with_suffix(".json")  # of version 0.1.0
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def reason(message: str | None) -> str:
    """Returns the last error of a traceback as one line. For TensorFlow's long memory errors, it is the line about memory."""
    message = (message or "").strip()
    errors = re.findall(r"^(?:\w+\.)*(\w*Error\w*: .*)$", message, re.MULTILINE) or [message.rpartition("\n")[2]]
    memory = re.findall(r"^.*(?:OOM|[Oo]ut of memory).*$", message, re.MULTILINE)
    return f"{errors[-1].partition(':')[0]}: {memory[0].strip()}" if memory and memory[0] not in errors[-1] else errors[-1]
