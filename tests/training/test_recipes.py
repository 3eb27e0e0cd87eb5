import dataclasses
import json

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.data import AUGMENTATIONS
from keras_vit.training import RECIPES, Recipe


def tiny_model(**overrides):
    arguments = dict(input_shape=(8, 8, 3), patch_size=4, hidden_dim=8, num_layers=1, num_heads=2, mlp_dim=16, num_classes=3)
    return keras_vit.VisionTransformer(**arguments | overrides)


def rates(recipe, steps_per_epoch):
    optimizer = recipe.build_optimizer(tiny_model(), steps_per_epoch)
    found = []
    for step in range(recipe.epochs * steps_per_epoch + 1):
        optimizer.iterations.assign(step)
        found.append(float(optimizer.learning_rate))
    return np.array(found)


def test_learning_rate_warms_up_and_falls_along_a_cosine():
    steps = np.arange(51)
    expected = np.where(steps < 10, 0.2 * steps / 10, 0.1 * (1 + np.cos(np.pi * (steps - 10) / 40)))
    np.testing.assert_allclose(rates(Recipe("", epochs=10, batch_size=8, learning_rate=0.2, warmup_epochs=2), 5), expected, atol=1e-6)


def test_without_warm_up_the_highest_rate_comes_first():
    found = rates(Recipe("", epochs=2, batch_size=8, learning_rate=0.2), 5)
    assert found[0] == pytest.approx(0.2) and found[-1] == pytest.approx(0.0, abs=1e-8)


def test_a_warm_up_longer_than_the_run_is_cut():
    assert np.isfinite(rates(Recipe("", epochs=1, batch_size=8, warmup_epochs=5), 2)).all()


def test_weight_decay_is_for_kernels_only():
    model = tiny_model(layer_scale_init=0.1)
    optimizer = Recipe("", epochs=1, batch_size=8, learning_rate=1.0, weight_decay=0.5).build_optimizer(model, 10)
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    optimizer.apply([keras.ops.zeros(v.shape) for v in model.trainable_variables], model.trainable_variables)
    decayed = {v.path for v in model.trainable_variables if np.all(np.array(v) == 0.5)}
    kept = {v.path for v in model.trainable_variables if np.all(np.array(v) == 1.0)}
    assert decayed | kept == {v.path for v in model.trainable_variables}
    assert decayed == {path for path in decayed | kept if path.endswith("/kernel")}
    assert any("position_embedding" in path for path in kept) and any("class_token" in path for path in kept)
    assert len(decayed) == 6  # patches, query-key-value, projection, two of the feed-forward network, head


def test_clip_and_optimizer_reach_keras():
    optimizer = Recipe("", epochs=1, batch_size=8, optimizer="SGD", clip_norm=1.5).build_optimizer(tiny_model(), 1)
    assert isinstance(optimizer, keras.optimizers.SGD) and optimizer.global_clipnorm == 1.5


def test_label_smoothing_reaches_the_loss():
    model = tiny_model()
    Recipe("", epochs=1, batch_size=8, label_smoothing=0.3).compile(model, 1)
    loss = model.evaluate(np.zeros((2, 8, 8, 3)), np.eye(3)[:2], verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(np.log(3), abs=1e-5)  # the head starts at zero: equal probabilities
    assert model.loss.label_smoothing == 0.3


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_of_the_table(name):
    recipe = RECIPES[name]
    assert recipe.source and recipe.augmentation in AUGMENTATIONS
    assert Recipe(**json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe
    model = tiny_model(dropout_rate=recipe.dropout_rate, drop_path_rate=recipe.drop_path_rate)
    recipe.compile(model, 1)
    model.fit(np.zeros((2, 8, 8, 3)), np.eye(3)[:2], verbose=0)


@pytest.mark.parametrize("values", [dict(epochs=0), dict(batch_size=-1), dict(learning_rate=0.0), dict(learning_rate=float("nan"))])
def test_wrong_numbers_are_refused(values):
    ((name, value),) = values.items()
    with pytest.raises(ValueError, match=f"`{name}` must .* Received: {name}={value}"):
        Recipe(**dict(source="", epochs=1, batch_size=1) | values)
