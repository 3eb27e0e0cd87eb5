import dataclasses
import json

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.data import AUGMENTATIONS
from keras_vit.training import RECIPES, Recipe


def tiny_model(**overrides):
    arguments = dict(input_shape=(8, 8, 3), patch_size=4, hidden_dim=8, num_layers=2, num_heads=2, mlp_dim=16, num_classes=3)
    return keras_vit.VisionTransformer(**arguments | overrides)


def rates(recipe, steps_per_epoch):
    """The learning rate of every step of a run, and of the one after it, as the optimizer itself counts them."""
    model = tiny_model()
    optimizer = recipe.build_optimizer(steps_per_epoch)
    optimizer.build(model.trainable_variables)
    found, nothing = [], [keras.ops.zeros(v.shape) for v in model.trainable_variables]
    epochs, steps = recipe.length(steps_per_epoch)
    for _ in range(epochs * steps + 1):
        found.append(float(keras.ops.convert_to_numpy(optimizer.learning_rate)))
        optimizer.apply(nothing)
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


def test_linear_and_constant_schedules():
    recipe = Recipe("", epochs=5, batch_size=8, learning_rate=0.2, warmup_epochs=1, schedule="linear")
    rise, fall = [0.0, 0.1], np.linspace(0.2, 0.0, 9)
    np.testing.assert_allclose(rates(recipe, 2), [*rise, *fall], atol=1e-6)
    np.testing.assert_allclose(rates(dataclasses.replace(recipe, schedule="constant"), 2), [*rise, *[0.2] * 9], atol=1e-6)


def test_learning_rate_in_proportion_to_the_batch():
    assert rates(Recipe("", epochs=1, batch_size=64, learning_rate=0.1, learning_rate_images=256), 2)[0] == pytest.approx(0.025)


@pytest.mark.parametrize("steps, steps_per_epoch, expected", [(500, 40, (12, 42)), (500, 5000, (1, 500)), (10, 4, (2, 5))])
def test_a_length_in_steps(steps, steps_per_epoch, expected):
    assert Recipe("", batch_size=8, steps=steps).length(steps_per_epoch) == expected


def test_clip_and_optimizer_reach_keras():
    optimizer = Recipe("", epochs=1, batch_size=8, optimizer="SGD", clip_norm=1.5).build_optimizer(1)
    assert isinstance(optimizer, keras.optimizers.SGD) and optimizer.global_clipnorm == 1.5 and optimizer.momentum == 0.9


def test_sigmoid_sums_over_the_classes():
    model = tiny_model(classifier_activation="sigmoid")
    Recipe("", epochs=1, batch_size=8, loss="sigmoid").compile(model, 1)
    loss = model.evaluate(np.zeros((2, 8, 8, 3)), np.array([[1.0, 1, 0], [0, 0, 0]]), verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(3 * np.log(2), abs=1e-5)


def test_the_head_first_then_all():
    recipe = Recipe("", epochs=2, batch_size=8, head_epochs=3, drop_path_rate=0.1)
    head, rest = recipe.phases()
    assert head.epochs == 3 and head.frozen_blocks == "all" and rest == dataclasses.replace(recipe, head_epochs=0)
    model = recipe.build(tiny_model())
    before = {v.path: np.array(v) for v in model.variables}
    images, labels = np.random.default_rng(0).uniform(0, 255, (8, 8, 8, 3)), np.eye(3)[np.arange(8) % 3]
    changed = []
    for phase in (head, rest):
        phase.compile(model, 1)
        model.fit(images, labels, verbose=0, epochs=2)
        changed.append({v.path.split("/")[0] for v in model.weights if not np.array_equal(before[v.path], np.array(v))})
    assert changed[0] == {"head"} and {"patch_embedding", "block_0", "head"} <= changed[1]
    assert Recipe("", epochs=2, batch_size=8).phases() == (Recipe("", epochs=2, batch_size=8),)


def test_the_average_of_the_weights_is_what_fit_leaves():
    model = tiny_model()
    Recipe("", epochs=1, batch_size=4, ema_momentum=0.5, learning_rate=0.1, schedule="constant").compile(model, 4)
    seen = []
    images, labels = np.random.default_rng(0).uniform(0, 255, (16, 8, 8, 3)), np.eye(3)[np.arange(16) % 3]
    track = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(np.array(model.get_layer("head").kernel)))
    model.fit(images, labels, batch_size=4, shuffle=False, verbose=0, callbacks=[track])
    average = seen[0]
    for kernel in seen[1:]:
        average = 0.5 * average + 0.5 * kernel
    np.testing.assert_allclose(np.array(model.get_layer("head").kernel), average, atol=1e-6)


