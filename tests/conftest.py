import gc
import os

# What is compiled here runs once: without the first three, XLA spends two to three times as long on making it fast. And a process
# runs for each core: threads would wait for each other.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_multi_thread_eigen=false",
)
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

# The process that hands tests out to the others reads this file, too: so Keras is imported where it is used, which takes four seconds.


@pytest.fixture(scope="session")
def other_process(tmp_path_factory):
    from helpers import OtherProcess

    process = OtherProcess(tmp_path_factory.mktemp("other_process"))
    yield process
    process.close()


@pytest.fixture(scope="session", autouse=True)
def home_of_tests(tmp_path_factory):
    """Keeps manifests of folders out of the user's home."""
    before = os.environ.get("KERAS_HOME")
    os.environ["KERAS_HOME"] = str(tmp_path_factory.mktemp("keras_home"))
    yield
    os.environ.pop("KERAS_HOME") if before is None else os.environ.update(KERAS_HOME=before)


@pytest.fixture(autouse=True)
def same_seed():
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def left_alone():
    """Keeps Python's collector, which Keras asks for whenever it clears a session, from the graphs that earlier tests left: 20 seconds."""
    gc.freeze()
    yield
    gc.freeze()
