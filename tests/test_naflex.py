"""Models of patches: images in their own aspect ratios give what each gives alone, and what the authors' code gives."""

import json
import pathlib
import tempfile

import keras
import numpy as np
import pytest
from helpers import all_or, assert_close, loss_and_gradients, randomize, to_numpy

import keras_vit
from keras_vit.checkpoints import open_checkpoint

GOLDEN = pathlib.Path(__file__).parent / "golden" / "naflex"
FIXTURES = all_or("transformers_Siglip2VisionModel")(
    sorted(path.parent for path in GOLDEN.glob("*/expected.npz")), lambda folder: folder.name
)
PATCH = 8
SHAPES = ((32, 32), (16, 48), (40, 8), (24, 24))
FORMS = {
    "token": dict(distillation_token=True),
    "map": dict(pooling="map", class_token=False, prefix_positions=False, num_register_tokens=2, remat=True),
    "gap": dict(pooling="gap", position_embedding="sincos2d", norm_after_pooling=True),
    "token_gap": dict(pooling="token_gap", position_resample="bicubic_dinov2", prefix_positions=False),
    "none": dict(pooling=None, include_top=False, position_embedding="none"),
}
forms = all_or("token", "map")(list(FORMS))


def images():
    random = np.random.default_rng(0)
    return [random.uniform(0, 255, (*shape, 3)).astype("float32") for shape in SHAPES]


def sequences(images, length=20, padding=0.0):
    """Cuts images, independently of the package."""
    patches = np.full((len(images), length, PATCH * PATCH * 3), padding, "float32")
    grid, mask = np.zeros((len(images), 2), "int32"), np.zeros((len(images), length), bool)
    for i, image in enumerate(images):
        grid[i] = image.shape[0] // PATCH, image.shape[1] // PATCH
        corners = [(PATCH * y, PATCH * x) for y in range(grid[i, 0]) for x in range(grid[i, 1])]
        cut = [image[y : y + PATCH, x : x + PATCH].ravel() for y, x in corners]
        patches[i, : len(cut)], mask[i, : len(cut)] = cut, True
    return {"patches": patches, "grid": grid, "mask": mask}


def build(form, **more):
    grid = {} if form.get("position_embedding") else {"position_grid": (4, 4)}
    model = keras_vit.VisionTransformer((None, None, 3), PATCH, 16, 2, 2, 32, num_classes=5, **grid, **form, **more)
    return randomize(model)


@pytest.mark.parametrize("name", forms)
def test_images_of_many_shapes_in_one_batch(name):
    """Each image gives what it gives alone, as an image; and padding has no influence."""
    fixed = build(FORMS[name])
    model = fixed.adapt(naflex=True)
    alone = [to_numpy(fixed(image[None]))[0] for image in images()]
    for length, padding in ((16, 0.0), (23, 200.0)):
        found = to_numpy(model(sequences(images(), length, padding)))
        for one, wanted in zip(found, alone):
            assert_close(one[: len(wanted)], wanted, 2e-5)
    assert_close(model.adapt(naflex=False)(images()[0][None]), alone[0][None], 1e-6)


def test_fit_save_and_predict(tmp_path):
    model, inputs = build(FORMS["map"]).adapt(naflex=True, drop_path_rate=0.1), sequences(images())
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = to_numpy(model.get_layer("patch_embedding").kernel)
    model.fit(inputs, np.arange(4), batch_size=3, epochs=2, verbose=0)
    assert np.abs(to_numpy(model.get_layer("patch_embedding").kernel) - before).max() > 0
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert_close(loaded.predict(sequences(images(), 30), verbose=0), model.predict(inputs, verbose=0), 1e-5)
    without_any = {**inputs, "mask": np.zeros_like(inputs["mask"]), "grid": np.zeros_like(inputs["grid"])}
    assert np.isfinite(model.predict(without_any, verbose=0)).all()


