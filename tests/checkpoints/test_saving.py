"""Models in other people's formats: what is written is what their code writes, and reads back as the same model."""

import json
import pathlib
import re

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

import keras_vit
from keras_vit import files
from keras_vit.checkpoints import open_checkpoint, save, saving
from keras_vit.config import ViTConfig

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
FIXTURES = {f"{path.parent.parent.name}/{path.parent.name}": path.parent for path in sorted(GOLDEN.glob("*/*/ours.json"))}
FORMATS = ("huggingface", "timm", "google")  # "perception_encoder" holds that family alone
FORMAT = {"timm": "timm", "meta": "timm", "original": "timm", "transformers": "huggingface", "google": "google"}

# What their format has no place for any more: timm's hybrids are of one width, and its representation layer is gone, as the hybrid of
# transformers is.
UNSAVED = {"timm/conv_stem_xiao", "timm/hybrid_r26", "timm/hybrid_r50", "timm/pre_logits", "transformers/vit_hybrid"}
# Forms of a family alone: its own names, and positions that timm has not.
OWN = {"original/pe": "perception_encoder", "meta/dinov3": "dinov3", "meta/eupe": "dinov3", "original/aimv2_native": "huggingface"}
# Files whose names are other than those that are written: version 5's, both towers', DINOv2's of Meta, all blocks in one tensor.
OTHER_NAMES = re.compile(
    r".*_new|meta/rope_vit.*|transformers/(clip|siglip|deit|mae_pretraining|tipsv2.*)|google/(.*scan|.*gap|siglip|vit_(opt|par).*)|meta/(deit3|dinov2.*)|"
    r"original/(aimv2|eva|tips).*"
)
# Registers with positions; group normalization of linen's.
OTHER_SHAPES = {
    "timm/sbb_so150m2": {"pos_embed"},
    "timm/map_registers": {"pos_embed"},
    "google/hybrid_root": {"gn_root/scale", "gn_root/bias"},
}
# Of pre-training, of another tower, and the attention pooling that SigLIP's classifier leaves unused.
IGNORED = re.compile(r"mask_token|projectors.*|local_cls_norm.*|decoder.*|visual_projection.*|vision_model\.head\..*")

TINY = dict(input_shape=(32, 32, 3), patch_size=8, hidden_dim=32, num_layers=2, num_heads=2, mlp_dim=64, num_classes=5)
GAP = dict(class_token=False, pooling="gap")
TANH = dict(activation="gelu_tanh")
DINOV2 = dict(layer_scale_init=1e-5)
RESNET = dict(kind="resnet", block_counts=(1, 1), num_groups=32)
TIMM_STEM = dict(
    kind="resnet", block_counts=(), width=64, num_groups=32, norm_epsilon=1e-5, standardization="variance", standardization_epsilon=1e-8
)


def path_of(folder):
    files = [path for path in folder.iterdir() if path.suffix in (".npz", ".pth") and path.name not in ("expected.npz", "gradients.npz")]
    if files and files[0].suffix == ".pth" or (folder / "pytorch_model.bin").is_file():
        pytest.importorskip("torch")
    return files[0] if files else folder


def target(folder, format):
    return folder / ("model.npz" if format == "google" else "model")


def tiny(**more):
    """A tiny model on normalized pixels, whose weights all take part."""
    form = dict(include_preprocessing=False, classifier_activation=None)
    model = keras_vit.VisionTransformer(**{**TINY, **form, **more})
    random = np.random.default_rng(0)
    for weight in model.weights:
        scale = 0.3 if weight.name in ("gamma", "beta", "bias") else 0.2
        weight.assign(scale * random.standard_normal(weight.shape) + (weight.name == "gamma"))
    return model


def images_for(model):
    shape = [side or 32 for side in model.input_shape[1:]]
    return np.random.default_rng(1).standard_normal((2, *shape)).astype("float32")


def assert_same_outputs(found, wanted, tolerance=1e-6):
    images = images_for(wanted)
    found, wanted = (keras.ops.convert_to_numpy(keras.ops.cast(model(images), "float32")) for model in (found, wanted))
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


def names_and_shapes(path):
    with open_checkpoint(path, {"num_heads": 4}) as checkpoint:
        return {checkpoint.keys[name]: tuple(checkpoint.tensors.shapes[key]) for name, key in checkpoint.names.items()}


