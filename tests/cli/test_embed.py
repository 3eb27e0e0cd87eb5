import json

import keras
import numpy as np
import pytest
from helpers import command, randomize
from PIL import Image

import keras_vit
from keras_vit.features import images_of, read_features
from keras_vit_cli import main

TINY = dict(input_shape=(16, 16, 3), patch_size=8, hidden_dim=8, num_layers=2, num_heads=2, mlp_dim=16, num_classes=10)


call = command()


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
        (["--engine", "faiss", "--linear-probe"], "`--engine` needs `--knn`"),
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
        (["--output", tmp_path / "f.csv"], "must end with .npz or .parquet"),
        (["--output", tmp_path / "f.npz", "--pooling", "map"], "no attention pooling"),
        (["--output", tmp_path / "f.npz", "--data", "digit"], "Unknown data source"),
        (["--output", tmp_path / "f.npz", "--pooling", "mean"], "mean"),
    ):
        code, out, error = call(capsys, "embed", "--model", run, *arguments)
        assert code == 2 and not out and error.count("\n") == 1 and message in error, error
    assert [path.name for path in tmp_path.iterdir()] == ["there.npz"]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Features of a folder of images, and the folder."""
    folder, random = tmp_path_factory.mktemp("similar"), np.random.default_rng(0)
    for number in range(24):
        name = ("cat", "dog")[number % 2]
        (folder / "pets" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20 + number, 24, 3), "uint8")).save(folder / "pets" / name / f"{number}.png")
    randomize(keras_vit.VisionTransformer(**TINY | {"num_classes": 2})).save(folder / "model.keras")
    with pytest.raises(SystemExit):
        main(["embed", "--model", str(folder / "model.keras"), "--data", str(folder / "pets"), "--output", str(folder / "pets.npz")])
    return folder


def test_similar_images(capsys, tmp_path, index):
    image = index / "pets" / "dog" / "5.png"
    code, out, error = call(capsys, "similar", "--index", index / "pets.npz", image, "-k", 3, "--json", "--output", tmp_path / "a.png")
    assert code == 0, error
    found = json.loads(out)
    assert len(found) == 3 and found[0]["label"] == "dog" and found[0]["similarity"] == pytest.approx(1.0, abs=1e-4)
    assert [row["similarity"] for row in found] == sorted((row["similarity"] for row in found), reverse=True)
    assert Image.open(tmp_path / "a.png").width > 400
    features = read_features(index / "pets.npz")
    (row,) = np.flatnonzero((features.splits == found[0]["split"]) & (features.indices == found[0]["index"]))
    assert np.array_equal(images_of(features, [row])[0], np.asarray(Image.open(image)))  # it is the image itself that is found
    code, out, _ = call(capsys, "similar", "--index", index / "pets.npz", image, "-k", 2)
    assert code == 0 and "Similarity" in out and out.count("\n") == 3
    randomize(keras_vit.VisionTransformer(**TINY), seed=1).save(tmp_path / "other.keras")
    for arguments, message in (
        ([index / "none.png"], "none.png"),
        ([image, "--index", index / "none.npz"], "No such file of features"),
        ([image, "--index", image], "must be one that `keras-vit embed` wrote"),
        ([image, "-k", 100], "larger than the 24"),
        ([image, "--output", tmp_path / "a.pdf"], "must end with .png"),
        ([image, "--output", tmp_path / "b.png", "--data", "digits"], "The data must be those of the features"),
        ([image, "--model", tmp_path / "other.keras"], "other weights"),
    ):
        code, out, error = call(capsys, "similar", "--index", index / "pets.npz", *arguments)
        assert code == 2 and not out and error.count("\n") == 1 and message in error, error
    assert not (tmp_path / "b.png").exists()


def test_a_scatter(capsys, tmp_path, index):
    for method, more in (("pca", []), ("tsne", ["--thumbnails", 0])):
        output = tmp_path / f"{method}.png"
        code, out, error = call(capsys, "scatter", "--index", index / "pets.npz", "--output", output, "--method", method, *more)
        assert code == 0 and out == f"{output}: 24 images\n", error
        assert Image.open(output).width > 900
    one = tmp_path / "one.npz"
    with np.load(index / "pets.npz") as file:
        np.savez(one, **{**file, "labels": 0 * file["labels"]})
    for arguments, message in (
        (["--index", one], "two classes or more. Received: 24 images of 'cat'"),
        (["--index", index / "pets.npz", "--data", "digits"], "The data must be those of the features"),
        (["--index", index / "none.npz"], "No such file of features"),
    ):
        code, out, error = call(capsys, "scatter", "--output", tmp_path / "x.png", *arguments)
        assert code == 2 and not out and error.count("\n") == 1 and message in error, error
    assert not (tmp_path / "x.png").exists()
