"""Times steps of models in a process of their own, so that their peak memory is theirs: `measure`."""

import json
import os
import resource
import subprocess
import sys
import time
from typing import Any, NamedTuple

import keras


class Job(NamedTuple):
    """What is measured.

    Args:
        arguments: dict. Arguments of `VisionTransformer`, of values that JSON takes.
        batch_size: int. Images in a step.
        training: bool. Training steps, or inference.
        optimizer: str. Optimizer of training steps.
        seconds: float. How long steps are timed, after the warm-up.
        least: int. Steps that are timed at least.
    """

    arguments: dict[str, Any]
    batch_size: int
    training: bool = False
    optimizer: str = "AdamW"
    seconds: float = 5.0
    least: int = 10


class Steps(NamedTuple):
    """What was measured.

    Args:
        seconds: list of float. The time of each step.
        peak_bytes: int. Peak memory: of the process, or on a GPU of what the framework allocated there.
    """

    seconds: list[float]
    peak_bytes: int


def measure(jobs: list[Job]) -> list[Steps]:
    """Measures jobs one after another in a new process, on the backend and with the precision of this one.

    Args:
        jobs: list of `Job`.

    Returns:
        A list of `Steps`, one for each job. Peak memory is that of the process up to the end of a job.

    Raises:
        RuntimeError: if the process fails, with its last line.
    """
    environment = os.environ | {
        "KERAS_BACKEND": keras.backend.backend(),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # else a GPU's peak would be all of its memory
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    command = [sys.executable, "-m", "keras_vit.profiling.steps"]
    found = subprocess.run(command, input=json.dumps(jobs), env=environment, capture_output=True, text=True)
    if found.returncode:
        lines = found.stderr.strip().splitlines() or [f"exit code {found.returncode}"]
        killed = " (killed: the memory may not have been enough)" if found.returncode < 0 else ""
        raise RuntimeError(f"Measuring failed{killed}: {lines[-1]}")
    return [Steps(*each) for each in json.loads(found.stdout.splitlines()[-1])]


def steps_of(job: Job) -> Steps:
    """Measures a job in this process."""
    step = step_of(job)
    for _ in range(3):  # the first traces and compiles
        step()
    seconds, begun = [], time.perf_counter()
    while len(seconds) < job.least or time.perf_counter() - begun < job.seconds:
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return Steps(seconds, peak_bytes())


def step_of(job: Job) -> Any:
    """Returns a function that computes a step of a job and waits for its result."""
    import numpy as np

    from keras_vit.training.optimizers import OPTIMIZERS
    from keras_vit.vision_transformer import VisionTransformer

    model = VisionTransformer(**job.arguments)
    random = np.random.default_rng(0)
    images = keras.ops.convert_to_tensor(random.uniform(0, 255, (job.batch_size, *model.input_shape[1:])).astype("float32"))
    if not job.training:
        return lambda: model.predict_on_batch(images)
    momentum = {"momentum": 0.9} if job.optimizer == "SGD" else {}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=model.config.classifier_activation is None)
    model.compile(OPTIMIZERS[job.optimizer](1e-4, weight_decay=0.05, **momentum), loss)
    labels = keras.ops.convert_to_tensor(random.integers(0, model.config.num_classes, job.batch_size))
    return lambda: model.train_on_batch(images, labels)


def peak_bytes() -> int:
    """Returns the peak memory of this process, or on a GPU of what the framework allocated there."""
    if "torch" in sys.modules and (cuda := sys.modules["torch"].cuda).is_available() and cuda.is_initialized():
        return cuda.max_memory_allocated()
    if keras.backend.backend() == "jax" and (stats := sys.modules["jax"].local_devices()[0].memory_stats()):
        return stats["peak_bytes_in_use"]
    if keras.backend.backend() == "tensorflow" and (gpus := sys.modules["tensorflow"].config.list_logical_devices("GPU")):
        return sys.modules["tensorflow"].config.experimental.get_memory_info(gpus[0].name.removeprefix("/device:"))["peak"]
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most  # in bytes there, in KiB elsewhere


def main():
    """Reads jobs as JSON, and writes what was measured as the last line."""
    jobs = [Job(*each) for each in json.load(sys.stdin)]
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between
    print("\n" + json.dumps([steps_of(job) for job in jobs]), file=pipe, flush=True)


if __name__ == "__main__":
    main()
