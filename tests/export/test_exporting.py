"""What is exported gives the model's outputs in its own runtime, opened as users open it."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import CONV_STEM, RESNET_STEM, random_images, requires_tensorflow, tiny
from PIL import Image

from keras_vit.data import evaluation_transform
from keras_vit.export import FORMATS, export_model, exporting, predict_exported

ROOT = pathlib.Path(__file__).parents[2]
MEMBERS = {
    "distilled": dict(distillation_token=True),
    "trained in mixed precision": dict(patch_size=1, stem=CONV_STEM, dtype="mixed_bfloat16"),
    "hybrid": dict(patch_size=1, stem=RESNET_STEM, class_names=("a", "b", "c", "d", "é")),
    "convolutional stem": dict(patch_size=1, stem=CONV_STEM, classifier_activation=None),
    "SigLIP": dict(pooling="map", class_token=False, classifier_activation="sigmoid"),
    "registers, SwiGLU, features": dict(num_register_tokens=2, mlp="swiglu", layer_scale_init=0.5, include_top=False),
    "channels first, normalized pixels": dict(data_format="channels_first", input_shape=(3, 16, 24), include_preprocessing=False),
}
CASES = {  # of a format: what is exported how; the first is quick enough for every run of the tests
    "saved_model": [("distilled", dict(dynamic_size=True)), ("distilled", dict(precision="int8")), ("SigLIP", dict(precision="half"))],
    "onnx": [
        ("registers, SwiGLU, features", dict(dynamic_size=True)),
        ("distilled", dict(precision="int8")),
        ("convolutional stem", dict(dynamic_batch=False)),
        ("SigLIP", dict(precision="half")),
        ("hybrid", {}),
        ("trained in mixed precision", {}),
        ("channels first, normalized pixels", {}),
    ],
    "openvino": [
        ("distilled", dict(dynamic_size=True)),
        ("hybrid", dict(precision="half")),
        ("SigLIP", dict(precision="int8")),
        ("channels first, normalized pixels", {}),
    ],
    "litert": [
        ("distilled", {}),
        ("hybrid", dict(precision="int8")),
        ("SigLIP", dict(precision="half")),
        ("registers, SwiGLU, features", dict(dynamic_size=True)),
        ("convolutional stem", {}),
    ],
    "torch": [("hybrid", {}), ("SigLIP", dict(precision="half"))],
}


@pytest.fixture(autouse=True)
def measured_briefly(monkeypatch):
    monkeypatch.setattr(exporting, "SECONDS", 0.0)


def pixels(count=4):
    return np.random.default_rng(0).uniform(0, 255, (count, 16, 24, 3)).astype("float32")


def require(format, precision="float32"):
    """Skips a test where this backend or this installation does not write a format."""
    try:
        FORMATS[format].require(format, precision)
    except (ValueError, ImportError) as error:
        pytest.skip(str(error))


def exported(format, member, options, folder):
    model = tiny(**MEMBERS[member])
    check = export_model(model, folder, format, images=pixels(), **options)
    assert check.difference <= exporting.BOUNDS[options.get("precision", "float32")]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing is left beside it
    about = json.loads((folder / "model.json").read_text("utf-8"))
    assert about["check"]["difference"] == check.difference
    assert about["class_names"] == (["a", "b", "c", "d", "é"] if member == "hybrid" else None)
    if options.get("dynamic_batch", True) and "precision" not in options:
        images = random_images(model, 3)
        run, _ = predict_exported.load(folder)
        model = model.adapt(dtype="float32")
        np.testing.assert_allclose(run(images), keras.ops.convert_to_numpy(model(images)), rtol=1e-3, atol=1e-5)
        if format in WRITTEN:
            assert WRITTEN[format](folder / about["file"]) < 1.5 * model.count_params()  # each weight once
    return about


def written_by_tensorflow(path):
    import tensorflow as tf

    return sum(np.prod(shape) for _, shape in tf.train.list_variables(str(path / "variables" / "variables")))


def written_by_torch(path):
    import torch

    program = torch.export.load(path)
    return sum(tensor.numel() for tensor in (*program.state_dict.values(), *program.constants.values()))


WRITTEN = {"saved_model": written_by_tensorflow, "torch": written_by_torch}  # values of weights in a file


@pytest.mark.parametrize("format", ["saved_model", "openvino", "litert", "torch"])
def test_the_file_is_the_model(format, tmp_path):
    require(format)
    exported(format, *CASES[format][0], tmp_path / "made")


@pytest.mark.slow
@pytest.mark.parametrize("format, case", [(name, case) for name in FORMATS for case in CASES[name][1:]], ids=str)
def test_every_kind_of_model_and_precision(format, case, tmp_path):
    require(format, case[1].get("precision", "float32"))
    exported(format, *case, tmp_path / "made")


# What TensorFlow Serving does: it knows TensorFlow's operations, and nothing of Keras or of this package.
SERVED = """
import sys
import numpy, tensorflow
folder = sys.argv[1]
loaded = tensorflow.saved_model.load(folder + "/1")
serve = loaded.signatures["serving_default"]
numpy.save(folder + "/outputs.npy", serve(images=tensorflow.constant(numpy.load(folder + "/images.npy")))["output_0"])
print(*sorted({"keras_vit", "keras"} & {*sys.modules}))
"""


@pytest.mark.slow
def test_a_saved_model_is_served_by_tensorflow_alone(tmp_path):
    require("saved_model")
    model = tiny(**MEMBERS["hybrid"])
    export_model(model, tmp_path / "made", "saved_model", images=pixels())
    images = random_images(model, 3)
    np.save(tmp_path / "made" / "images.npy", images)
    served = [sys.executable, "-c", SERVED, str(tmp_path / "made")]
    assert "keras_vit" not in subprocess.run(served, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    expected = keras.ops.convert_to_numpy(model(images))
    np.testing.assert_allclose(np.load(tmp_path / "made" / "outputs.npy"), expected, rtol=1e-3, atol=1e-5)
    in_keras = keras.layers.TFSMLayer(str(tmp_path / "made" / "1"))(images)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(in_keras), expected, rtol=1e-3, atol=1e-5)


@requires_tensorflow
def test_onnx(tmp_path, monkeypatch):
    """The file of another model is refused, and nothing is left of it."""
    require("onnx")
    import onnx

    about = exported("onnx", *CASES["onnx"][0], tmp_path / "made")
    file = onnx.load(tmp_path / "made" / "model.onnx")
    assert [node.name for node in file.graph.input] == [about["input"]["name"]] == ["images"]
    assert [node.name for node in file.graph.output] == [about["output"]["name"]] == ["outputs"]
    copy = dataclasses.replace(FORMATS["onnx"], write=lambda model, path, *_: shutil.copy(tmp_path / "made" / "model.onnx", path))
    monkeypatch.setitem(FORMATS, "onnx", copy)
    (tmp_path / "more").mkdir()
    with pytest.raises(ValueError, match="differs from the model by .* Nothing was written"):
        export_model(tiny(seed=1, **MEMBERS["registers, SwiGLU, features"]), tmp_path / "more" / "made" / "model", "onnx", images=pixels())
    assert not list((tmp_path / "more").iterdir())
    for wrong, match in (
        (dict(format="coreml"), "`format` must be one of"),
        (dict(format="onnx", precision="int4"), "`precision` must be one of"),
        (dict(format="torch"), "set KERAS_BACKEND. Received: KERAS_BACKEND=tensorflow|not installed: pip install"),
    ):
        with pytest.raises((ValueError, ImportError), match=match):
            export_model(tiny(), tmp_path / "model", **wrong)
    monkeypatch.setitem(FORMATS, "litert", dataclasses.replace(FORMATS["litert"], packages={"no_such_package": "litert"}))
    with pytest.raises(ImportError, match=r"needs no_such_package, which is not installed: pip install .*\[litert\]"):
        export_model(tiny(), tmp_path / "model", "litert")


def test_the_script_prepares_images_as_the_package_does():
    squash = {"preprocessing": {"crop_mode": "squash", "crop_fraction": 0.9, "interpolation": "bicubic"}}
    for changes in ({}, squash, {"include_preprocessing": False}, {"data_format": "channels_first", "input_shape": (3, 16, 24)}):
        model = tiny(**changes)
        about = exporting._about(model, "onnx", "float32", keras.InputSpec(shape=(None, *model.input_shape[1:])), None)
        for shape in ((40, 60, 3), (70, 33, 3), (20, 21)):
            image = Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, "uint8"))
            np.testing.assert_allclose(predict_exported.prepare(image, about), evaluation_transform(model)(image), atol=1e-5)


@requires_tensorflow
def test_the_command_and_its_script(tmp_path, capsys):
    from keras_vit_cli import main

    require("onnx")
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("sklearn")
    model = tiny(class_names=("cat", "dog", "owl", "ant", "bee"))
    model.save(tmp_path / "model.keras")
    for force, code in ((), 0), ((), 2):
        with pytest.raises(SystemExit) as ended:
            main(["export", str(tmp_path / "model.keras"), str(tmp_path / "made"), "--format", "onnx", *force])
        assert (ended.value.code or 0) == code
    out, err = capsys.readouterr()
    assert "same class in 100.0%" in out and "--force" in err
    operations = [node.op_type for node in onnx.load(tmp_path / "made" / "model.onnx").graph.node]
    # Before and after the patches' convolution. In a block: queries, keys and values at once, the keys again, the result. In the last
    # block queries are apart, because only the class token has them.
    assert operations.count("Transpose") == 2 + 3 + 4
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), "uint8")).save(tmp_path / "photo.png")
    script = [sys.executable, str(tmp_path / "made" / "predict_exported.py"), str(tmp_path / "photo.png"), "--top", "1"]
    lines = subprocess.run(script, capture_output=True, text=True, check=True, cwd=tmp_path, env={"PATH": ""}).stdout.splitlines()
    expected = model.predict(evaluation_transform(model)(str(tmp_path / "photo.png"))[None], verbose=0)[0]
    assert lines[1].split() == [f"{expected.max():.4f}", model.class_names[expected.argmax()]]
    triton = [sys.executable, str(ROOT / "examples" / "triton.py"), str(tmp_path / "made"), str(tmp_path / "models"), "--name", "pets"]
    subprocess.run(triton, capture_output=True, check=True)
    files = sorted(str(path.relative_to(tmp_path / "models")) for path in (tmp_path / "models").rglob("*") if path.is_file())
    assert files == ["pets/1/model.onnx", "pets/config.pbtxt", "pets/labels.txt"]
    config = (tmp_path / "models" / "pets" / "config.pbtxt").read_text()
    assert 'input [{ name: "images", data_type: TYPE_FP32, dims: [16, 24, 3] }]' in config
    assert 'output [{ name: "outputs", data_type: TYPE_FP32, dims: [5] }]' in config and 'backend: "onnxruntime"' in config


@pytest.mark.slow
@requires_tensorflow
def test_a_server_batches_and_loses_nothing(tmp_path):
    """A small load test over loopback: right answers with and without batching, and every request that was taken is answered."""
    pytest.importorskip("litserve")
    require("onnx")
    export_model(tiny(), tmp_path / "made", "onnx", images=pixels())
    load = [sys.executable, str(ROOT / "benchmarks" / "serving.py"), str(tmp_path / "made"), "--clients", "4", "--requests", "32"]
    done = subprocess.run(load, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 4 and done.stderr.count("'lost': 0") == 2
