import json

import keras
import numpy as np
import pytest
from helpers import command, randomize
from PIL import Image

import keras_vit
from keras_vit.features import files, images_of, knn_probabilities, read_features, write_features
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
        (["--knn", 5, "--image-size", 20], "The patch must divide the image"),
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
    """Features of a folder of images, at another size than the model's, and the folder."""
    folder, random = tmp_path_factory.mktemp("similar"), np.random.default_rng(0)
    for number in range(24):
        name = ("cat", "dog")[number % 2]
        (folder / "pets" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20 + number, 24, 3), "uint8")).save(folder / "pets" / name / f"{number}.png")
    randomize(keras_vit.VisionTransformer(**TINY | {"num_classes": 2})).save(folder / "model.keras")
    arguments = ["--model", folder / "model.keras", "--data", folder / "pets", "--output", folder / "pets.npz", "--image-size", 24]
    with pytest.raises(SystemExit):
        main(["embed", *map(str, arguments)])
    return folder


def test_similar_images(capsys, tmp_path, index):
    image = index / "pets" / "dog" / "5.png"
    code, out, error = call(capsys, "similar", "--index", index / "pets.npz", image, "-k", 3, "--json", "--output", tmp_path / "a.png")
    assert code == 0, error
    found = json.loads(out)
    assert read_features(index / "pets.npz").settings["data_options"]["image_size"] == [24, 24]
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


def test_photographs_without_classes(capsys, tmp_path, index):
    """A flat folder is read as it is, a nested one with --unlabeled; names stand where labels would."""
    photos, random = tmp_path / "photos", np.random.default_rng(1)
    places = ["b.png", "a.png", "trip/c.png"]
    for number, place in enumerate(places):
        (photos / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20 + number, 24, 3), "uint8")).save(photos / place)
    (photos / "broken.png").write_text("no image")
    (photos / ".hidden.png").write_text("no image")
    (photos / "notes.txt").touch()
    first = ["--model", index / "model.keras", "--data"]
    code, out, error = call(capsys, "embed", *first, photos, "--output", tmp_path / "x.npz")
    assert code == 2 and not out and "`--unlabeled` reads all images under it" in error.splitlines()[-1], error
    code, out, error = call(capsys, "embed", *first, photos, "--output", tmp_path / "p.npz", "--unlabeled", "--batch-size", 1)
    assert code == 0 and out.endswith("p.npz: 3 images, 8 features each\n"), error
    assert f"{photos} is read as images without classes" in error and "Skipped: An image file must be whole" in error and "notes" in error
    found = read_features(tmp_path / "p.npz")
    assert found.labels is None and found.class_names == () and [*found.names] == sorted(places) and [*found.indices] == [0, 1, 3]
    model = keras.saving.load_model(index / "model.keras")
    np.testing.assert_allclose(found.features, keras_vit.embed(model, [photos / name for name in found.names], verbose=False), atol=1e-5)
    code, out, error = call(capsys, "similar", "--index", tmp_path / "p.npz", photos / "trip" / "c.png", "--json")
    rows = json.loads(out)
    assert code == 0 and rows[0]["name"] == "trip/c.png" and rows[0]["similarity"] == pytest.approx(1.0, abs=1e-4), error
    assert np.array_equal(images_of(found, [2])[0], np.asarray(Image.open(photos / "trip" / "c.png")))
    code, out, _ = call(capsys, "similar", "--index", tmp_path / "p.npz", photos / "a.png", "-k", 1, "--output", tmp_path / "s.png")
    assert code == 0 and out.split()[:3] == ["Image", "Similarity", "a.png"] and (tmp_path / "s.png").exists()
    (photos / "trip" / "c.png").unlink()
    code, _, error = call(capsys, "embed", *first, photos, "--output", tmp_path / "flat.npz")  # no folder in it holds an image now
    assert code == 0 and [*read_features(tmp_path / "flat.npz").names] == ["a.png", "b.png"], error
    for arguments, message in (
        (["scatter", "--index", tmp_path / "p.npz", "--output", tmp_path / "x.png"], "two classes or more. Received: labels=None"),
        (["evaluate", index / "model.keras", "--data", photos, "--knn", 1], "There must be a folder of images for each"),
        (["embed", *first, photos, "--output", tmp_path / "x.npz", "--split", "test"], "no splits. Received: --split test"),
        (["embed", *first, photos, "--output", tmp_path / "x.npz", "--data-option", "test_fraction=0.1"], "one option, image_size"),
        (["embed", *first, photos, "--output", tmp_path / "x.npz", "--data-option", "image_size=8"], "must be that of the model"),
        (["embed", *first, "digits", "--output", tmp_path / "x.npz", "--unlabeled"], "needs a folder of images"),
        (["embed", *first, photos, "--output", tmp_path / "x.npz", "--strict"], "broken.png"),
        (["similar", "--index", tmp_path / "p.npz", photos / "a.png", "-k", 3, "--output", tmp_path / "x.png"], "c.png"),
    ):
        code, out, error = call(capsys, *arguments)
        assert code == 2 and not out and message in error.splitlines()[-1], error


def test_photographs_from_python(tmp_path, monkeypatch, index):
    """Features of listed files resume, and refuse to when the files have changed."""
    paths = sorted((index / "pets").rglob("*.png"))[:6]
    model = keras.saving.load_model(index / "model.keras")
    monkeypatch.setattr(files, "SHARD", 1)
    compute, calls = files.features_of, []

    def killed(*arguments):
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compute(*arguments)

    monkeypatch.setattr(files, "features_of", killed)
    with pytest.raises(KeyboardInterrupt):
        write_features(tmp_path / "f.npz", model, paths, batch_size=2, verbose=False)
    with pytest.raises(ValueError, match="were computed with files="):
        write_features(tmp_path / "f.npz", model, paths[1:], batch_size=2, verbose=False)
    found = write_features(tmp_path / "f.npz", model, paths, batch_size=2, verbose=False)
    assert len(calls) == 4 and [*found.names] == list(map(str, paths)) and np.array_equal(found.indices, np.arange(6))
    np.testing.assert_allclose(found.features, keras_vit.embed(model, paths, verbose=False), atol=1e-5)
    with pytest.raises(ValueError, match="labels.* images without classes|Received: None"):
        knn_probabilities(found.features, found.labels, found.features, 2, k=1)
    for data, rule in (
        ([], "no image file"),
        ([tmp_path / "none.png"], "none.png"),
        (tmp_path / "none", "No such folder"),
        ([1], "a list of"),
    ):
        with pytest.raises(ValueError, match=rule):
            write_features(tmp_path / "g.npz", model, data)