@pytest.mark.parametrize("name", sorted(set(FIXTURES) - UNSAVED))
def test_golden_files_are_written_anew(name, tmp_path):
    own = (format for start, format in OWN.items() if name.startswith(start))
    folder, format = FIXTURES[name], next(own, FORMAT[name.split("/")[0]])
    source, path = path_of(folder), target(tmp_path, format)
    ours = json.loads((folder / "ours.json").read_text())
    size = {"input_shape": ours["input_shape"]} if "position_embedding" in ours else {}  # sines and cosines are in no file
    model = keras_vit.from_pretrained(source, num_heads=ours["num_heads"], include_preprocessing=False, **size)
    save(model, path, format)

    size |= {"num_heads": ours["num_heads"]} if format in ("perception_encoder", "dinov3") else {}  # a format without a configuration
    again = keras_vit.from_pretrained(path, include_preprocessing=False, **size)
    assert_same_outputs(again, model)
    wanted, found = ViTConfig.of(model).to_dict(), ViTConfig.of(again).to_dict()
    differ = {key for key in wanted if wanted[key] != found[key]}
    # No file of Meta's tells how it resamples and crops; timm's has no position for the class token of a model with registers; of a
    # model that averages its patches, vit_jax's and big_vision's files are equal but for how each crops.
    allowed = {"position_resample", "preprocessing"} if source.suffix == ".pth" or name.startswith("original/") else set()
    allowed |= {
        "original/tipsv2": {"prefix_positions"},
        "transformers/tipsv2": {"preprocessing"},  # no normalization, in another form
        "transformers/tipsv2_swiglu": {"preprocessing"},
        "meta/dinov2_registers": {"prefix_positions"},
        "google/vit_gap": {"preprocessing"},
    }.get(name, set())
    assert differ - {"name"} <= allowed

    if not OTHER_NAMES.fullmatch(name):
        written, golden = names_and_shapes(path), names_and_shapes(source)
        assert not {key for key in written.keys() ^ golden.keys() if not IGNORED.fullmatch(key)}
        differ = {key for key in written.keys() & golden.keys() if written[key] != golden[key]}
        assert differ <= OTHER_SHAPES.get(name, set())


# Models that the format holds in another form: arguments, formats, and the arguments that differ when the file is read.
IN_ANOTHER_FORM = {
    "positions of big_vision": (dict(prefix_positions=False), ("timm", "huggingface"), {"prefix_positions"}),
    "computed positions": (dict(position_embedding="sincos2d"), ("timm", "huggingface"), {"position_embedding"}),
    "computed positions of MAE": (dict(position_embedding="sincos2d_mae", **TANH), FORMATS, {"position_embedding"}),
    "positions of the original Transformer": (dict(position_embedding="sincos1d", **TANH), FORMATS, {"position_embedding"}),
    "no positions": (dict(position_embedding="none", **TANH), FORMATS, {"position_embedding"}),
    "resampled positions": (dict(position_grid=(3, 5), **TANH), FORMATS, {"position_grid"}),
    "any size": (dict(input_shape=(None, None, 3), position_grid=(4, 4), **TANH), FORMATS, {"position_grid", "input_shape"}),
    "no biases": (dict(qkv_bias=False, patch_bias=False, **TANH), FORMATS, {"qkv_bias", "patch_bias"}),
    "no bias of the keys": (dict(qkv_bias="query_value", **TANH), FORMATS, {"qkv_bias"}),
    "no biases, no class token": (
        dict(qkv_bias=False, patch_bias=False, **GAP),
        ("huggingface",),
        {"qkv_bias", "patch_bias", "prefix_positions"},
    ),
    "registers beside a position of the class token": (dict(num_register_tokens=2), ("timm",), {"prefix_positions"}),
    "registers, DINOv2": (dict(num_register_tokens=2, include_top=False, **DINOV2), ("timm", "huggingface"), {"prefix_positions"}),
    "DINOv2 with a head on the class token": (DINOV2, ("huggingface",), {"pooling"}),
    "DINOv2 with a head on the patches": (dict(pooling="gap", **DINOV2), ("huggingface",), {"pooling"}),
    "distilled without positions of the tokens": (
        dict(distillation_token=True, prefix_positions=False),
        ("timm", "huggingface"),
        {"prefix_positions"},
    ),
    "norm after pooling": (dict(norm_after_pooling=True, **TANH), ("huggingface", "google"), {"norm_after_pooling"}),
    "norm after attention pooling": (dict(norm_after_pooling=True, class_token=False, pooling="map"), ("timm",), {"prefix_positions"}),
    "token_gap": (dict(pooling="token_gap", **DINOV2), ("huggingface",), set()),
    "gap of SigLIP": (GAP, ("timm", "huggingface"), {"prefix_positions"}),
    "gap of big_vision": (dict(**GAP, **TANH, prefix_positions=False), ("google",), set()),
    "swiglu without layer scale": (dict(mlp="swiglu"), ("timm",), set()),
    "an odd width": (dict(mlp_dim=77), ("timm", "huggingface"), set()),
    "one channel": (dict(input_shape=(32, 32, 1), **TANH), FORMATS, set()),
    "another epsilon of timm's": (dict(norm_epsilon=1e-5), ("timm", "huggingface"), set()),
    "norms of embeddings": (dict(norm_embeddings=True, patch_bias=False), ("timm",), set()),
    "hybrid of timm's": (dict(stem=TIMM_STEM, patch_size=2), ("timm",), set()),
    "hybrid of big_vision's order": (dict(stem=RESNET, patch_size=1, prefix_positions=False, **TANH), ("google",), {"prefix_positions"}),
    "oblong": (dict(input_shape=(24, 40, 3), patch_size=(8, 4)), ("timm", "huggingface"), set()),
    "relu": (dict(activation="relu"), ("timm", "huggingface"), set()),
}


