"""Calibrates this machine: measures a few blocks once, to predict the time of any model."""

import importlib
import json
import math
import mmap
import pathlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np

from keras_vit.cost.device import accelerated, this_device, threads
from keras_vit.cost.memory import long_from
from keras_vit.cost.seconds import Machine
from keras_vit.files import cache_folder, replacing
from keras_vit.profiling.probes import Block, Probe, Update, timed
from keras_vit.version import __version__

VERSION = 5
WIDTHS = (192, 768)


def calibrate(training: bool = True, precision: str | None = None, again: bool = False) -> Machine:
    """Returns the speed of this machine on the current backend. The first call measures it, and keeps it in a file.

    The measurement takes a few seconds, most of them compilation. The file is in `$KERAS_HOME/keras_vit/machines` (default
    `~/.keras/keras_vit/machines`), and its name has the processor or GPU, the number of threads, the backend and the precision. After an
    update of Keras, the backend or this package, the next call measures again.

    Args:
        training: bool. Whether training steps are measured, or inference. Defaults to True.
        precision: str or None. Name of a dtype policy, such as "mixed_bfloat16". None takes Keras's. Defaults to None.
        again: bool. Whether a file that is there is replaced. Defaults to False.

    Returns:
        A `keras_vit.cost.Machine`.

    Example:
    >>> machine = keras_vit.profiling.calibrate()  # doctest: +SKIP
    >>> keras_vit.estimate_step("ViTB16", batch_size=8, machine=machine).seconds.total  # doctest: +SKIP
    1.9
    """
    path = path_of(training, precision)
    if not again and (found := _read(path)) is not None:
        return found
    machine = fit(training, precision, *measured(training, precision))
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"versions": versions(), **machine._asdict()}, indent=2) + "\n", encoding="utf-8")
    return machine


def is_calibrated(training: bool = True, precision: str | None = None) -> bool:
    """Returns whether this machine is calibrated, so that `calibrate` does not measure."""
    return _read(path_of(training, precision)) is not None


def path_of(training: bool, precision: str | None) -> pathlib.Path:
    """Returns the path of a calibration's file."""
    home = cache_folder("machines")
    found = this_device()
    kind = "training" if training else "inference"
    name = f"{found.name}-{found.threads}-{keras.backend.backend()}-{_policy(precision)}-{kind}"
    return home / f"{''.join(c if c.isalnum() or c in '-_.' else '_' for c in name)}.json"


def versions() -> dict[str, Any]:
    """Returns the versions that a calibration holds for."""
    backend = keras.backend.backend()
    module = importlib.import_module(backend)
    return {"calibration": VERSION, "keras_vit": __version__, "keras": keras.version(), backend: module.__version__}


def measured(training: bool, precision: str | None = None) -> tuple[list[float], float]:
    """Measures what `fit` needs: the seconds of a step of each of `probes`, and `page_seconds`."""
    # Freed at once: from then on, glibc's heap also serves and keeps arrays of up to this size, which the probes have. Otherwise it depends
    # on earlier arrays whether the pages of theirs are cleared for every step.
    np.empty(2**25 - 2**16, "uint8")
    return timed(probes(training), training, _policy(precision)), page_seconds()


def page_seconds(size: int = 2**25, times: int = 5) -> float:
    """Returns the seconds for each byte of new memory that all threads write to; 0 where the backend keeps its memory.

    XLA allocates the temporary memory of a step at once. By default, glibc maps memory of more than 32 MB anew for each step, whose pages
    the system clears again. The probes need less.
    """
    if keras.backend.backend() != "jax" or sys.platform != "linux" or accelerated():
        return 0.0

    def write(_):
        with mmap.mmap(-1, size) as memory:
            pages = np.frombuffer(memory, "uint8")
            pages[:: mmap.PAGESIZE] = 1
            del pages  # else the memory could not be closed

    found = []
    with ThreadPoolExecutor(threads()) as pool:
        for _ in range(times):
            begun = time.perf_counter()
            list(pool.map(write, range(threads())))
            found.append((time.perf_counter() - begun) / (size * threads()))
    return float(np.median(found))


def probes(training: bool) -> list[Probe]:
    """Returns what a calibration measures."""
    # Many tokens whose scores are held at once, in a square. With more than 400, XLA needs more than 32 MB of temporary memory.
    held = min(20, math.isqrt(long_from(keras.backend.backend()) - 1)) ** 2
    return [
        *([Update(2048)] if training else []),  # weights
        Block(64, 4, 1),  # overhead
        Block(192, 49, 16),
        Block(768, 49, 8),
        Block(192, held, 800 // held),  # scores
        Block(192, 1089, 1),  # scores that are not held at once
    ]


def fit(training: bool, precision: str | None, seconds: list[float], page: float = 0.0) -> Machine:
    """Returns the machine whose predictions have the least squared relative error on the measured seconds of `probes`."""
    backend, found = keras.backend.backend(), this_device()
    columns = ["overhead", "parameter", *WIDTHS, "score", "long_score"]
    rows = []
    for probe in probes(training):
        row = dict.fromkeys(columns, 0.0) | {"overhead": 1.0}
        if isinstance(probe, Update):
            row["parameter"] = probe.weights
        else:
            row[max(probe.width, WIDTHS[0])] = probe.macs
            row["long_score" if probe.tokens >= long_from(backend) else "score"] = probe.scores
        rows.append(list(row.values()))
    constants = dict(zip(columns, _positive_least_squares(np.array(rows) / np.array(seconds)[:, None], np.ones(len(seconds)))))
    return Machine(
        backend, found.name, found.threads, _policy(precision), training, constants["overhead"], constants["parameter"],
        {width: constants[width] for width in WIDTHS}, constants["score"], constants["long_score"], page,
    )  # fmt: skip


def _positive_least_squares(matrix, target):
    """Returns a least-squares solution without negative values: columns with negative values are removed, and the rest is solved again."""
    scale = np.maximum(np.abs(matrix).max(axis=0), 1e-300)
    kept = np.flatnonzero(scale > 1e-299)
    while True:
        solution = np.linalg.lstsq(matrix[:, kept] / scale[kept], target, rcond=None)[0]
        if (solution >= 0).all():
            break
        kept = kept[solution >= 0]
    result = np.zeros(matrix.shape[1])
    result[kept] = solution / scale[kept]
    return [float(value) for value in result]


def _policy(precision: Any) -> str:
    return keras.dtype_policies.get(precision or keras.config.dtype_policy()).name


def _read(path):
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("versions") != versions():
            return None
        return Machine(**found | {"dense": {int(width): value for width, value in found["dense"].items()}})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):  # written by another version or edited by a user: measure again
        return None
