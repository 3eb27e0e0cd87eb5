import csv
import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
from helpers import requires_tensorflow
from PIL import Image

from keras_vit.data import load
from keras_vit.data.sources import decoded_once, open_source
from keras_vit.training import RECIPES, Recipe, Run
from keras_vit.training.results.best import BestEpoch
from keras_vit.training.settings import read_config

pytestmark = requires_tensorflow
TINY = dict(patch_size=4, hidden_dim=8, num_layers=1, num_heads=2, mlp_dim=8)
QUICK = dict(
    data="digits", image_size=8, train_images=64, architecture=TINY, jit_compile=False, epochs=4, batch_size=32, learning_rate=0.02
)


class Spoil(keras.callbacks.Callback):
    """Turns the head around before the last epoch, so that it is not the best."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            kernel = self.model.get_layer("head").kernel
            kernel.assign(-kernel)


@pytest.fixture(scope="module")
def best(tmp_path_factory):
    """A finished run that kept its best epoch."""
    run = Run(output=tmp_path_factory.mktemp("runs") / "best", keep_best=True, **QUICK)
    run.train(callbacks=[Spoil()], verbose=0)
    return run


def test_the_best_epoch_is_kept(best):
    scores = [row["val_accuracy"] for row in best.history]
    assert len(scores) == 4 and best.finished and max(scores) > scores[-1]  # or the last epoch proved nothing
    found = best.evaluate("validation")
    assert found["split"] == "validation" and found["accuracy"] == pytest.approx(max(scores))
    again = Run.open(best.output)
    assert again.resumed and again.config["keep_best"] and again.evaluate("validation")["accuracy"] == found["accuracy"]
    assert again.model.class_names == tuple("0123456789")
    with pytest.raises(ValueError, match="`split` must be one of"):
        again.evaluate("tests")


class Killed(Exception):
    pass


class Kill(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise Killed


def test_a_stopped_run_is_resumed_to_the_same_end(best, tmp_path):
    config = read_config(best.output)
    with pytest.raises(Killed):
        Run(output=tmp_path / "run", config=config).train(callbacks=[Kill(2)], verbose=0)
    with pytest.raises(ValueError, match="This folder already holds a run; `resume` continues it"):
        Run(output=tmp_path / "run", config=config)
    with pytest.raises(ValueError, match="A run keeps its settings: this one was started with --epochs 4. Received: --epochs 5"):
        Run.open(tmp_path / "run", epochs=5)
    run = Run(output=tmp_path / "run", config=config, resume=True)
    assert run.train(callbacks=[Spoil()], verbose=0) == best.history
    for one, other in zip(run.model.get_weights(), best.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for name in ("history.csv", "test.json", "config.toml"):
        assert (tmp_path / "run" / name).read_bytes() == (best.output / name).read_bytes()


def test_patience_ends_a_run_and_a_finished_run_stays_so(tmp_path):
    run = Run(output=tmp_path / "run", patience=1, **QUICK | dict(epochs=30, learning_rate=1e-6))  # which learns nothing
    history = run.train(verbose=0)
    assert 1 < len(history) < 30
    before = (tmp_path / "run" / "checkpoints").stat().st_mtime_ns
    assert Run.open(tmp_path / "run").train(verbose=0) == history
    assert (tmp_path / "run" / "checkpoints").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="The run in this folder is finished. To train its model for more epochs"):
        Run(output=tmp_path / "run", **QUICK)
    more = Run(output=tmp_path / "more", config=tmp_path / "run" / "config.toml", weights=tmp_path / "run", epochs=1, patience=None)
    assert more.train(verbose=0)[0]["loss"] < 2.4
    with pytest.raises(ValueError, match="trained a ViTMicro4. Received: model='ViTS16'"):
        Run("digits", "ViTS16", tmp_path / "run").compile()


def test_arrays_a_model_and_a_recipe_of_ones_own(tmp_path, capsys):
    """And validation images that are the test images are called so."""
    images, labels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), "uint8"), np.arange(60) % 3
    import keras_vit

    model = keras_vit.VisionTransformer((8, 8, 3), 4, 8, 1, 2, 8, num_classes=5)
    recipe = Recipe("mine", batch_size=8, epochs=1, head_epochs=1, dropout_rate=0.1, loss="sigmoid")
    run = Run((images, labels), model, recipe=recipe, output=tmp_path / "run", jit_compile=False)
    assert run.config["recipe"] == "own" and run.recipe == recipe
    run.train(verbose=2)
    out = capsys.readouterr().out
    assert (
        "Phase 1 of 2: only the head, 1 epoch" in out
        and "Phase 2 of 2: all weights, 1 epoch" in out
        and "Compiling the training step" in out
    )
    assert [row["epoch"] for row in run.history] == [1, 2] and run.phases == {1: "only the head", 2: "all weights"}
    np.testing.assert_array_equal(run.data.splits["test"].element_spec[1].shape.rank, 1)
    again = Run.open(tmp_path / "run", data=(images, labels))
    assert again.recipe == recipe and again.evaluate()["images"] == 12
    with pytest.raises(ValueError, match="This run was started with arrays: give them as `data`"):
        Run.open(tmp_path / "run").evaluate()


@pytest.fixture
def pets(tmp_path):
    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype="uint8")).save(tmp_path / "pets" / split / name / f"{i}.png")
    return tmp_path / "pets"


def test_paths_are_those_of_any_folder_and_validation_images_are_called_so(pets, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = Run(
        "pets",
        output="run",
        **{name: value for name, value in QUICK.items() if name not in ("data", "train_images")} | dict(epochs=1, batch_size=4),
    )
    run.train()
    assert "Validation accuracy" in (out := capsys.readouterr().out) and "Test accuracy" not in out
    assert (tmp_path / "run" / "validation.json").exists() and not (tmp_path / "run" / "test.json").exists()
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Validation accuracy" in report and "Test accuracy" not in report
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = Run.open("../run").evaluate()
    assert found["split"] == "validation" and found["images"] == 6
    shutil.move(pets, tmp_path / "moved")
    with pytest.raises(ValueError, match=f"The data of this run are no longer at {pets}: give their path as `data`"):
        Run.open("../run").evaluate()
    assert Run.open("../run", data="../moved").evaluate()["accuracy"] == found["accuracy"]


def test_a_run_that_fails_at_its_start_leaves_nothing(tmp_path):
    class Fail(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            raise OSError("no")

    with pytest.raises(OSError, match="no"):
        Run(output=tmp_path / "a" / "run", **QUICK).train(callbacks=[Fail()], verbose=0)
    assert not (tmp_path / "a" / "run").exists()
    run = Run(output=tmp_path / "a" / "run", **QUICK)
    assert run.show_batch().exists() and run.compile() is run.model


@pytest.mark.parametrize(
    "arguments, rule",
    [
        (dict(), "`data` is missing"),
        (dict(data="digits", recipe="finetun"), "Unknown recipe; there is 'finetune'"),
        (dict(data="digits", epoch=3), "Unknown setting; there is .* Received: epoch"),
        (dict(data="digits", seed="1"), "`seed` must be of type int. Received: seed='1'"),
        (dict(data="digits", keep_best=True, recipe="deit"), "`keep_best` cannot be used with `ema_momentum`"),
        (dict(data="digits", learning_rate="fast"), "`learning_rate` must be a float. Received: learning_rate='fast'"),
        (dict(data="digits", output=__file__), "`output` must be a new or empty folder"),
        (dict(data="digits", config={"datas": "digits"}), "Unknown setting; there is data"),
    ],
)
def test_wrong_settings(arguments, rule):
    with pytest.raises(ValueError, match=rule):
        Run(**arguments)


def test_only_a_folder_with_a_run_is_opened(tmp_path):
    with pytest.raises(ValueError, match="This folder holds no run"):
        Run.open(tmp_path)
    with pytest.raises(ValueError, match="must be trained first"):
        Run("digits", output=tmp_path / "new").evaluate()
    with pytest.raises(ValueError, match="Training needs a folder"):
        Run("digits").train()


def test_settings_in_python_and_in_a_file_are_the_same(tmp_path):
    run = Run("digits", recipe=RECIPES["finetune"], epochs=3, seed=1)
    assert run.config["recipe"] == "finetune" and run.recipe.epochs == 3
    again = Run(config=run.config)
    assert again.config == run.config
    changed = Run(config=run.config, recipe="lora")
    assert changed.recipe == RECIPES["lora"] and changed.config["seed"] == 1


def test_the_best_epoch_is_the_first_of_equals(tmp_path):
    written = []

    class Model:
        def save_weights(self, path):
            written.append(path)
            pathlib.Path(path).write_text("")

    history = []
    callback = BestEpoch(tmp_path / "best.weights.h5", lambda: history)
    callback.set_model(Model())
    for score in (0.2, 0.5, 0.5, 0.4, 0.6):
        before = len(written)
        callback.on_epoch_end(0, {"val_accuracy": score})
        history.append({"val_accuracy": score})
        assert (len(written) > before) == (score in (0.2, 0.6) or history.index({"val_accuracy": 0.5}) == len(history) - 1)


def test_images_are_decoded_once(pets):
    source = decoded_once(open_source(str(pets), {"image_size": 16}))
    first = [np.concatenate([images for images, _ in load(source, 4).splits[split]]) for split in ("train", "test")]
    shutil.rmtree(pets)
    again = load(source, 4)
    for split, images in zip(("train", "test"), first):
        np.testing.assert_array_equal(np.concatenate([images for images, _ in again.splits[split]]), images)
    few = load(source, 4, train_images=4)
    assert few.sizes["train"] == 4 and load(source, 4).sizes["train"] == 16


def test_history_and_results_are_files_for_other_programs(best):
    rows = list(csv.DictReader((best.output / "history.csv").open()))
    assert [float(row["val_accuracy"]) for row in rows] == [row["val_accuracy"] for row in best.history]
    assert json.loads((best.output / "test.json").read_text())["images"] == 359


@pytest.mark.parametrize("text, missing", [("", "training"), ("[training]\nbatch_size = 3\n", "training.source")])
def test_a_config_without_the_whole_recipe(tmp_path, text, missing):
    (tmp_path / "config.toml").write_text('data = "digits"\n' + text)
    with pytest.raises(ValueError, match=f"whole recipe under `training`.* Received: no `{missing}`"):
        Run.open(tmp_path)
