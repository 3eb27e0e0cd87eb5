import gc
import os

# What is compiled here runs once: without this, JAX spends twice the time on making it fast.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import keras
import pytest
from helpers import OtherProcess


@pytest.fixture(scope="session")
def other_process(tmp_path_factory):
    process = OtherProcess(tmp_path_factory.mktemp("other_process"))
    yield process
    process.close()


@pytest.fixture(autouse=True)
def same_seed():
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def left_alone():
    """Keeps Python's collector, which Keras asks for whenever it clears a session, from the graphs that earlier tests left: 20 seconds."""
    yield
    gc.freeze()