def test_half_precision_and_export(tmp_path, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    tf = pytest.importorskip("tensorflow")
    model, inputs = build(FORMS["gap"]).adapt(naflex=True), sequences(images())
    wanted = to_numpy(model(inputs))
    for dtype, tolerance in (("mixed_bfloat16", 3e-2), ("mixed_float16", 3e-3)):
        assert_close(model.adapt(dtype=dtype)(inputs), wanted, tolerance)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where tf2onnx leaves a folder
    model.export(str(tmp_path / "saved"), verbose=False)
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    more = sequences(images()[:3], 30)  # other numbers of images and tokens
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (outputs,) = session.run(None, {name.name: more[name.name] for name in session.get_inputs()})
    served = tf.saved_model.load(str(tmp_path / "saved"))
    for found in (outputs, served.serve({key: tf.constant(value) for key, value in more.items()})):
        assert_close(found, wanted[:3], 1e-5)


def load(folder):
    path = folder / "checkpoint.npz" if (folder / "checkpoint.npz").exists() else folder
    return path, keras_vit.from_pretrained(path, num_heads=2, include_preprocessing=False, classifier_activation=None)


@pytest.mark.parametrize("folder", FIXTURES, ids=lambda folder: folder.name)
def test_golden(folder):
    """Outputs and gradients are those of transformers, timm and big_vision, for images of many shapes in one batch."""
    golden = np.load(folder / "expected.npz")
    path, model = load(folder)
    assert model.config.naflex and model.config.table_grid == (4, 4) and model.config.patch == (4, 4)
    inputs = {key: golden[key] for key in ("patches", "grid", "mask")}
    wanted = golden["logits" if "logits" in golden else "pooled"]
    assert_close(model(inputs), wanted)
    if "tokens" in golden:
        tokens = keras.Model(model.input, model.get_layer("norm").output)(inputs)
        assert_close(to_numpy(tokens)[inputs["mask"]], golden["tokens"][inputs["mask"]])

    _, gradients = loss_and_gradients(model, inputs, lambda outputs: keras.ops.mean(keras.ops.square(outputs)))
    found = {weight.path: to_numpy(gradient) for weight, gradient in zip(model.trainable_weights, gradients)}
    largest, compared = max(np.abs(gradient).max() for gradient in found.values()), set()
    with open_checkpoint(path, {"num_heads": 2}) as checkpoint:
        for row in checkpoint.rows():
            keys = [f"gradient:{checkpoint.names[key]}" for key in row.keys]
            arrays = row.layout.read(*(golden[key] for key in keys)) if keys[0] in golden else None
            for path, theirs in zip(row.paths, () if arrays is None else arrays if isinstance(arrays, tuple) else (arrays,)):
                ours = next(value for key, value in found.items() if key.endswith(path))
                assert np.abs(ours - theirs).max() <= 1e-4 * max(np.abs(theirs).max(), 1e-2 * largest), path
                compared.add(path)
    assert len(compared) == len(found)


@pytest.mark.parametrize("name, format", [(name, format) for name in ("map", "gap") for format in ("huggingface", "google", "timm")])
def test_written_files_are_read_back(tmp_path, name, format):
    folder = GOLDEN / {"map": "transformers_Siglip2VisionModel", "gap": "big_vision_gap"}[name]
    model = load(folder)[1]
    path = tmp_path / ("model.npz" if format == "google" else "model")
    keras_vit.checkpoints.save(model, path, format)
    again = keras_vit.from_pretrained(path, num_heads=2, include_preprocessing=False, classifier_activation=None)
    golden = np.load(folder / "expected.npz")
    inputs = {key: golden[key] for key in ("patches", "grid", "mask")}
    assert_close(again(inputs), model(inputs), 1e-6)
    assert again.config.position_resample == model.config.position_resample
    if format == "huggingface":
        wanted = {"map": "Siglip2VisionModel", "gap": "Siglip2ForImageClassification"}[name]
        assert json.loads((path / "config.json").read_text())["architectures"] == [wanted]


def test_bad_input():
    model = keras_vit.VisionTransformer((32, 32, 3), PATCH, 16, 1, 2, 32, num_classes=5, naflex=True)
    good = sequences(images())
    short, thin = {**good, "mask": good["mask"][:, 1:]}, {**good, "patches": good["patches"][..., 1:]}
    for bad in (images()[0][None], {"patches": good["patches"]}, short, thin):
        with pytest.raises(ValueError, match="takes a dict of patches .* Received"):
            model.predict(bad, verbose=0)
    stem = {"kind": "conv", "filters": (8, 8), "strides": (2, 2)}
    for name, value in (("stem", stem), ("patch_dropout_rate", 0.1), ("dynamic_padding", True), ("rotary", {"base": 100.0})):
        with pytest.raises(ValueError, match=f"naflex=True, {name}="):
            keras_vit.ViTConfig(naflex=True, **{name: value})
    for function in (keras_vit.feature_maps, lambda model: keras_vit.embed(model, images()), keras_vit.data.evaluation_transform):
        with pytest.raises(ValueError, match="must take images"):
            function(model)
