import json

import keras
import numpy as np
import pytest
from helpers import randomize

import keras_vit
from keras_vit.features import read_features
from keras_vit_cli import main

TINY = dict(input_shape=(16, 16, 3), patch_size=8, hidden_dim=8, num_layers=2, num_heads=2, mlp_dim=16, num_classes=10)


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    return ended.value.code or 0, *capsys.readouterr()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder as `keras-vit train` leaves it."""
    folder = tmp_path_factory.mktemp("run")
    randomize(keras_vit.VisionTransformer(**TINY)).save(folder / "model.keras")
    (folder / "config.toml").write_text('data = "digits"\nimage_size = 16\n')
    return folder


def test_features_of_a_run(capsys, tmp_path, run):
    code, out, error = call(capsys, "embed", "--model", run, "--output", tmp_path / "all.npz")
    assert code == 0 and out == f"{tmp_path / 'all.npz'}: 1,797 images, 8 features each\n", error
    found = read_features(tmp_path / "all.npz")
    assert found.class_names == tuple("0123456789") and found.settings["data"] == "digits"
    data = keras_vit.data.load("digits")
    expected = keras_vit.embed(keras.saving.load_model(run / "model.keras"), data.test, verbose=False)
    np.testing.assert_allclose(found.features[found.splits == "test"], expected, atol=1e-5)


def test_evaluation_of_features(capsys, tmp_path, run):
    more = ["--knn", 5, "--linear-probe", "--blocks", "all", "--json", "--output", tmp_path / "out"]
    code, out, error = call(capsys, "evaluate", run, *more)
    assert code == 0, error
    found = json.loads(out)
    assert found == json.loads((tmp_path / "out" / "evaluation.json").read_text()) and found["images"] == 359
    assert [row["block"] for row in found["results"]] == [0, 0, 1, 1]
    code, out, _ = call(capsys, "evaluate", run, "--knn", 5, "--pooling", "gap", "--split", "validation")
    assert code == 0 and "validation: 144 images, 1,294 for training" in out and "5-NN" in out
    for arguments, message in (
        (["--blocks", "all"], "`--blocks` needs `--knn` or `--linear-probe`"),
        (["--pooling", "gap"], "`--pooling` needs"),
        (["--knn", 5, "--split", "all"], "Received: --split all"),
        (["--knn", 5, "--blocks", "first"], "Received: first"),
        (["--knn", 5, "--blocks", "2"], "between -2 and 1"),
        (["--knn", 5000], "1294 training images"),
    ):
        code, out, error = call(capsys, "evaluate", run, *arguments)
        assert code == 2 and not out and error.count("\n") == 1 and message in error, error


def test_wrong_usage(capsys, tmp_path, run):
    (tmp_path / "there.npz").touch()
    for arguments, message in (
        (["--output", tmp_path / "there.npz"], "exists"),
        (["--output", tmp_path / "f.parquet"], "must end with .npz"),
        (["--output", tmp_path / "f.npz", "--pooling", "map"], "no attention pooling"),
        (["--output", tmp_path / "f.npz", "--data", "digit"], "Unknown data source"),
        (["--output", tmp_path / "f.npz", "--pooling", "mean"], "mean"),
    ):
        code, out, error = call(capsys, "embed", "--model", run, *arguments)
        assert code == 2 and not out and error.count("\n") == 1 and message in error, error
    assert [path.name for path in tmp_path.iterdir()] == ["there.npz"]
