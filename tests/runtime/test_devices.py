import keras
import pytest

from keras_vit import runtime
from keras_vit.runtime import agreement, devices


@pytest.fixture
def second_of_three(monkeypatch):
    monkeypatch.setattr(devices, "CLUSTER", devices._Cluster())
    devices.enter_cluster(1, 3, "strategy")


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX itself knows its processes")
def test_processes(second_of_three):
    assert runtime.processes() == (1, 3)
    assert devices.CLUSTER.strategy == "strategy"


def test_a_single_process():
    assert runtime.processes() == (0, 1) and devices.replicas() == 1 and not devices.in_replica() and devices.model_mesh() is None
    agreement.check_agreement({"anything": object()})


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX itself knows its processes")
def test_workers_that_differ(second_of_three, monkeypatch):
    def gathered(digests):
        return [digests, [digests[0], 1], digests]

    monkeypatch.setattr(agreement, "_gathered_on_tensorflow", gathered)
    with pytest.raises(ValueError, match="All workers must have the same seed; worker 0 and 1 differ. Received: 3 here"):
        agreement.check_agreement({"batch size": 32, "seed": 3})
