"""The device that models run on: its name, its threads and its memory."""

import math
import os
import pathlib
import platform
import shutil
import subprocess
from typing import NamedTuple

import keras

CGROUP = pathlib.Path("/sys/fs/cgroup")
# Control groups, version 2 and 1: name, files of the limit and the usage, and entry of the cache that the kernel can reclaim.
LIMITS = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


class Device(NamedTuple):
    """A processor or GPU.

    Args:
        name: str. Such as "AMD EPYC" or "NVIDIA H100".
        threads: int. Processor threads that this process may use; 0 for a GPU or TPU.
        free_bytes: float. Free memory in bytes; infinity if the system does not report it.
    """

    name: str
    threads: int
    free_bytes: float


def this_device() -> Device:
    """Returns the device that models run on.

    Example:
    >>> this_device().free_bytes > 0
    True
    """
    if not accelerated():
        return Device(processor_name(), threads(), available_bytes())
    if (found := _nvidia()) is not None:
        return found
    return Device(f"{keras.backend.backend()} accelerator", 0, math.inf)


def threads() -> int:
    """Returns the processor threads that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """Returns the name of the processor, as the system reports it."""
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def available_bytes() -> float:
    """Returns the free memory of this machine or container in bytes; infinity if the system does not report it."""
    available = math.inf
    try:
        lines = dict(line.split(":") for line in pathlib.Path("/proc/meminfo").read_text().splitlines())
        available = 1024.0 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError):
        pass  # not Linux
    return min([available, *_container_bytes()])


def _container_bytes():
    """Yields the free memory of each control group that contains this process."""
    own = [line.split(":", 2)[1:] for line in _read(pathlib.Path("/proc/self/cgroup")).splitlines()]
    for root, limit, current, cache in LIMITS:
        path = next((path for kinds, path in own if kinds == root), "/")
        # Within a container, the container's group may be the root. So all groups from this one up to the root are checked.
        names = pathlib.PurePosixPath(path.strip("/"))
        for name in (names, *names.parents):
            most, used, details = (_read(CGROUP / root / name / file) for file in (limit, current, "memory.stat"))
            if most.isdigit() and used.isdigit():  # a version 2 group without a limit says "max"
                kept = dict(line.split() for line in details.splitlines())
                yield float(int(most) - int(used) + int(kept.get(cache, 0)))


def _read(path):
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def accelerated() -> bool:
    """Returns whether models run on a GPU or TPU, which has its own memory."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("TPU"))
    if keras.backend.backend() == "jax":
        return any(not device.startswith("cpu") for device in keras.distribution.list_devices())
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available()
    return False


def _nvidia():
    """Returns the first visible NVIDIA GPU, or None. `nvidia-smi` reports free memory before a framework allocates all of it."""
    if shutil.which("nvidia-smi") is None:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    command = ["nvidia-smi", "--query-gpu=name,memory.free", "--format=csv,noheader,nounits", *(["-i", visible] if visible else [])]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode or not found.stdout.strip():
        return None
    name, free = found.stdout.splitlines()[0].rsplit(",", 1)
    return Device(name.strip(), 0, 2.0**20 * float(free))
