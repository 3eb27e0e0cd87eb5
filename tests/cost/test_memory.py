import keras
import pytest
from helpers import tiny

import keras_vit
from keras_vit.cost import largest_batch, step_memory
from keras_vit.cost.memory import TRAINING, kept_by_block

BACKENDS = ("tensorflow", "jax", "torch")

# Peak of a training step in MB, measured by `benchmarks/cost_check.py`: gradients and activations, without weights and optimizer.
MEASURED = [
    ("tensorflow", "ViTTi16", 224, 16, 8, {"num_layers": 8}, 183.1),
    ("tensorflow", "ViTS16", 256, 8, 2, {"num_layers": 4}, 172.2),
    ("tensorflow", "ViTB16", 96, 32, 2, {"num_layers": 4}, 140.2),
    ("tensorflow", "ViTS16", 224, 16, 8, {"num_layers": 4, "dtype": "mixed_bfloat16"}, 126.3),
    ("tensorflow", "ViTTi16", 512, 16, 2, {}, 341.7),  # attention head by head
    ("jax", "ViTTi16", 480, 16, 4, {"num_layers": 3}, 403.1),
    ("jax", "ViTB16", 224, 16, 4, {"num_layers": 6}, 455.8),
    ("jax", "ViTS16", 224, 16, 8, {"num_layers": 8, "remat": True}, 158.3),
    ("torch", "ViTS16", 224, 16, 8, {"num_layers": 4, "num_heads": 12}, 191.1 + 30.3),  # gradients stay after the step
    ("torch", "ViTB16", 224, 16, 4, {"num_layers": 6}, 257.6 + 174.4),
]


@pytest.mark.parametrize("backend, model, side, patch, batch, more, megabytes", MEASURED)
def test_the_peak_is_the_measured_one(backend, model, side, patch, batch, more, megabytes):
    found = step_memory(model, batch, backend=backend, input_shape=(side, side, 3), patch_size=patch, num_classes=1000, **more)
    state = found.weights + found.optimizer
    predicted = found.gradients + found.activations + found.scores
    assert (state + predicted) == pytest.approx(state + 1e6 * megabytes, rel=0.1)


def test_what_a_backward_pass_needs_is_told_apart():
    """As `test_counts.test_activation_bytes` counts them."""
    d, n, mlp_dim, heads = 16, 7, 32, 2
    config = tiny().config
    assert kept_by_block(config, "tensorflow") == (8 * n * d, 2 * n * mlp_dim, heads * n * n)
    long = config.replace(input_shape=(256, 256, 3), patch_size=8)
    assert [kept_by_block(long, backend)[2] for backend in BACKENDS] == [0, 0, 0]
    middle = config.replace(input_shape=(128, 128, 3), patch_size=8)
    assert [kept_by_block(middle, backend)[2] > 0 for backend in BACKENDS] == [True, True, False]


def test_precision_optimizer_and_remat():
    whole = step_memory("ViTS16", 32, backend="tensorflow")
    assert whole.weights == 4 * 22_050_664 and whole.optimizer == 2 * whole.weights and whole.batch == 4 * 32 * 224 * 224 * 3
    assert whole.total == sum(whole)
    assert step_memory("ViTS16", 32, optimizer="SGD", backend="tensorflow").optimizer == whole.weights
    assert step_memory("ViTS16", 32, ema=True, backend="tensorflow").weights == 2 * whole.weights
    assert step_memory("ViTS16", 32, dtype="bfloat16", backend="tensorflow").weights == whole.weights / 2
    for less in ({"remat": True}, {"dtype": "mixed_bfloat16"}):
        assert step_memory("ViTS16", 32, backend="tensorflow", **less).total < whole.total
    inference = step_memory("ViTS16", 32, training=False, backend="tensorflow")
    assert inference.optimizer == inference.gradients == 0 and inference.activations < whole.activations / 5


def test_frozen_weights_of_a_model_have_no_gradients():
    model = tiny()
    model.trainable = False
    found = step_memory(model, 4, backend="torch")
    assert found.gradients == found.optimizer == 0 and found.weights > 0


def test_the_largest_batch_fits_and_the_next_does_not():
    more = {"input_shape": (96, 96, 3)}
    available = 2**30
    most = largest_batch(available, "ViTTi16", **more)
    total = [keras_vit.estimate_step("ViTTi16", count, **more).memory.total for count in (most, most + 1)]
    assert total[0] <= available < total[1]
    assert largest_batch(1000, "ViTTi16") == 0


def test_bad_input():
    for model, more, message in (
        ("ViTS17", {}, "The nearest are"),
        ("ViTS16", {"optimizer": "Adam"}, "Unknown optimizer; there is 'AdamW'"),
        ("ViTS16", {"batch_size": 0}, "`batch_size` must be"),
        ("ViTS16", {"input_shape": (None, None, 3)}, "pass `input_shape`"),
    ):
        with pytest.raises(ValueError, match=message):
            keras_vit.estimate_step(model, **more)
    with pytest.raises(ValueError, match="Received: backend='numpy'"):
        step_memory("ViTS16", backend="numpy")
    assert {backend for backend, _ in TRAINING} == {*BACKENDS} and keras.backend.backend() in BACKENDS
