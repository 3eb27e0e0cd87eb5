import csv
import json
import pathlib
import sys

import keras
import numpy as np
import pytest
from helpers import command, randomize
from PIL import Image

import keras_vit
from keras_vit.checkpoints.imagenet import imagenet_labels
from keras_vit.data.preprocessing import evaluation_transform

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
PLAIN = GOLDEN / "timm" / "plain"
TINY = dict(input_shape=(16, 16, 3), patch_size=8, hidden_dim=16, num_layers=1, num_heads=2, mlp_dim=16)


call = command("predict")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    paths = [folder / name for name in ("wide.jpg", "high.png", "gray.png")]
    for path, shape in zip(paths, [(40, 60, 3), (70, 50, 3), (33, 33)]):
        Image.fromarray(random.integers(0, 256, shape, dtype="uint8")).save(path)
    return paths


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder as `keras-vit train` leaves it, with class names."""
    folder = tmp_path_factory.mktemp("run")
    randomize(keras_vit.VisionTransformer(**TINY, num_classes=3)).save(folder / "model.keras")
    (folder / "config.toml").write_text('data = "pets"\nclass_names = ["cat", "dog", "owl"]\n')
    return folder


def expected(model, photos):
    transform = evaluation_transform(model)
    return keras.ops.convert_to_numpy(model(np.stack([transform(photo) for photo in photos])))


def test_the_best_classes_of_each_image(capsys, photos):
    code, out, _ = call(capsys, "--weights", PLAIN, "--top", 2, *photos)
    assert code == 0
    lines = out.strip().split("\n")
    assert len(lines) == 3 * (1 + 2)
    for number, scores in enumerate(expected(keras_vit.from_pretrained(PLAIN), photos)):
        block = lines[3 * number : 3 * number + 3]
        best = np.argsort(-scores)[:2]
        assert block == [str(photos[number])] + [f"  {scores[i]:.4f}  {i}" for i in best]


def test_json(capsys, photos):
    code, out, _ = call(capsys, "--weights", PLAIN, "--json", photos[0])
    (answer,) = json.loads(out)
    assert code == 0 and answer["image"] == str(photos[0])
    (scores,) = expected(keras_vit.from_pretrained(PLAIN), photos[:1])
    assert [p["class"] for p in answer["predictions"]] == np.argsort(-scores)[:5].tolist()
    assert [p["score"] for p in answer["predictions"]] == pytest.approx(np.sort(scores)[::-1][:5])


def test_labels_of_imagenet(capsys, photos, tmp_path):
    model = keras_vit.VisionTransformer(**TINY, num_classes=1000, class_names=imagenet_labels())
    model.get_layer("head").bias.assign(20.0 * np.eye(1000)[207])
    model.save(tmp_path / "model.keras")
    code, out, _ = call(capsys, "--model", tmp_path / "model.keras", photos[0])
    assert code == 0 and out.split("\n")[1] == "  1.0000  golden retriever (n02099601)"
    assert json.loads(call(capsys, "--model", tmp_path / "model.keras", "--json", photos[0])[1])[0]["predictions"][0]["id"] == "n02099601"


def test_names_of_classes_are_the_models_own(capsys, photos, tmp_path):
    """Also in every format, after the file has moved; a model without names shows numbers, however many classes it has."""
    names = ["ant", "bee, the", "cat"]
    model = randomize(keras_vit.VisionTransformer(**TINY, num_classes=3, class_names=names, activation="gelu_tanh"))
    model.save(tmp_path / "own.keras")
    for format in ("timm", "huggingface", "google"):
        keras_vit.checkpoints.save(model, tmp_path / (format + ".npz" * (format == "google")), format)
    for source in ("own.keras", "timm", "huggingface", "google.npz"):
        (answer,) = json.loads(call(capsys, "--model", tmp_path / source, "--json", photos[0])[1])
        assert {p["label"] for p in answer["predictions"]} == set(names), source
    keras_vit.VisionTransformer(**TINY, num_classes=1000).save(tmp_path / "unnamed.keras")
    (answer,) = json.loads(call(capsys, "--model", tmp_path / "unnamed.keras", "--json", photos[0])[1])
    assert all(p["label"] == str(p["class"]) and "id" not in p for p in answer["predictions"])


def test_a_folder_as_csv(capsys, photos, run, tmp_path):
    for name in ("a/1.jpg", "b/2.PNG", ".hidden/3.png", "__MACOSX/4.png", ".5.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(photos[1].read_bytes())
    (tmp_path / "a" / "damaged.png").write_bytes(photos[1].read_bytes()[:99])
    (tmp_path / "a" / "notes.txt").write_text("no image")
    code, out, err = call(capsys, "--model", run, "--csv", "--top", 2, tmp_path)
    rows = list(csv.DictReader(out.splitlines()))
    assert code == 0 and [row["image"] for row in rows] == [str(tmp_path / name) for name in ("a/1.jpg", "a/1.jpg", "b/2.PNG", "b/2.PNG")]
    assert [row["rank"] for row in rows] == ["1", "2"] * 2 and {row["label"] for row in rows} <= {"cat", "dog", "owl"}
    assert err.count("\n") == 1 and "Skipped" in err and "damaged.png" in err
    code, _, err = call(capsys, "--model", run, tmp_path / "__MACOSX")
    assert code == 0
    (tmp_path / "empty").mkdir()
    code, _, err = call(capsys, "--model", run, tmp_path / "empty")
    assert code == 2 and "The folder holds no image" in err


@pytest.mark.parametrize("name", ["", "model.keras"])
def test_a_run_knows_its_classes(capsys, photos, run, name):
    code, out, _ = call(capsys, "--model", run / name, photos[1])
    assert code == 0 and {line.split()[1] for line in out.strip().split("\n")[1:]} == {"cat", "dog", "owl"}


def test_logits_become_probabilities(capsys, photos, tmp_path):
    model = randomize(keras_vit.VisionTransformer(**TINY, num_classes=4, classifier_activation=None))
    model.save(tmp_path / "model.keras")
    predictions = json.loads(call(capsys, "--weights", tmp_path / "model.keras", "--json", photos[0])[1])[0]["predictions"]
    assert sum(p["score"] for p in predictions) == pytest.approx(1.0, abs=1e-5) and len(predictions) == 4


def test_a_preset_with_weights(capsys, photos, tmp_path):
    randomize(keras_vit.ViTMicro4(num_classes=2), scale=0.05).save(tmp_path / "micro.keras")
    code, out, _ = call(capsys, "--model", "ViTMicro4", "--weights", tmp_path / "micro.keras", photos[0])
    assert code == 0 and len(out.strip().split("\n")) == 3


def test_more_images_than_a_batch_holds(capsys, photos):
    code, out, _ = call(capsys, "--weights", PLAIN, "--top", 1, *(photos * 12))
    lines = out.strip().split("\n")
    assert code == 0 and len(lines) == 72 and lines[:6] == lines[66:]


@pytest.mark.parametrize(
    "arguments, rule",
    [
        (["{photo}"], "A model is missing"),
        (["--weights", PLAIN], "Missing argument"),
        (["--weights", PLAIN, "nowhere.png"], "No such image file. Received: nowhere.png"),
        (["--weights", PLAIN, "{photo}", __file__], f"Received: {__file__}"),
        (["--weights", PLAIN, "--top", "0", "{photo}"], "--top"),
        (["--weights", GOLDEN / "timm" / "dinov2", "{photo}"], "have no head: they give features, not classes"),
        (["--model", "ViTB16", "{photo}"], "one of the tags augreg_in21k_ft_in1k_384 (86.01 %), "),
        (["--model", "ViTB61", "{photo}"], "The nearest are ViTB16"),
        (["--model", "vit_base_patch16_224", "{photo}"], "called ViTB16 here. Its weights: augreg_in21k_ft_in1k_384 (86.01 %), "),
        (["--model", "ViTB16:augreg", "{photo}"], "must be a tag of ViTB16, a path"),
        (["--model", "ViTB16", "--weights", PLAIN, "{photo}"], "weights of another model"),
        (["--model", "./nowhere", "{photo}"], "There is no such file or folder"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(capsys, photos, arguments, rule):
    code, out, err = call(capsys, *(str(argument).replace("{photo}", str(photos[0])) for argument in arguments))
    assert code == 2 and not out
    assert err.startswith("keras-vit: ") and err.count("\n") == 1 and rule in err


def test_class_names_that_do_not_fit(capsys, photos, run):
    (run / "config.toml").write_text('class_names = ["cat", "dog"]\n')
    code, _, err = call(capsys, "--model", run, photos[0])
    assert code == 2 and err == "keras-vit: The run's config.toml must name all classes of its model. Received: 2 names, 3 classes\n"


def test_without_pillow(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    code, _, err = call(capsys, "--weights", PLAIN, "photo.png")
    assert code == 2 and err == "keras-vit: Reading images needs Pillow: pip install pillow\n"
