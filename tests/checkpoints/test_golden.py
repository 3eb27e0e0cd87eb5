"""Every family's files give what the family's own code gives: tests/golden holds both, and the scripts that made them."""

import dataclasses
import json
import pathlib

import keras
import numpy as np
import pytest
from helpers import all_or, outputs_of, requires_tensorflow, to_numpy

import keras_vit
from keras_vit.checkpoints import open_checkpoint
from keras_vit.layers.resampling import METHODS

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
# Reading and rearranging tensors is the same on every backend: the others prove one file of each format and kind of layer.
every_file = all_or(
    "google/hybrid_root", "google/flexivit", "google/siglip", "timm/conv_stem_xiao", "timm/deit_distilled", "timm/dinov2_swiglu",
    "timm/qk_norm", "timm/sbb_wee", "transformers/clip", "transformers/dinov2_registers", "meta/deit3", "meta/mae_finetuned",
    "timm/dinov3", "timm/rope_vit_mixed",
)  # fmt: skip
FIXTURES = every_file(sorted(path.parent for path in GOLDEN.glob("*/*/ours.json")), lambda folder: f"{folder.parent.name}/{folder.name}")
TORCH_FILES = (".pth", ".bin")
UNTOLD = ("meta/rope_vit_ape",)  # has the keys of DeiT-III: only the user knows that its positions are rotary, too
# Their embeddings are drawn small, and after so many convolutions float32 alone makes 3e-5, in timm too: compared in float64.
DEEP = ("hybrid_r26", "hybrid_r50")


def source(folder):
    checkpoints = (path for path in folder.iterdir() if path.name not in ("expected.npz", "gradients.npz"))
    files = [path for path in checkpoints if path.suffix in (*TORCH_FILES, ".npz")]
    return files[0] if len(files) == 1 else folder


def load(folder, **overrides):
    """The model of a fixture, on normalized pixels and with logits, given only what its file does not tell."""
    path = source(folder)
    if path.suffix in TORCH_FILES:
        pytest.importorskip("torch")
    ours = json.loads((folder / "ours.json").read_text())
    given = {"num_heads": ours["num_heads"], "include_preprocessing": False, "classifier_activation": None, **overrides}
    if "stem" in ours or ours.get("position_embedding", "learned") != "learned":
        given = {key: ours[key] for key in ("input_shape", "norm_epsilon") if key in ours} | given
    if f"{folder.parent.name}/{folder.name}" in UNTOLD:
        given["rotary"] = ours["rotary"]
    if ours.get("stem", {}).get("kind") == "resnet":
        with open_checkpoint(path, given) as checkpoint:
            groups = {"num_groups": ours["stem"].get("num_groups", 32)}
            given["stem"] = {**checkpoint.arguments["stem"], **groups}
    return keras_vit.from_pretrained(path, **given)


def expected(folder):
    return np.load(folder / "expected.npz")


def tokens_of(model):
    config = model.get_config()
    last = f"block_{config['num_layers'] - 1}" if config["norm_after_pooling"] else "norm"
    return keras.Model(model.input, model.get_layer(last).output)


