"""Calibrates this machine: measures a few tiny models once, to predict the time of any other model."""

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
from keras_vit.cost.seconds import Machine, work
from keras_vit.files import cache_folder, replacing
from keras_vit.profiling.steps import Job, Steps
from keras_vit.profiling.steps import measure as measure_steps
from keras_vit.runtime import attention_by_head, fused_attention
from keras_vit.version import __version__

VERSION = 4
WIDTHS = (192, 768)
# XLA allocates the temporary memory of a step at once. By default, glibc maps memory of more than 32 MB anew for each step, whose pages the
# system clears again. Tiny models need less, and whether theirs is mapped differs from process to process: so theirs never is, and the cost
# of cleared pages is measured by itself.
UNMAPPED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 2**20), "MALLOC_ARENA_MAX": "1"}
HEAP = {"jax": UNMAPPED} if sys.platform == "linux" else {}


def calibrate(training: bool = True, precision: str | None = None, again: bool = False) -> Machine:
    """Returns the speed of this machine on the current backend. The first call measures it, and keeps it in a file.

    The measurement runs in new processes. It takes 10 to 15 seconds, most of them imports and compilation. The file is in
    `$KERAS_HOME/keras_vit/machines` (default `~/.keras/keras_vit/machines`), and its name has the processor or GPU, the number of threads,
    the backend and the precision. After an update of Keras, the backend or this package, the next call measures again.

    Args:
        training: bool. Whether training steps are measured, or inference. Defaults to True.
        precision: str or None. Name of a dtype policy, such as "mixed_bfloat16". None takes Keras's. Defaults to None.
        again: bool. Whether a file that is there is replaced. Defaults to False.

    Returns:
        A `keras_vit.cost.Machine`.

    Raises:
        RuntimeError: if the measurement fails.

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


def processes() -> int:
    """Returns the number of processes that compile models at the same time: one on a GPU or TPU or with one thread, else two."""
    return 1 if accelerated() or threads() == 1 else 2


def measured(training: bool, precision: str | None = None) -> tuple[list[float], float]:
    """Measures what `fit` needs: the seconds of a step of each of `jobs`, and `page_seconds`."""
    return seconds_of(measure(jobs(training, precision), processes())), page_seconds()


def measure(jobs: list[Job], processes: int) -> list[Steps]:
    """Measures jobs as `keras_vit.profiling.steps.measure` does, with temporary memory that is never mapped."""
    return measure_steps(jobs, processes, HEAP.get(keras.backend.backend()))


def page_seconds(size: int = 2**25, times: int = 5) -> float:
    """Returns the seconds for each byte of new memory that all threads write to; 0 where the backend keeps its memory."""
    if keras.backend.backend() not in HEAP or accelerated():
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


def jobs(training: bool, precision: str | None = None) -> list[Job]:
    """Returns the tiny models of a calibration, with their batch sizes. Of two processes, one compiles those at even places."""
    # The longest sequence of patches, in a square, whose scores are held at once. On JAX a single long sequence takes longer for each
    # score than several, or than several layers of it: so sequences of 400 tokens, and two of those that are not held at once.
    held = math.isqrt((fused_attention.LONG if keras.backend.backend() == "torch" else attention_by_head.LONG) - 1)
    held, long_batch = (20, 2) if keras.backend.backend() == "jax" else (held, 1)

    def job(width, side, batch_size, layers, least=6):
        arguments = dict(
            input_shape=(8 * side, 8 * side, 3), patch_size=8, hidden_dim=width, num_heads=max(1, width // 64), mlp_dim=4 * width,
            num_layers=layers, num_classes=10, pooling="gap", class_token=False, dtype=_policy(precision),
        )  # fmt: skip
        return Job(arguments, batch_size, training, seconds=0.25, least=least)

    # As few blocks as possible, because most of a calibration's time is compilation. Of narrow blocks two: the weights of one would stay in
    # the processor's cache, unlike those of whole models.
    return [
        job(64, 2, 1, 2, 20),  # steps and blocks
        job(768, 2, 1, 1),  # weights
        job(768, 7, 8, 1),
        job(192, 7, 16, 2),
        job(192, held, max(1, 1600 // held**2), 1),  # scores
        job(192, 33, long_batch, 1),  # scores that are not held at once
    ]


def seconds_of(steps: list[Steps]) -> list[float]:
    """Returns the time of each job: the lower quartile, because other programs make steps longer, never shorter."""
    return [float(np.quantile(each.seconds, 0.25)) for each in steps]


def fit(training: bool, precision: str | None, seconds: list[float], page: float = 0.0) -> Machine:
    """Returns the machine whose predictions have the least squared relative error on the measured steps of `jobs`."""
    backend, found = keras.backend.backend(), this_device()
    columns = ["overhead", "parameter", *WIDTHS, "score", "long_score"]
    rows = []
    for job in jobs(training, precision):
        blocks, width, dense, scores, is_long, weights = work(job.arguments, job.batch_size, backend)
        row = dict.fromkeys(columns, 0.0) | {"overhead": 1.0 + blocks, "parameter": weights if training else 0.0}
        row[max(width, WIDTHS[0])] = dense
        row["long_score" if is_long else "score"] = scores
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