@pytest.mark.parametrize("name, format", [(name, format) for name, (_, formats, _) in IN_ANOTHER_FORM.items() for format in formats])
def test_models_in_another_form(name, format, tmp_path):
    arguments, _, differ = IN_ANOTHER_FORM[name]
    model, path = tiny(**arguments), target(tmp_path, format)
    save(model, path, format)
    again = keras_vit.from_pretrained(path, num_heads=2, include_preprocessing=False, classifier_activation=None)
    assert_same_outputs(again, model, 2e-6)
    wanted, found = ViTConfig.of(model).to_dict(), ViTConfig.of(again).to_dict()
    told_by_no_file = {"name", "activation", "preprocessing", "position_resample", "stem", "layer_scale_init"}
    told_by_no_file |= set() if model.get_config()["include_top"] else {"num_classes"}
    assert {key for key in wanted if wanted[key] != found[key]} - told_by_no_file <= differ


def test_channels_first(tmp_path):
    model = tiny(input_shape=(3, 32, 48), data_format="channels_first")
    save(model, tmp_path / "model", "timm")
    again = keras_vit.from_pretrained(tmp_path / "model", include_preprocessing=False, classifier_activation=None)
    images = images_for(again)
    found, wanted = again(images), model(images.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (found, wanted)), atol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_half_precision_is_written_in_float32(format, tmp_path):
    model, path = tiny(dtype="bfloat16", **TANH), target(tmp_path, format)
    save(model, path, format)
    tensors = dict(np.load(path)) if format == "google" else load_file(path / "model.safetensors")
    assert {array.dtype for array in tensors.values()} == {np.dtype("float32")}
    again = keras_vit.from_pretrained(path, include_preprocessing=False, classifier_activation=None, num_heads=2, dtype="bfloat16")
    assert_same_outputs(again, model)


CROPS = [
    dict(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), interpolation="bilinear", crop_fraction=0.875, crop_mode="center"),
    dict(mean=0.5, std=0.25, interpolation="bicubic", crop_fraction=1.0, crop_mode="squash"),
]


@pytest.mark.parametrize("format", ["timm", "huggingface"])
@pytest.mark.parametrize("preprocessing", CROPS, ids=lambda crop: crop["crop_mode"])
def test_preprocessing_is_kept(format, preprocessing, tmp_path):
    model = tiny(input_shape=(56, 56, 3), include_preprocessing=True, preprocessing=preprocessing)
    save(model, tmp_path / "model", format)
    again = keras_vit.from_pretrained(tmp_path / "model", classifier_activation=None)
    assert_same_outputs(again, model)
    for key, value in preprocessing.items():
        assert again.preprocessing[key] == ((value,) * 3 if key in ("mean", "std") and not isinstance(value, tuple) else value)


