"""Memory that an array frees stays with the process, for the next array of a training step of torch on a processor."""

import ctypes
import functools
import os
import sys

import keras

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = 2**25  # bytes of an array that come from the heap: the most that glibc takes
OWN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")  # the user's settings


@functools.cache
def keep_freed_memory():
    """Tells glibc's allocator to keep memory that is freed. Returns whether it does.

    An optimizer's step allocates and frees arrays of the size of each weight. By default, glibc gives large ones back to the system, from
    which every page is fetched and cleared again: half a million page faults in a step of ViT-B/32, as long as the rest of the step.
    The peak of memory does not change; the process keeps it until its end. Settings in the environment and other allocators come first.

    Not on JAX: two of its steps in flight need two blocks of temporary memory, which smaller arrays split, and the peak of `fit` grows
    by up to 1.7 times. Huge pages save as much time there (docs/performance.md).
    """
    if keras.backend.backend() != "torch" or sys.platform != "linux" or any(name in os.environ for name in OWN):
        return False
    import torch

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not every C library has it
    if torch.cuda.is_available() or mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
