"""Measures the time and peak memory of steps in a new process, so that the peak memory is that of the steps."""

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, NamedTuple

import keras


class Job(NamedTuple):
    """A measurement to run.

    Args:
        arguments: dict. Arguments of `VisionTransformer`, with values that JSON can hold.
        batch_size: int. Images in a step.
        training: bool. Whether to measure training steps, or inference. Defaults to False.
        optimizer: str. Optimizer of training steps. Defaults to "AdamW".
        seconds: float. How long steps are timed, after the warm-up. Defaults to 5.0.
        least: int. Minimum number of timed steps. Defaults to 10.
    """

    arguments: dict[str, Any]
    batch_size: int
    training: bool = False
    optimizer: str = "AdamW"
    seconds: float = 5.0
    least: int = 10


class Steps(NamedTuple):
    """The result of a measurement.

    Args:
        seconds: list of float. The time of each step.
        peak_bytes: int. Peak memory of the process or, on a GPU, of the framework's allocations.
    """

    seconds: list[float]
    peak_bytes: int


class Running(NamedTuple):
    """A process that measures jobs. Its answers are lines of JSON."""

    process: subprocess.Popen
    errors: Any


def measure(jobs: list[Job]) -> list[Steps]:
    """Measures jobs in a new process, on the backend and with the precision of this one.

    All jobs are compiled before the first is timed. Then they take turns, so that a moment in which other programs are busy does not affect
    a single job.

    Args:
        jobs: list of `Job`.

    Returns:
        A list of `Steps`, one for each job. Peak memory is that of the process.

    Raises:
        RuntimeError: if the process fails. The error has its last line.
    """
    running = start(jobs)
    try:
        answer(running)
        proceed(running)
        return [Steps(*steps) for steps in answer(running)]
    finally:
        stop(running)