def test_two_classes_class_weights_and_sample_weights():
    images, labels = np.random.default_rng(0).uniform(0, 255, (8, 8, 8, 3)), np.eye(2)[np.arange(8) % 2]
    losses = []
    for options in ({}, dict(class_weight={0: 1.0, 1: 3.0}), dict(sample_weight=np.array([1.0, 3.0] * 4))):
        model = tiny_model(num_classes=2, num_layers=1)
        Recipe("", epochs=1, batch_size=8, learning_rate=1e-6).compile(model, 1, jit_compile=False)
        losses.append(model.fit(images, labels, verbose=0, batch_size=8, **options).history["loss"][0])
    np.testing.assert_allclose(losses, [np.log(2), 2 * np.log(2), 2 * np.log(2)], rtol=1e-5)


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
    model = recipe.build(tiny_model(num_layers=1))
    recipe.compile(model, 1, run_eagerly=True)
    model.train_on_batch(np.zeros((2, 8, 8, 3)), np.eye(3)[:2])


@pytest.mark.parametrize(
    "values",
    [
        dict(epochs=0),
        dict(batch_size=-1),
        dict(learning_rate=0.0),
        dict(learning_rate=float("nan")),
        dict(layer_decay=1.5),
        dict(weight_decay=-0.1),
        dict(ema_momentum=1.0),
        dict(label_smoothing=1.0),
        dict(optimizer="Adam"),
        dict(schedule="step"),
        dict(loss="hinge"),
        dict(lora_rank=0),
        dict(warmup_steps=-1),
    ],
)
def test_wrong_values_are_refused(values):
    ((name, value),) = values.items()
    with pytest.raises(ValueError, match=f"`{name}` must .* Received: {name}={value!r}"):
        Recipe(**dict(source="", epochs=1, batch_size=1) | values).build_optimizer(1)


def test_epochs_or_steps():
    with pytest.raises(ValueError, match="One of `epochs` and `steps`"):
        Recipe("", batch_size=1)
    with pytest.raises(ValueError, match="One of `epochs` and `steps`"):
        Recipe("", batch_size=1, epochs=1, steps=1)


def test_a_recipe_is_applied_whole():
    recipe = Recipe("", epochs=1, batch_size=8, dropout_rate=0.1, drop_path_rate=0.2, patch_dropout_rate=0.3, loss="sigmoid")
    for model in (recipe.build(tiny_model()), recipe.build("ViTMicro4", num_classes=3), tiny_model().adapt(**recipe.model_arguments)):
        assert recipe.model_arguments.items() <= model.get_config().items()
        recipe.compile(model, 1)
    with pytest.raises(
        ValueError, match=r"The recipe sets `classifier_activation`: .*replace\(recipe, loss=.*Received: classifier_activation='softmax'"
    ):
        recipe.build("ViTMicro4", classifier_activation="softmax")


@pytest.mark.parametrize(
    "values, arguments, rule",
    [
        ({}, dict(classifier_activation=None), "`classifier_activation` must be the recipe's, 'softmax'"),
        ({}, dict(classifier_activation="sigmoid"), r"replace\(recipe, loss='sigmoid'\)`. Received: classifier_activation='sigmoid'"),
        (dict(loss="sigmoid"), {}, "`classifier_activation` must be the recipe's, 'sigmoid'"),
        (dict(drop_path_rate=0.1), {}, r"replace\(recipe, drop_path_rate=0.0\)`. Received: drop_path_rate=0.0"),
        ({}, dict(dropout_rate=0.1), "`dropout_rate` must be the recipe's, 0.0"),
        ({}, dict(patch_dropout_rate=0.5), "`patch_dropout_rate` must be the recipe's"),
        ({}, dict(include_top=False), "with a head"),
    ],
)
def test_a_model_that_is_not_the_recipes_is_refused(values, arguments, rule):
    with pytest.raises(ValueError, match=rule):
        Recipe("", epochs=1, batch_size=8, **values).compile(tiny_model(**arguments), 1)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_labels_are_class_numbers_or_one_hot(loss):
    """In every form the same loss, also where training labels are mixed and validation labels are not."""
    recipe = Recipe("", epochs=1, batch_size=4, loss=loss, label_smoothing=0.1, learning_rate=1e-3)
    images, numbers = np.random.default_rng(0).uniform(0, 255, (4, 8, 8, 3)), np.array([0, 2, 1, 2])
    one_hot, found = np.eye(3, dtype="float32")[numbers], []
    for train, validation in ((one_hot, one_hot), (one_hot, numbers), (numbers, one_hot), (numbers[:, None], numbers[:, None])):
        keras.utils.set_random_seed(0)
        model = recipe.build(tiny_model(num_layers=1))
        recipe.compile(model, 1, jit_compile=False)
        history = model.fit(images, train, batch_size=4, epochs=2, validation_data=(images, validation), verbose=0)
        found.append([*history.history["val_loss"], *history.history["val_accuracy"], *history.history["loss"]])
    np.testing.assert_allclose(found, [found[0]] * 4, rtol=1e-6)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_what_a_recipe_compiles_loads_in_a_new_process(other_process, loss):
    recipe = Recipe("", epochs=1, batch_size=8, loss=loss, schedule="linear")
    model = recipe.build(tiny_model())
    recipe.compile(model, 1)
    images = np.zeros((2, 8, 8, 3), "float32")
    model.fit(images, np.array([0, 1]), verbose=0)
    assert other_process.check(model, images) == "VisionTransformer"
