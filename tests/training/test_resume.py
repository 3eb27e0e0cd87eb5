import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.data import load
from keras_vit.training import Checkpoints, Recipe

RECIPE = Recipe("", epochs=4, batch_size=16, learning_rate=1e-3, warmup_epochs=1, weight_decay=0.1, clip_norm=1.0)


@pytest.fixture(scope="module")
def data():
    return load("digits", batch_size=400, augmentation="digits", image_size=8)


def tiny_model(width=8):
    keras.utils.set_random_seed(0)
    model = keras_vit.VisionTransformer((8, 8, 3), 4, width, 2, 2, 16, 10, dropout_rate=0.1, drop_path_rate=0.2)
    RECIPE.compile(model, 3)
    return model


def train(model, data, checkpoints, until):
    epoch = checkpoints.restore(model)
    model.fit(
        data.train_from(epoch * data.steps_per_epoch),
        steps_per_epoch=data.steps_per_epoch,
        initial_epoch=epoch,
        epochs=until,
        validation_data=data.validation,
        callbacks=[checkpoints],
        verbose=0,
    )


def states(model):
    return [np.array(v) for v in [*model.weights, *model.optimizer.variables]]


def test_a_resumed_run_ends_as_an_unbroken_one_bit_for_bit(tmp_path, data):
    unbroken, checkpoints = tiny_model(), Checkpoints(tmp_path / "unbroken")
    train(unbroken, data, checkpoints, until=4)
    for until in (1, 3, 4):  # three processes would do the same: nothing is kept but the files
        resumed, again = tiny_model(), Checkpoints(tmp_path / "resumed")
        train(resumed, data, again, until)
    for one, other in zip(states(unbroken), states(resumed), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.history == checkpoints.history
    assert [row["epoch"] for row in again.history] == [1, 2, 3, 4]
    assert set(again.history[0]) == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy"}


def test_seed_generators_are_restored(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    checkpoints = Checkpoints(tmp_path)
    checkpoints.set_model(model)
    model(np.ones((1, 4)), training=True)
    checkpoints.on_epoch_end(0, {"loss": 1.0})
    expected = np.array(model(np.ones((1, 64, 4))[0], training=True))
    Checkpoints(tmp_path).restore(model)
    np.testing.assert_array_equal(model(np.ones((1, 64, 4))[0], training=True), expected)


def saved_epochs(folder, count):
    model = tiny_model()
    checkpoints = Checkpoints(folder)
    checkpoints.set_model(model)
    for epoch in range(count):
        model.optimizer.iterations.assign(epoch + 1)
        checkpoints.on_epoch_end(epoch, {"loss": 0.5})
    return checkpoints


def test_the_last_ones_are_kept(tmp_path):
    saved_epochs(tmp_path, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-00003.npz", "epoch-00004.npz"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage):
    newest = saved_epochs(tmp_path, 3).files()[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"cut": content[:-100], "flipped": content, "empty": b""}[damage])
    model = tiny_model()
    assert Checkpoints(tmp_path).restore(model) == 2
    assert int(model.optimizer.iterations) == 2


def test_nothing_to_restore_is_epoch_zero(tmp_path):
    assert Checkpoints(tmp_path / "none").restore(tiny_model()) == 0


def test_another_model_is_refused_and_left_as_it_was(tmp_path):
    saved_epochs(tmp_path, 1)
    other = tiny_model(width=12)
    before = states(other)
    with pytest.raises(ValueError, match="another model or optimizer. Received: .*epoch-00001.npz"):
        Checkpoints(tmp_path).restore(other)
    for one, two in zip(before, states(other), strict=False):
        np.testing.assert_array_equal(one, two)


def test_keep_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="`keep` must be at least 1. Received: keep=0"):
        Checkpoints(tmp_path, keep=0)
