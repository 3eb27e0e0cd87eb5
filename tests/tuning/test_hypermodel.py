import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import keras
import keras_tuner
import numpy as np
import pytest
from helpers import requires_tensorflow

from keras_vit.training import RECIPES
from keras_vit.training.results.best import is_stale
from keras_vit.tuning import Search, ViTHyperModel, read_trials
from keras_vit.tuning.study import read_history

pytestmark = requires_tensorflow
ROOT = pathlib.Path(__file__).parents[2]
SPACE = {
    "hidden_dim": (8, 12),
    "num_heads": (2, 3),
    "learning_rate": {"low": 1e-3, "high": 1e-2, "log": True},
    "batch_size": (32, 64),
    "mixup": (0.0, 0.2),
}
RECIPE = dataclasses.replace(RECIPES["small_data"], epochs=3, warmup_epochs=1)
TINY = dict(architecture={"num_layers": 1, "mlp_dim": 8}, image_size=8, train_images=64, jit_compile=False)


def tiny(space=SPACE, recipe=RECIPE, **more):
    return ViTHyperModel("digits", space, recipe=recipe, **TINY | more)


@pytest.mark.parametrize(
    "tuner, arguments",
    [
        (keras_tuner.RandomSearch, dict(max_trials=8)),
        (keras_tuner.Hyperband, dict(max_epochs=3)),
        (keras_tuner.BayesianOptimization, dict(max_trials=5, num_initial_points=4)),
        (keras_tuner.GridSearch, dict(max_trials=8)),
    ],
)
def test_keras_tuners_own_tuners_sample_nothing_invalid(tmp_path, monkeypatch, tuner, arguments):
    """With a formula in place of training."""
    hypermodel = tiny()
    monkeypatch.setattr(ViTHyperModel, "fit", lambda self, hp, model, **kwargs: {"val_accuracy": hp["learning_rate"]})
    model = keras.Sequential([keras.Input((1,))])
    monkeypatch.setattr(model, "load_weights", lambda path: None)  # as Hyperband does: nothing was trained
    monkeypatch.setattr(hypermodel, "build", lambda hp: model)
    search = tuner(hypermodel, objective="val_accuracy", seed=1, directory=tmp_path, project_name="study", **arguments)
    search.search(verbose=0)
    trials = search.oracle.trials.values()
    assert {trial.status for trial in trials} == {"COMPLETED"} and len(trials) >= 4
    for trial in trials:
        values = hypermodel.values(trial.hyperparameters.values)
        assert values["hidden_dim"] % values["num_heads"] == 0


@pytest.mark.slow
def test_hyperband_of_keras_tuner_goes_on_from_the_rung_below(tmp_path, capfd):
    search = keras_tuner.Hyperband(tiny(), "val_accuracy", max_epochs=3, seed=1, directory=tmp_path, project_name="study")
    search.oracle.max_trials = 4  # one rung, and the one that is promoted
    search.search(verbose=0)
    (promoted,) = [trial for trial in search.oracle.trials.values() if "tuner/trial_id" in trial.hyperparameters.values]
    before = read_history(tmp_path / "study" / f"trial_{promoted.hyperparameters.values['tuner/trial_id']}")
    history = read_history(tmp_path / "study" / f"trial_{promoted.trial_id}")
    assert history[:1] == before and len(history) == 3  # it did not begin anew
    assert capfd.readouterr().err.count("resuming after 0 steps of epoch 2") == 1
    (model,) = search.get_best_models()
    assert model.get_layer("block_0").attention.num_heads in (2, 3)


def test_a_budget():
    from keras_vit.cost import cost

    space = SPACE | {"hidden_dim": (16, 32, 64), "patch_size": (2, 4, 8)}
    hypermodel = tiny(space, max_macs=40_000)
    assert 1 < len(hypermodel.choices) < len(tiny(space).choices)
    hp = keras_tuner.HyperParameters()
    hypermodel.declare_hyperparameters(hp)
    for architecture in hp.space[0].values:
        config = hypermodel.config(hp.values | {"architecture": architecture})
        assert cost(config["model"], input_shape=(8, 8, 3), num_classes=10, **config["architecture"]).macs <= 40_000


def test_a_trial_stops_early_also_after_a_kill(tmp_path, monkeypatch):
    hypermodel = tiny({"learning_rate": (1e-3, 2e-3)}, dataclasses.replace(RECIPE, epochs=50, learning_rate=1e-3), patience=2)
    rows = [{"val_accuracy": score} for score in (0.1, 0.3, 0.3, 0.2)]
    assert is_stale(rows, 2) and not is_stale(rows[:3], 2) and not is_stale([], 2) and not is_stale(rows, None)
    Search(hypermodel, tmp_path / "study", "random", 1).search()
    (trial,) = read_trials(tmp_path / "study")
    scores = [row["val_accuracy"] for row in trial.history]
    assert len(scores) < 50 and len(scores) - scores.index(max(scores)) == 3
    # Killed after its last epoch, before it was recorded: nothing is trained again.
    path = tmp_path / "study" / "trial_0" / "trial.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "RUNNING"}))
    monkeypatch.setattr(keras.Model, "evaluate", None)
    Search(hypermodel, tmp_path / "study", "random", 1).search()
    (again,) = read_trials(tmp_path / "study")
    assert again.history == trial.history and again.score == trial.score and again.status == "COMPLETED"


