import json

import keras
import numpy as np
import pytest
from helpers import command, randomize
from PIL import Image

import keras_vit
from keras_vit.data import load

TINY = dict(input_shape=(16, 16, 3), patch_size=8, hidden_dim=8, num_layers=1, num_heads=2, mlp_dim=16)


call = command("evaluate")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder as `keras-vit train` leaves it."""
    folder = tmp_path_factory.mktemp("run")
    randomize(keras_vit.VisionTransformer(**TINY, num_classes=10)).save(folder / "model.keras")
    names = json.dumps([str(i) for i in range(10)])
    (folder / "config.toml").write_text(f'data = "digits"\nimage_size = 16\nclass_names = {names}\n')
    return folder


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("pets"), np.random.default_rng(0)
    for name in ("cat", "dog", "owl"):
        (folder / name).mkdir()
        for i in range(6):
            Image.fromarray(random.integers(0, 256, (20, 24, 3), dtype="uint8")).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.parametrize("part, images", [("test", 359), ("validation", 144), ("all", 1797)])
def test_figures_are_the_models(capsys, run, part, images):
    code, out, _ = call(capsys, run, "--json", "--part", part)
    found = json.loads(out)
    assert code == 0 and found["images"] == images and found["images_per_second"] > 0
    if part == "test":
        model, data = keras.saving.load_model(run / "model.keras"), load("digits")
        pixels, labels = (np.concatenate(each) for each in zip(*data.test.as_numpy_iterator()))
        right = model.predict(pixels, verbose=0).argmax(axis=-1) == labels
        assert found["accuracy"] == pytest.approx(right.mean())


def test_what_a_reader_sees(capsys, run):
    code, out, _ = call(capsys, run)
    assert code == 0
    for words in ("Accuracy", "Top-5 accuracy", "Calibration error", "Images per second", "Precision", "True class (row)"):
        assert words in out


def test_a_folder_and_files(capsys, pets, tmp_path):
    randomize(keras_vit.VisionTransformer(**TINY, num_classes=3, classifier_activation=None)).save(tmp_path / "model.keras")
    code, out, err = call(
        capsys, tmp_path / "model.keras", "--data", pets, "--part", "all", "--output", tmp_path / "out", "--batch-size", 4
    )
    assert code == 0, err
    assert "cat" in out and "Top-5" not in out
    names = {"evaluation.json", "report.html", "confusion_matrix.png", "worst_mistakes.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["images"] == 18 and np.sum(found["confusion_matrix"]) == 18 and found["log_loss"] < 20  # of probabilities, not of logits


def test_wrong_input(capsys, run, pets, tmp_path):
    for arguments, rule in (
        ([run, "--data", pets], "must have the same classes. Received: 10 in the model, 3 in the data"),
        ([tmp_path / "none.keras", "--data", "digits"], "none.keras"),
        ([run / "model.keras", "--data", "digit"], "Unknown data source"),
        ([run, "--part", "some"], "--part"),
        ([run, "--output", pets], "`--output` must be a new or empty folder"),
    ):
        code, _, err = call(capsys, *arguments)
        assert code == 2 and err.count("\n") == 1 and rule in err
    randomize(keras_vit.VisionTransformer(**TINY, include_top=False)).save(tmp_path / "features.keras")
    code, _, err = call(capsys, tmp_path / "features.keras", "--data", "digits")
    assert code == 2 and "These weights have no head" in err
    code, _, err = call(capsys, tmp_path / "features.keras")
    assert code == 2 and "`--data` is missing" in err
    keras_vit.VisionTransformer(**TINY, num_classes=10, naflex=True).save(tmp_path / "patches.keras")
    code, _, err = call(capsys, tmp_path / "patches.keras", "--data", "digits")
    assert code == 2 and "The model must take images" in err