def assert_close(found, wanted, tolerance=1e-5):
    found = keras.ops.convert_to_numpy(found)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("folder", FIXTURES, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_forward(folder):
    golden = expected(folder)
    model, tolerance = load(folder), 1e-5
    if folder.name in DEEP:
        in_float64 = keras.backend.backend() == "tensorflow"  # the one backend on which all of Keras's layers keep to it
        model, tolerance = (load(folder, dtype="float64"), 1e-5) if in_float64 else (model, 1e-4)
    config = model.get_config()
    outputs, tokens = outputs_of(model, golden["images"]), outputs_of(tokens_of(model), golden["images"])
    if config["include_top"] or (config["representation_size"] and "logits" in golden):  # a projection, which timm calls the head
        assert_close(outputs, golden["logits"], tolerance)
    elif config["pooling"] and "pooled" in golden:
        assert_close(outputs, golden["pooled"], tolerance)
    assert_close(tokens, golden["features" if "features" in golden else "tokens"], tolerance)


@requires_tensorflow  # no tensor is computed
@pytest.mark.parametrize("folder", FIXTURES, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_architecture_is_read_off_the_file(folder):
    ours = json.loads((folder / "ours.json").read_text())
    path = source(folder)
    if path.suffix in TORCH_FILES:
        pytest.importorskip("torch")
    with open_checkpoint(path, {"num_heads": ours["num_heads"]}) as checkpoint:
        found = checkpoint.arguments
    if f"{folder.parent.name}/{folder.name}" in UNTOLD:
        return
    told_elsewhere = {"stem", "layer_scale_init", "position_embedding", "input_shape", "norm_epsilon"}
    if folder.name == "dinov2_registers":
        told_elsewhere.add("prefix_positions")  # both forms are exact
    for name in set(ours) - told_elsewhere:
        if name == "num_classes" and not ours[name]:
            assert found["include_top"] is False
        else:
            value = json.loads(json.dumps(found.get(name)))  # lists in place of tuples
            assert ({**value, **ours[name]} if name == "rotary" else ours[name]) == value, name


@pytest.mark.parametrize(
    "name, prefix",
    [("google/vit", ""), ("timm/plain", ""), ("transformers/vit", ""), ("meta/dinov2", "pooled"), ("google/flexivit", "")],
)
def test_open_image_size(name, prefix):
    """A model of open size is exact at the size it was trained at."""
    folder = GOLDEN / name
    model = load(folder, input_shape=(None, None, 3))
    golden = expected(folder)
    assert_close(outputs_of(model, golden["images"]), golden["pooled" if prefix else "logits"])


OTHER_SIZES = [
    ("google/flexivit", dict(patch_size=16), "_patch16", "bilinear_antialias"),
    ("google/flexivit", dict(patch_size=6), "_patch6", "bilinear_antialias"),
    ("meta/dinov2", {}, "_7x7", None),
    ("meta/dinov2", {}, "_4x6", None),
    ("meta/dinov2_registers", {}, "_7x7", None),
    ("meta/dinov2_registers", {}, "_4x6", None),
    ("meta/dinov2_swiglu", {}, "_4x6", None),
    ("meta/dinov3", {}, "_4x6", None),
    ("meta/rope_vit", {}, "_4x6", None),
    ("meta/rope_vit_mixed", {}, "_4x6", None),
    ("timm/dinov3", {}, "_4x6", None),
    ("transformers/dinov3", {}, "_other", None),
    ("original/pe_core", {}, "_other", None),
    ("original/pe_lang", {}, "_other", None),
    ("original/tipsv2", {}, "_other", None),
    ("transformers/tipsv2_new", {}, "_other", None),
    ("transformers/ijepa", {}, "_other", None),
    ("transformers/vit", {}, "_other", None),
    ("transformers/dinov2", {}, "_other", None),
    ("transformers/dinov2_registers", {}, "_other", None),
]


@requires_tensorflow  # tests/layers/test_resampling.py and test_position_embedding.py prove the resampling on every backend
@pytest.mark.parametrize("name, overrides, suffix, resample", OTHER_SIZES)
@pytest.mark.parametrize("open_size", [False, True], ids=["at load", "in the call"])
def test_other_sizes(name, overrides, suffix, resample, open_size):
    """Positions and patches are resampled as the family's own code does it."""
    folder, golden = GOLDEN / name, expected(GOLDEN / name)
    images = golden[f"images{suffix}"]
    if open_size:
        overrides = {**overrides, "position_resample": resample} if resample else overrides
        model = load(folder, input_shape=(None, None, 3), **overrides)
    elif resample:  # FlexiViT resamples patches and positions in two ways
        model = load(folder, input_shape=images.shape[1:], position_grid=(4, 4), position_resample=resample, **overrides)
    else:
        model = load(folder, input_shape=images.shape[1:], **overrides)
    key = next(key for key in (f"tokens{suffix}", f"features{suffix}") if key in golden)
    assert_close(outputs_of(tokens_of(model), images), golden[key], 2e-5)


def test_resample_overrides_the_family():
    size = dict(input_shape=(64, 32, 3))
    outputs = {}
    for method in METHODS:
        model = load(GOLDEN / "meta" / "dinov2", resample=method, **size)
        outputs[method] = to_numpy(outputs_of(model, np.ones((1, 64, 32, 3), "float32")))
        assert model.get_config()["position_resample"] == method
    default = to_numpy(outputs_of(load(GOLDEN / "meta" / "dinov2", **size), np.ones((1, 64, 32, 3), "float32")))
    np.testing.assert_array_equal(default, outputs["bicubic_dinov2"])
    assert len({output.tobytes() for output in outputs.values()}) == len(METHODS)


def gradients(model, images, labels):
    """Loss and gradients by weight path, on the backend at hand."""
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    weights = model.trainable_weights
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(images, training=True))
        found = tape.gradient(loss, [weight.value for weight in weights])
    elif keras.backend.backend() == "jax":
        import jax

        def compute(values):
            outputs, _ = model.stateless_call(values, [v.value for v in model.non_trainable_variables], images, training=True)
            return loss_of(labels, outputs)

        loss, found = jax.jit(jax.value_and_grad(compute))([weight.value for weight in weights])
    else:
        loss = loss_of(labels, model(images, training=True))
        model.zero_grad()
        loss.backward()
        found = [weight.value.grad for weight in weights]
    to_numpy = keras.ops.convert_to_numpy
    return float(to_numpy(loss)), {weight.path: to_numpy(value) for weight, value in zip(weights, found)}


@pytest.mark.parametrize("name, fixture", [("timm", "plain"), ("google", "vit")])
def test_gradients_of_a_training_step(name, fixture):
    folder = GOLDEN / name / fixture
    golden = np.load(GOLDEN / name / "gradients.npz")
    loss, found = gradients(load(folder), expected(folder)["images"], np.array([1, 3]))
    assert loss == pytest.approx(float(golden["loss"]), rel=1e-5)
    with open_checkpoint(source(folder), {"num_heads": 4}) as checkpoint:
        rows = checkpoint.rows()
        keys = {canonical: key for canonical, key in checkpoint.names.items()}
    largest = max(np.abs(golden[key]).max() for key in keys.values())
    compared = set()
    for row in rows:
        arrays = row.layout.read(*(golden[keys[key]] for key in row.keys))
        for path, wanted in zip(row.paths, arrays if isinstance(arrays, tuple) else (arrays,)):
            assert np.abs(found[path] - wanted).max() <= 1e-4 * max(np.abs(wanted).max(), 1e-3 * largest), path
            compared.add(path)
    assert compared == set(found)


# One of each form in the quick tests: rotary halves and pairs, learned frequencies, sub-LN, attention pooling, no class token, RMS norms.
QUICK = ("meta/dinov3_swiglu", "original/eva02_sub_ln", "original/pe_core", "original/tipsv2", "timm/rope_vit_mixed",
    "transformers/ijepa_new", "transformers/aimv2")  # fmt: skip
STEPS = [
    pytest.param(path.parent, id=(name := f"{path.parent.parent.name}/{path.parent.name}"), marks=[pytest.mark.slow] * (name not in QUICK))
    for path in sorted(GOLDEN.glob("*/*/gradients.npz"))
]


@requires_tensorflow  # the layers' tests compare gradients of the backends
@pytest.mark.parametrize("folder", STEPS)
def test_gradients_of_the_newer_families(folder):
    """The fixtures hold every n-th number of each gradient, in the layout of the family's own code."""
    golden, model = np.load(folder / "gradients.npz"), load(folder)
    if model.config.rotary is not None:  # whose coordinates training rescales at random
        model = model.adapt(rotary=dataclasses.replace(model.config.rotary, rescale=None))
    loss, found = gradients(model, expected(folder)["images"], np.array([1, 3]))
    assert loss == pytest.approx(float(golden["loss"]), rel=1e-5)
    ours = json.loads((folder / "ours.json").read_text())
    told = {key: ours[key] for key in ("num_heads", *["rotary"] * (f"{folder.parent.name}/{folder.name}" in UNTOLD))}
    with open_checkpoint(source(folder), told) as checkpoint:
        rows, keys = checkpoint.rows(), checkpoint.keys
    largest, compared = max(np.abs(golden[key]).max() for key in golden if key != "loss"), set()
    for row in rows:
        arrays = row.layout.write(*(found[path] for path in row.paths))
        for key, array in zip(row.keys, arrays if isinstance(arrays, tuple) else (arrays,)):
            wanted, sampled = golden[keys[key]], np.ravel(array)[:: max(1, array.size // 48)]
            assert np.abs(sampled - wanted).max() <= 1e-4 * max(np.abs(wanted).max(), 1e-3 * largest), keys[key]
        compared.update(row.paths)
    assert compared == set(found)