def test_a_loss_that_is_nan_and_a_batch_too_large_are_failures_with_reasons(tmp_path, monkeypatch):
    hypermodel = tiny({"learning_rate": (1e-3, 1e30), "optimizer": ("SGD",)}, dataclasses.replace(RECIPE, clip_norm=None, warmup_epochs=0))
    Search(hypermodel, tmp_path / "study", "grid", 2).search()
    done, failed = read_trials(tmp_path / "study")
    assert done.status == "COMPLETED" and failed.status == "FAILED"
    assert failed.reason.startswith("FloatingPointError: ") and "is not finite after step" in failed.reason
    monkeypatch.setattr("keras_vit.training.devices.memory.available_bytes", lambda: 1)
    Search(tiny(), tmp_path / "large", "random", 1).search()
    assert "A step must fit into memory" in read_trials(tmp_path / "large")[0].reason


def test_weights_that_trials_begin_with(tmp_path):
    import keras_vit

    model = keras_vit.VisionTransformer((8, 8, 3), 4, 8, 2, 2, 8, num_classes=3)
    space = {"frozen_blocks": ("all", 1), "layer_decay": (0.5, 1.0), "randaugment": (0, 5)}
    hypermodel = ViTHyperModel("digits", space, model, RECIPE, train_images=64, settings={"weights": "w.keras", "recipe": "small_data"})
    hp = keras_tuner.HyperParameters()
    built = hypermodel.build(hp)
    np.testing.assert_array_equal(built.get_layer("patch_embedding").get_weights()[0], model.get_layer("patch_embedding").get_weights()[0])
    assert built.output_shape == (None, 10)
    trained = {layer.name for layer in built.layers if layer.trainable and layer.weights}
    assert trained == ({"head"} if hypermodel.values(hp.values)["frozen_blocks"] == "all" else {"block_1", "norm", "head"})
    hp.values["randaugment"] = 5
    config = hypermodel.config(hp.values)
    assert config["weights"] == "w.keras" and config["training"]["augmentation"] == "digits+randaugment(5)" and "model" not in config
    with pytest.raises(ValueError, match="The dimensions of a model with weights cannot be searched. Received: the parameter hidden_dim"):
        ViTHyperModel("digits", {"hidden_dim": (8,)}, model, RECIPE)


@pytest.mark.parametrize(
    "more, rule",
    [
        (dict(space={"batch_size": (65,)}), "`batch_size` must be at most the 64 training images"),
        (dict(space={"augmentation": ("digit",)}), "Unknown augmentation"),
        (dict(space={"mixup": (-0.1,)}), "addition to an augmentation"),
        (dict(space={"drop_path_rate": (1.0,)}), "drop_path_rate"),
        (dict(space={"num_heads": (5,)}), "No combination of the search space can be built. The first fails with: `num_heads`"),
        (dict(space={"model": ("ViTB17",)}), "There is no preset of that name"),
        (dict(recipe=dataclasses.replace(RECIPE, epochs=None, steps=9)), "needs a recipe with `epochs`"),
        (dict(patience=0), "`patience` must be at least 1"),
    ],
)
def test_wrong_arguments(more, rule):
    with pytest.raises(ValueError, match=rule):
        tiny(**more)


def test_one_class():
    images = np.zeros((20, 8, 8, 3), "uint8")
    with pytest.raises(ValueError, match="must have two classes or more"):
        ViTHyperModel((images, np.zeros(20, int)), SPACE, **{**TINY, "train_images": None})


JAX = """
import dataclasses, sys, keras_tuner
from keras_vit import tuning
from keras_vit.training import RECIPES
recipe = dataclasses.replace(RECIPES["small_data"], epochs=3, warmup_epochs=1)
architecture = {"hidden_dim": 8, "num_heads": 2, "num_layers": 1, "mlp_dim": 8}
hypermodel = tuning.ViTHyperModel("digits", {"learning_rate": (1e-3, 1e-2), "mixup": (0.0, 0.2)}, recipe=recipe, architecture=architecture,
    image_size=8, train_images=64)
search = tuning.Search(hypermodel, sys.argv[1], "random", trials=1)
search.search()
print([trial.status for trial in tuning.read_trials(sys.argv[1])], len(search.get_best_models()))
"""


@pytest.mark.slow
def test_jax(tmp_path):
    pytest.importorskip("jax")
    command = [sys.executable, "-c", JAX, tmp_path / "study"]
    found = subprocess.run(command, cwd=ROOT, env=os.environ | {"KERAS_BACKEND": "jax"}, capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == f"{['COMPLETED']} 1", found.stderr


MIRRORED = """
import dataclasses, sys
from keras_vit.training import RECIPES, strategy, virtual_devices
virtual_devices("cpu:2")
from keras_vit import tuning
recipe = dataclasses.replace(RECIPES["small_data"], epochs=2, warmup_epochs=1)
architecture = {"hidden_dim": 8, "num_heads": 2, "num_layers": 1, "mlp_dim": 8}
for chosen in (strategy("mirrored"), None):
    hypermodel = tuning.ViTHyperModel("digits", {"learning_rate": (1e-3, 1e-2)}, recipe=recipe,
        architecture=architecture, image_size=8, train_images=64, jit_compile=False)
    search = tuning.Search(hypermodel, f"{sys.argv[1]}/{chosen is None}", "random", 1, distribution_strategy=chosen)
    search.search()
    print(*(f"{trial.history[-1]['val_loss']:.4f}" for trial in tuning.read_trials(search.folder)))
"""


@pytest.mark.slow
def test_distribution_strategy(tmp_path):
    """On two virtual devices a search finds what it finds on one."""
    command = [sys.executable, "-c", MIRRORED, tmp_path]
    found = subprocess.run(command, cwd=ROOT, env=os.environ | {"KERAS_BACKEND": "tensorflow"}, capture_output=True, text=True)
    losses = [np.array(line.split(), float) for line in found.stdout.splitlines() if line[:2] in ("1.", "2.")]
    assert len(losses) == 2, found.stderr
    np.testing.assert_allclose(*losses, atol=2e-3)
