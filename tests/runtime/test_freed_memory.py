import json
import os
import subprocess
import sys

import keras
import pytest

from keras_vit.runtime.freed_memory import OWN, keep_freed_memory

# Page faults of five passes over twenty arrays of 8 MB, the last of them.
FAULTS = """
import json, resource, torch
from keras_vit.runtime.freed_memory import keep_freed_memory
kept = keep_freed_memory()
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [torch.ones(2**21) for _ in range(20)]
    del arrays
print(json.dumps([kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before]))
"""


def faults(**environment):
    environment = {key: value for key, value in os.environ.items() if key not in OWN} | {"KERAS_BACKEND": "torch"} | environment
    return json.loads(subprocess.check_output([sys.executable, "-c", FAULTS], env=environment, text=True).splitlines()[-1])


def test_arrays_take_the_memory_that_others_have_freed():
    pytest.importorskip("torch")
    if keras.backend.backend() != "torch":
        assert not keep_freed_memory()
        return
    kept, few = faults()
    if not kept:
        pytest.skip("a C library without these settings, or a GPU")
    kept, many = faults(MALLOC_MMAP_THRESHOLD_="65536")  # the user's own settings hold
    assert not kept and few < 1000 < many
