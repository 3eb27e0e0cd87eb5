import math

import pytest

import keras_vit
from keras_vit.training import check_memory
from keras_vit.training.devices import memory


@pytest.fixture(scope="module")
def model():
    return keras_vit.ViTMicro4(num_classes=10)


def test_what_fits_passes(model):
    check_memory(model, 64)
    check_memory(model, 64, available=memory.training_bytes(model, 64))


def test_the_advice_is_a_part_that_fits(model):
    available = memory.training_bytes(model, 100)
    with pytest.raises(ValueError, match=r"256 images .* `accumulation_steps=4` computes the same steps in micro-batches of 64 images"):
        check_memory(model, 256, available=available)
    check_memory(model, 64, available=available)
    with pytest.raises(ValueError):
        check_memory(model, 128, available=available)


def test_a_model_too_large_for_one_image(model):
    with pytest.raises(ValueError, match="A single image needs .*: take a smaller model, or `remat=True`"):
        check_memory(model, 8, available=1000)


def test_frozen_weights_have_no_optimizer(model):
    whole = memory.training_bytes(model, 1, ema=True)
    keras_vit.training.freeze(model, "all")
    frozen = sum(math.prod(v.shape) for v in model.non_trainable_variables)
    saved = whole - memory.training_bytes(model, 1, ema=True)
    assert saved >= 3 * 4 * frozen  # two moments and the average, four bytes each, and what gradients take
    keras_vit.training.freeze(model)