def start(jobs: list[Job], backend: str | None = None) -> Running:
    """Starts a process that compiles jobs and answers "ready"; after `proceed` it times them, and answers a list of `Steps`."""
    environment = {
        "KERAS_BACKEND": backend or keras.backend.backend(),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # else the peak on a GPU would be all of its memory
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    return start_command([sys.executable, "-m", "keras_vit.profiling.steps"], jobs, environment)


def start_command(command: list[str], asked: Any, environment: dict[str, str]) -> Running:
    """Starts a command with a line of JSON as its input."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TF_CPP_MIN_LOG_LEVEL": "3"} | environment
    errors = tempfile.TemporaryFile("w+")
    pipe = subprocess.PIPE
    running = Running(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, env=environment, text=True), errors)
    proceed(running, json.dumps(asked))
    return running


def proceed(running: Running, line: str = "") -> None:
    """Sends a line to a process."""
    with contextlib.suppress(BrokenPipeError):  # the process has failed; `answer` raises its error
        print(line, file=running.process.stdin, flush=True)


def answer(running: Running, timeout: float | None = None) -> Any:
    """Returns the next answer of a process.

    Raises:
        RuntimeError: if the process failed, with its last line, or does not answer within `timeout` seconds.
    """
    watch = threading.Timer(timeout or 0.0, running.process.kill)
    if timeout is not None:
        watch.start()
    line = running.process.stdout.readline()
    in_time = timeout is None or watch.is_alive()
    watch.cancel()
    if line:
        return json.loads(line)
    if not in_time:
        raise RuntimeError(f"Measuring failed: no answer in {timeout:.0f} s")
    code = running.process.wait()
    running.errors.seek(0)
    lines = running.errors.read().strip().splitlines() or [f"exit code {code}"]
    killed = " (killed: the memory may not have been enough)" if code < 0 else ""
    raise RuntimeError(f"Measuring failed{killed}: {lines[-1]}")


def stop(running: Running) -> None:
    """Ends a process, if it has not ended."""
    running.process.kill()
    running.process.wait()
    for file in (running.process.stdin, running.process.stdout, running.errors):
        with contextlib.suppress(BrokenPipeError):
            file.close()


def timed(jobs: list[Job]) -> list[Steps]:
    """Measures jobs in this process. The jobs take turns."""
    return _in_turns(jobs, [_compiled(job) for job in jobs])


def _compiled(job):
    step = step_of(job)
    for _ in range(2):  # the first step traces and compiles
        step()
    return step


def _in_turns(jobs, steps, turns=3):
    found: list[list[float]] = [[] for _ in jobs]
    for turn in range(1, turns + 1):
        for job, step, seconds in zip(jobs, steps, found):
            step()  # not timed: the other jobs have replaced its data in the processor's cache
            begun = time.perf_counter()
            while len(seconds) < job.least * turn / turns or time.perf_counter() - begun < job.seconds / turns:
                start = time.perf_counter()
                step()
                seconds.append(time.perf_counter() - start)
    return [Steps(seconds, peak_bytes()) for seconds in found]


def step_of(job: Job) -> Any:
    """Returns a function that runs a step of a job and waits for its result."""
    import numpy as np

    from keras_vit.runtime.keras_seams import create_with
    from keras_vit.training.optimizers import OPTIMIZERS
    from keras_vit.vision_transformer import VisionTransformer

    random = np.random.default_rng(0)

    def small(shape, dtype=None):
        return keras.ops.convert_to_tensor(0.02 * random.standard_normal(shape, "float32"), dtype)

    with keras.StatelessScope(initialize_variables=False):
        model = VisionTransformer(**job.arguments)
    for variable in model.variables:
        if len(variable.shape) > 1:  # JAX compiles Keras's initializers for every shape
            create_with(variable, small)
    with keras.StatelessScope():
        pass  # leaving the scope creates the variables
    images = keras.ops.convert_to_tensor(random.uniform(0, 255, (job.batch_size, *model.input_shape[1:])).astype("float32"))
    if not job.training:
        return lambda: model.predict_on_batch(images)
    momentum = {"momentum": 0.9} if job.optimizer == "SGD" else {}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=model.config.classifier_activation is None)
    model.compile(OPTIMIZERS[job.optimizer](1e-4, weight_decay=0.05, **momentum), loss)
    labels = keras.ops.convert_to_tensor(random.integers(0, model.config.num_classes, job.batch_size))
    return lambda: model.train_on_batch(images, labels)


def peak_bytes() -> int:
    """Returns the peak memory of this process or, on a GPU, of the framework's allocations."""
    if "torch" in sys.modules and (cuda := sys.modules["torch"].cuda).is_available() and cuda.is_initialized():
        return cuda.max_memory_allocated()
    if keras.backend.backend() == "jax" and (stats := sys.modules["jax"].local_devices()[0].memory_stats()):
        return stats["peak_bytes_in_use"]
    if keras.backend.backend() == "tensorflow" and (gpus := sys.modules["tensorflow"].config.list_logical_devices("GPU")):
        return sys.modules["tensorflow"].config.experimental.get_memory_info(gpus[0].name.removeprefix("/device:"))["peak"]
    if sys.platform == "linux":  # whose `ru_maxrss` is at least that of the process that started this one
        with open("/proc/self/status") as status:
            return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most  # macOS reports bytes, other systems KiB


def _leave_tensorflow_out():
    """Keeps Keras from importing TensorFlow on other backends, which takes longer than to compile a small model."""
    if keras.backend.backend() != "tensorflow" and "tensorflow" not in sys.modules:
        sys.modules["tensorflow"] = None  # pyright: ignore[reportArgumentType]
        keras.dtype_policies.serialize(keras.config.dtype_policy())  # Keras looks for TensorFlow, the only time
        del sys.modules["tensorflow"]


def main():
    """Reads jobs as a line of JSON, compiles them, waits for another line, and writes the results."""
    jobs = [Job(*each) for each in json.loads(sys.stdin.readline())]
    _leave_tensorflow_out()
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keeps the output of libraries apart
    steps = [_compiled(job) for job in jobs]
    print(json.dumps("ready"), file=pipe, flush=True)
    if sys.stdin.readline():  # empty if the parent process has ended
        print(json.dumps(_in_turns(jobs, steps)), file=pipe, flush=True)


if __name__ == "__main__":
    main()