REFUSED = [
    (dict(norm_first=False), "timm", "norm_first=False.*None of the formats can"),
    (dict(norm_first=False), "huggingface", "norm_first=False"),
    (dict(norm_first=False, **TANH), "google", "norm_first=False"),
    (dict(representation_size=16, **TANH), "timm", "representation_size=16.*'google' can"),
    (dict(representation_size=16), "huggingface", "representation_size=16"),
    (dict(pooling="token_gap", **DINOV2), "timm", "pooling='token_gap'.*'huggingface' can"),
    (dict(pooling="token_gap", **TANH), "google", "pooling='token_gap'"),
    (dict(norm_epsilon=1e-12), "timm", "norm_epsilon=1e-12.*'huggingface' can"),
    (dict(norm_epsilon=1e-5, distillation_token=True), "timm", "norm_epsilon=1e-05.*'huggingface' can"),
    (dict(norm_epsilon=1e-5, **TANH), "google", "norm_epsilon=1e-05.*'huggingface' and 'timm' can"),
    (dict(stem=dict(kind="conv", filters=(8, 8), strides=(2, 2)), patch_size=2), "timm", "stem=.*None of the formats can"),
    (dict(stem=RESNET, patch_size=1, **TANH), "timm", "stem=.*its hybrids have.*'google' can"),
    (dict(stem=TIMM_STEM, patch_size=2, **TANH), "google", "stem=.*its hybrids have.*'timm' can"),
    (dict(stem=TIMM_STEM, patch_size=2), "huggingface", "stem=.*'timm' can"),
    (dict(norm_embeddings=True), "timm", "patch_bias=True"),
    (dict(norm_embeddings=True, patch_bias=False), "huggingface", "include_top=True.*'timm' can"),
    (dict(qk_norm=True), "huggingface", "qk_norm=True.*'timm' can"),
    (dict(pooling="gap"), "huggingface", "pooling='gap'.*'timm' can"),
    (dict(class_token=False, pooling="map"), "huggingface", "pooling='map'"),
    (dict(num_register_tokens=2), "huggingface", "layer_scale_init=None"),
    (dict(mlp_dim=77, **DINOV2), "huggingface", "mlp_dim=77"),
    (dict(input_shape=(32, 40, 3), **DINOV2), "huggingface", "input_shape=\\(32, 40, 3\\)"),
    (dict(activation="elu"), "huggingface", "activation='elu'.*None of the formats can"),
    ({}, "google", "activation='gelu'.*'huggingface' and 'timm' can"),
    (dict(distillation_token=True, **TANH), "google", "distillation_token=True"),
    (dict(input_shape=(32, 40, 3), **TANH), "google", "grid"),
    (dict(num_register_tokens=1, distillation_token=True), "timm", "num_register_tokens"),
    (dict(mlp="swiglu", class_token=False, pooling="map"), "timm", 'mlp="swiglu"'),
]


@pytest.mark.parametrize("arguments, format, message", REFUSED)
def test_what_a_format_cannot_hold(arguments, format, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        save(tiny(**arguments), target(tmp_path, format), format)
    assert f"Received: format={format!r}" in str(error.value) and "model.save" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_wrong_arguments(tmp_path):
    model = tiny()
    (tmp_path / "file").write_text("mine")
    for wrong, message in (
        ((keras.Sequential(), tmp_path / "x", "timm"), "must be a VisionTransformer"),
        ((model, tmp_path / "x", "onnx"), "`format` must be one of 'huggingface', 'timm', 'google'"),
        ((tiny(**TANH), tmp_path / "x", "google"), r"must be named `\*.npz`"),
        ((model, tmp_path / "file", "timm"), "is a folder"),
        ((tiny(input_shape=(33, 32, 3), dynamic_padding=True), tmp_path / "x", "timm"), "pad its images"),
    ):
        with pytest.raises(ValueError, match=message):
            save(*wrong)


def test_weights_without_a_place_are_not_dropped(tmp_path):
    model = tiny()
    model.get_layer("head").enable_lora(2)
    with pytest.raises(ValueError, match="no place in the format 'timm': head/lora_kernel_a, head/lora_kernel_b"):
        save(model, tmp_path / "model", "timm")


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("failing", ["convert_to_numpy", "fsync"])
def test_a_failure_leaves_the_old_files(format, failing, tmp_path, monkeypatch):
    old, new, path = tiny(**TANH), tiny(num_layers=3, **TANH), target(tmp_path, format)
    save(old, path, format)
    folder = tmp_path if format == "google" else path
    before = snapshot(folder)
    module = saving.ops if failing == "convert_to_numpy" else files.os
    real, calls = getattr(module, failing), []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) > (20 if failing == "convert_to_numpy" else 0):
            raise OSError("no space left")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, failing, fail)
        with pytest.raises(OSError, match="no space left"):
            save(new, path, format)
    assert snapshot(folder) == before
    assert_same_outputs(keras_vit.from_pretrained(path, num_heads=2, include_preprocessing=False, classifier_activation=None), old)
    save(new, path, format)
    assert keras_vit.from_pretrained(path, num_heads=2).get_config()["num_layers"] == 3


ACTIVATIONS = {
    "vit_base_patch16_siglip_224": "gelu",
    "vit_base_patch32_siglip_256": "gelu_tanh",
    "vit_large_patch16_siglip_384": "gelu",
    "vit_large_patch16_siglip_512": "gelu_tanh",
    "vit_large_patch16_siglip_gap_512": "gelu_tanh",
    "vit_so400m_patch14_siglip_224": "gelu",
    "vit_so400m_patch16_siglip_256": "gelu_tanh",
    "vit_giantopt_patch16_siglip_256": "gelu_tanh",
    "vit_base_patch16_clip_quickgelu_224": "quick_gelu",
}


@pytest.mark.parametrize("architecture", ACTIVATIONS)
def test_activation_that_only_the_name_of_timm_tells(architecture, tmp_path):
    save(tiny(class_token=False, pooling="map"), tmp_path, "timm")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architecture": architecture}))
    assert keras_vit.from_pretrained(tmp_path).get_config()["activation"] == ACTIVATIONS[architecture]
