import random

import keras
import pytest
from helpers import tiny

import keras_vit
from keras_vit.cost.seconds import Machine
from keras_vit.profiling import calibration
from keras_vit.profiling.probes import Block, Update, timed

CONSTANTS = dict(overhead=5e-4, parameter=1e-9, dense={192: 9e-12, 768: 7e-12}, score=2e-9, long_score=3e-9)


def machine(**changes):
    return Machine(keras.backend.backend(), "a processor", 2, "float32", True, **CONSTANTS | changes)


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Puts a machine of known speed in place of this one. Returns the list of what was measured."""
    calls = []

    def seconds(probe):
        if isinstance(probe, Update):
            return CONSTANTS["overhead"] + probe.weights * CONSTANTS["parameter"]
        score = CONSTANTS["long_score" if probe.tokens > 1024 else "score"]
        return CONSTANTS["overhead"] + probe.macs * CONSTANTS["dense"][max(probe.width, 192)] + probe.scores * score

    def measure(probes, training, precision):
        calls.append(precision)
        return [seconds(probe) for probe in probes]

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(calibration, "timed", measure)
    monkeypatch.setattr(calibration, "page_seconds", lambda: 0.0)
    return calls


def test_the_speed_of_a_machine_is_found_and_kept(measured, tmp_path):
    assert not keras_vit.profiling.is_calibrated()
    found = keras_vit.profiling.calibrate()
    for name, value in CONSTANTS.items():
        assert getattr(found, name) == pytest.approx(value, rel=0.05), name
    assert keras_vit.profiling.calibrate() == found and len(measured) == 1 and keras_vit.profiling.is_calibrated()
    (path,) = (tmp_path / "keras_vit" / "machines").iterdir()
    assert keras.backend.backend() in path.name and "float32" in path.name and "training" in path.name
    for text in ("half a file", path.read_text().replace(keras.version(), "3.0.0")):  # of another version
        path.write_text(text)
        assert keras_vit.profiling.calibrate() == found
    assert len(measured) == 3
    keras_vit.profiling.calibrate(again=True)
    assert len(measured) == 4
    keras_vit.profiling.calibrate(training=False)
    keras_vit.profiling.calibrate(precision="mixed_bfloat16")
    assert len(measured) == 6 and len([*path.parent.iterdir()]) == 3


@pytest.mark.parametrize("training", [True, False])
def test_probes(training):
    """They run on the backend, and change neither the names of later layers nor the random numbers of later weights."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    expected = keras.layers.Dense(2).name, random.random()
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    probes = [Block(8, 4, 2), *([Update(4)] if training else [])]
    assert min(timed(probes, training, "mixed_bfloat16", seconds=0.0, least=1, turns=1)) > 0
    assert (keras.layers.Dense(2).name, random.random()) == expected


def test_pages_of_temporary_memory(monkeypatch):
    """A step on JAX has all its temporary memory cleared, if it is more than 32 MB."""
    memory = keras_vit.estimate_step("ViTTi16", 8).memory
    seconds = keras_vit.estimate_step("ViTTi16", 8, machine=machine(page=1e-9)).seconds
    assert seconds.memory == pytest.approx(1e-9 * (memory.gradients + memory.activations + memory.scores))
    assert keras_vit.estimate_step(tiny().config, 1, machine=machine(page=1e-9)).seconds.memory == 0
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(calibration, "accelerated", lambda: False)
    assert calibration.page_seconds(size=2**16, times=1) > 0
    monkeypatch.setattr(calibration, "accelerated", lambda: True)
    assert calibration.page_seconds() == 0


def test_the_time_of_a_step():
    step = keras_vit.estimate_step("ViTTi16", 8, machine=machine(), input_shape=(224, 224, 3))
    seconds = step.seconds
    assert seconds.total == pytest.approx(sum(seconds)) and seconds.overhead == pytest.approx(13 * 5e-4)
    assert seconds.optimizer == pytest.approx(5_717_416 * 1e-9)
    # Eleven blocks as a whole; the last one computes keys and values of all tokens, and the rest of the class token.
    n, d = 197, 192
    dense = 8 * (11 * 12 * n * d * d + 2 * n * d * d + 10 * d * d + 196 * 768 * d + 1000 * d)
    assert seconds.dense == pytest.approx(dense * 9e-12) and seconds.attention == pytest.approx(8 * 11 * 3 * n * n * 2e-9)
    assert step.epoch_seconds(17) == pytest.approx(3 * seconds.total)
    with pytest.raises(ValueError, match="calibrate"):
        keras_vit.estimate_step("ViTTi16", 8).epoch_seconds(17)
    with pytest.raises(ValueError, match=r"calibrate\(training=False\)"):
        keras_vit.estimate_step("ViTTi16", 8, training=False, machine=machine())
    assert machine().dense_at(384) == pytest.approx((9e-12 * 7e-12) ** 0.5, rel=0.01) and machine().dense_at(64) == 9e-12
