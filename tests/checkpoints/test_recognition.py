"""Files as training code leaves them: the model in them is found, or the file is refused, and what is left open is said."""

import argparse
import json
import logging
import shutil

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import keras_vit
from keras_vit.checkpoints import pretrained, save
from keras_vit.checkpoints.formats.mapping import position_grid
from keras_vit.checkpoints.formats.preprocessing import from_processor, from_timm, to_processor, to_timm

FORM = dict(input_shape=(16, 16, 3), patch_size=8, hidden_dim=64, num_layers=1, num_heads=1, mlp_dim=32)
IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype("float32")
COLORS = dict(preprocessing={"mean": 0.5, "std": 0.5})


def model_of(seed=0, **form):
    model = keras_vit.VisionTransformer(**{**FORM, **form})
    random = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(0.5 * random.standard_normal(weight.shape))
    return model


def outputs(model, images=IMAGES):
    return keras.ops.convert_to_numpy(model(images))


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """{format: (tensors of a model with a head, its outputs)}, and under "ema" those of timm's format with other weights."""
    folder, found = tmp_path_factory.mktemp("states"), {}
    for name, format, seed in (("timm", "timm", 0), ("huggingface", "huggingface", 0), ("ema", "timm", 1)):
        model = model_of(seed, num_classes=3)
        save(model, folder / name, format)
        found[name] = load_file(folder / name / "model.safetensors"), outputs(model)
    return found


def prefixed(prefix, tensors):
    return {prefix + key: value for key, value in tensors.items()}


def write(path, content):
    """Writes a nested dict of arrays as torch does, or a flat one as safetensors."""
    if path.suffix == ".safetensors":
        save_file(content, path)
        return path
    torch = pytest.importorskip("torch")

    def converted(value):
        if isinstance(value, dict):
            return {key: converted(item) for key, item in value.items()}
        return torch.tensor(value) if isinstance(value, np.ndarray) else value

    torch.save(converted(content), path)
    return path


WRAPPERS = {
    "compiled": lambda d: prefixed("_orig_mod.", d),
    "compiled in data-parallel": lambda d: {"model": prefixed("module._orig_mod.", d)},
    "data-parallel in compiled": lambda d: prefixed("_orig_mod.module.", d),
    "Lightning": lambda d: {"state_dict": prefixed("model.", d) | {"criterion.weight": np.ones(3, "float32")}, "epoch": 3, "loops": {}},
    "Lightning, compiled": lambda d: {"state_dict": prefixed("model._orig_mod.", d), "hyper_parameters": {"lr": 1e-3}},
    "a backbone in a model": lambda d: {"state_dict": prefixed("module.backbone.", d)},
    "a name of one's own": lambda d: {
        "weights": prefixed("my_net.image_encoder.", d),
        "best": np.float64(0.9),
        "args": argparse.Namespace(lr=1),
    },
    "a student alone": lambda d: {"student": prefixed("module.backbone.", d)},
    "torch's AveragedModel": lambda d: prefixed("module.", d) | {"n_averaged": np.array(3)},
    "sharded modules": lambda d: {k.replace("blocks.0.", "blocks.0._fsdp_wrapped_module."): v for k, v in prefixed("module.", d).items()},
}


@pytest.mark.parametrize("format", ["timm", "huggingface"])
def test_wrappers_in_any_order(states, format, tmp_path):
    tensors, wanted = states[format]
    for name, wrap in WRAPPERS.items():
        found = keras_vit.from_pretrained(write(tmp_path / "x.pth", wrap(tensors)), **COLORS)
        np.testing.assert_allclose(outputs(found), wanted, atol=1e-5, err_msg=name)
    flat = write(
        tmp_path / "x.safetensors",
        prefixed("teacher.backbone.", tensors) | {"teacher.head.last_layer.weight_g": np.ones((4, 1), "float32")},
    )
    np.testing.assert_allclose(outputs(keras_vit.from_pretrained(flat, **COLORS)), wanted, atol=1e-5)


def test_the_backbone_of_a_transformers_model_beside_other_heads(states, tmp_path, caplog):
    tensors, _ = states["huggingface"]
    backbone = {key: value for key, value in tensors.items() if key.startswith("vit.")}
    path = write(tmp_path / "x.safetensors", backbone | {"fc.weight": np.ones((9, 64), "float32"), "fc.bias": np.ones(9, "float32")})
    assert keras_vit.from_pretrained(path, **COLORS).output_shape == (None, 64)
    assert "leaving out 'fc' (2 tensors)" in caplog.text


AVERAGES = {
    "DeiT's and MAE's": ("model", "model_ema"),
    "timm's": ("state_dict", "state_dict_ema"),
    "a teacher's": ("student", "teacher"),
    "I-JEPA's": ("encoder", "target_encoder"),
    "Lightning's": ("model.", "ema_model."),
    "MoCo's": ("base_encoder.", "momentum_encoder."),
    "beside the names themselves": (".", "ema."),
}


def test_average_or_last_weights(states, tmp_path, caplog):
    (last, wanted_last), (average, wanted_average) = states["timm"], states["ema"]
    for name, (raw, ema) in AVERAGES.items():
        flat = prefixed(raw.removeprefix("."), last) | prefixed(ema, average)
        content = flat if raw.endswith(".") else {raw: last, ema: average}
        path = write(tmp_path / "x.pth", content)
        for choice, wanted, other in ((None, wanted_average, raw), (True, wanted_average, raw), (False, wanted_last, ema)):
            caplog.clear()
            found = keras_vit.from_pretrained(path, ema=choice, **COLORS)
            np.testing.assert_allclose(outputs(found), wanted, atol=1e-5, err_msg=f"{name}, ema={choice}")
            (line,) = [record.getMessage() for record in caplog.records if "`ema=" in record.getMessage()]
            assert f"`ema={choice is False}` reads {'' if other == '.' else other.strip('.') + '.'!r}" in line
    for raw, choice in (("model", True), ("teacher", False)):
        with pytest.raises(ValueError, match=f"Received: ema={choice}"):
            keras_vit.from_pretrained(write(tmp_path / "x.pth", {raw: last}), ema=choice)
    with pytest.raises(ValueError, match="several models.*'net_a.', 'net_b.'"):
        keras_vit.from_pretrained(write(tmp_path / "x.pth", {"net_a": last, "net_b": average}))


UNKNOWN = {
    "torchvision": ("conv_proj.weight", "encoder.layers.encoder_layer_0.ln_1.weight"),
    "OpenAI's CLIP": ("visual.conv1.weight", "visual.transformer.resblocks.0.ln_1.weight"),
    "vit-pytorch": ("to_patch_embedding.1.weight", "transformer.layers.0.0.norm.weight"),
    "parallel blocks": ("patch_embed.proj.weight", "blocks.0.attns.0.norm.weight"),
    "BEiT": ("patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.attn.relative_position_bias_table"),
    "mmpretrain": ("backbone.patch_embed.projection.weight",),
    "nearest format is 'timm'; it has .*, and the file has blocks.0.normA.weight": ("patch_embed.proj.weight", "blocks.0.normA.weight"),
    "nearest format is 'google'": ("embedding/kernel", "Transformer/encoderblock_0/LayerNorm_0/scale", "mine/kernel"),
    "nearest format is 'huggingface'": ("embeddings.cls_token", "encoder.layer.0.attention.attention.query.weight"),
}


def test_what_is_not_read_is_named(tmp_path):
    for what, names in UNKNOWN.items():
        path = write(tmp_path / "x.safetensors", {name: np.zeros((1, 1), "float32") for name in names})
        with pytest.raises(ValueError, match=f"{what}.*Received: "):
            keras_vit.from_pretrained(path)


# What a configuration may say, by format, and what the error names.
REFUSED = [
    ("huggingface", {"hidden_act": "mish"}, "hidden_act='mish'"),
    ("huggingface", {"model_type": "beit"}, "model_type='beit'"),
    ("huggingface", {"problem_type": "ranking"}, "problem_type='ranking'"),
    ("huggingface", {"hidden_size": 32}, "another model: it says hidden_size=32, the tensors 64"),
    ("huggingface", {"num_hidden_layers": 7}, "num_hidden_layers=7, the tensors 1"),
    ("timm", {"model_args": {"act_layer": "mish"}}, "act_layer='mish'"),
    ("timm", {"model_args": {"norm_layer": "rmsnorm"}}, "norm_layer='rmsnorm'"),
    ("timm", {"global_pool": "avgmax", "model_args": {}}, "global_pool='avgmax'"),
    ("timm", {"global_pool": "map", "model_args": {}}, "global_pool='map'"),
    ("timm", {"architecture": "vit_base_patch16_rpn_224"}, "vit_base_patch16_rpn_224 normalizes after each branch"),
    ("timm", {"num_features": 768}, "num_features=768, the tensors 64"),
    ("timm", {"pretrained_cfg": {"interpolation": "random"}}, "interpolation='random'"),
    ("timm", {"pretrained_cfg": {"crop_mode": "border"}}, "crop_mode='border'"),
]


def test_unknown_values_are_refused_by_name(states, tmp_path):
    for format, change, message in REFUSED:
        folder = tmp_path / format
        if not folder.exists():
            save(model_of(num_classes=3), folder, format)
            original = (folder / "config.json").read_text()
        (folder / "config.json").write_text(json.dumps({**json.loads(original), **change}))
        with pytest.raises(ValueError, match=f"{message}.*Received: "):
            keras_vit.from_pretrained(folder)
    for format, key in (("timm", "head.weight"), ("huggingface", "classifier.weight")):
        tensors = {**states[format][0], key: np.zeros((3, 100), "float32")}
        with pytest.raises(ValueError, match=r"must read features of 64.*\(3, 100\)"):
            keras_vit.from_pretrained(write(tmp_path / "x.safetensors", tensors))


HALF, CLIP = [0.5] * 3, [0.48145466, 0.4578275, 0.40821073]
PROCESSORS = [
    # Old and new forms of transformers' image processors: content, model type, crop_mode, crop_fraction.
    ({"size": 224}, "vit", "squash", 1.0),
    ({"size": 224, "feature_extractor_type": "ViTFeatureExtractor"}, "", "squash", 1.0),
    ({"size": [224, 224], "image_processor_type": "ViTImageProcessorFast"}, "", "squash", 1.0),
    ({"size": {"height": 256, "width": 256}, "crop_size": 224, "do_center_crop": True}, "deit", "squash", 0.875),
    ({"image_processor_type": "DeiTImageProcessor"}, "deit", "squash", 0.875),
    ({"size": 256, "crop_size": {"height": 224, "width": 224}, "feature_extractor_type": "CLIPFeatureExtractor"}, "", "center", 0.875),
    ({"size": 224, "feature_extractor_type": "CLIPFeatureExtractor"}, "", "center", 1.0),
    ({"size": {"shortest_edge": 256, "longest_edge": None}, "do_center_crop": False}, "dinov2", "center", 1.0),
    ({"size": {"height": 384, "width": 384}, "do_center_crop": None}, "siglip", "squash", 1.0),
]


def test_image_processors():
    for file, kind, mode, fraction in PROCESSORS:
        found = from_processor(file, kind)
        assert (found["crop_mode"], found["crop_fraction"]) == (mode, fraction), file
    assert from_processor({}, "clip")["mean"] == tuple(CLIP) and from_processor({}, "vit")["interpolation"] == "bilinear"
    assert from_processor({"image_mean": 0.3, "resample": 1}, "vit").items() >= {"mean": 0.3, "interpolation": "lanczos3"}.items()
    colors = {"image_mean": [127.5, 127.5, 127.5], "image_std": [255.0, 255.0, 255.0]}  # of pixels to 255
    found = from_processor({**colors, "do_rescale": False}, "vit")
    assert (found["mean"], found["std"]) == ((0.5,) * 3, (1.0,) * 3)
    found = from_processor({"rescale_factor": 1 / 127.5, "image_mean": 1.0, "image_std": 1.0}, "vit")
    assert (found["mean"], found["std"]) == (0.5, 0.5)
    found = from_processor({"do_normalize": False, "image_mean": HALF}, "vit")
    assert (found["mean"], found["std"]) == (0.0, 1.0)
    for file, message in (
        ({"resample": 5}, "resample=5"),
        ({"image_processor_type": "ConvNextImageProcessor"}, "ConvNextImageProcessor"),
        ({"size": {"longest_edge": 224}}, "longest_edge"),
        ({"size": {"height": 200, "width": 100}, "crop_size": 100, "do_center_crop": True}, "crop_size"),
        ({"size": 224, "crop_size": 256, "do_center_crop": True}, "crop_size"),
    ):
        with pytest.raises(ValueError, match=f"{message}.*`preprocessing=`.*Received: "):
            from_processor(file, "vit")


def test_preprocessing_there_and_back():
    for preprocessing in (
        dict(mean=HALF, std=HALF, interpolation="bicubic", crop_fraction=0.875, crop_mode="center"),
        dict(mean=HALF, std=HALF, interpolation="lanczos3", crop_fraction=0.875, crop_mode="squash"),
        dict(mean=CLIP, std=HALF, interpolation="area", crop_fraction=1.0, crop_mode="squash"),
    ):
        wanted = {key: tuple(value) if isinstance(value, list) else value for key, value in preprocessing.items()}
        assert from_timm(to_timm(preprocessing)) == wanted
        assert from_processor(to_processor(preprocessing, (224, 224)), "") == wanted
    assert from_timm({})["mean"] == (0.485, 0.456, 0.406)  # timm's default where its config leaves it out


GRIDS = [
    # positions, allowed prefixes, image sizes, the user's grid, prefixes of squares: prefix and grid, or None
    (197, (1, 0), [], None, (1,), (1, (14, 14))),
    (196, (1, 0), [], None, (1,), None),  # may be a rectangle's with a class token
    (196, (1, 0), [], None, (1, 0), (0, (14, 14))),
    (129, (1, 0), [], None, (1,), None),
    (129, (1, 0), [(256, 128)], None, (1,), (1, (16, 8))),
    (129, (1, 0), [(None, None), (128, 256)], None, (1,), (1, (8, 16))),
    (129, (1, 0), [(384, 384)], (8, 16), (1,), (1, (8, 16))),
    (9, (1, 0), [(32, 64)], None, (1,), (1, (2, 4))),
    (9, (1, 0), [], (3, 3), (1,), (0, (3, 3))),
    (37, (1, 0), [(64, 144)], None, (1,), (1, (4, 9))),
    (197, (1, 0), [(384, 384)], None, (1,), (1, (14, 14))),  # to be resampled
]


def test_grids_of_positions():
    for found, prefixes, sizes, given, guesses, wanted in GRIDS:
        if wanted is None:
            with pytest.raises(ValueError, match=r"`input_shape=\(height, width, channels\)`.*`position_grid=\(rows, columns\)`"):
                position_grid(found, prefixes, (16, 16), sizes, given, guesses)
        else:
            assert position_grid(found, prefixes, (16, 16), sizes, given, guesses) == wanted


def test_bare_files_of_rectangular_models(tmp_path):
    images = np.random.default_rng(0).uniform(0, 255, (1, 16, 24, 3)).astype("float32")
    for form in (dict(), dict(class_token=False, pooling="gap"), dict(distillation_token=True)):
        model = model_of(input_shape=(16, 24, 3), num_classes=2, **form)
        for format in ("timm", "huggingface")[: 1 + model.get_config()["class_token"]]:
            save(model, tmp_path / "saved", format)
            shutil.copy(tmp_path / "saved" / "model.safetensors", tmp_path / "bare.safetensors")
            with pytest.raises(ValueError, match="`input_shape="):
                keras_vit.from_pretrained(tmp_path / "bare.safetensors", **COLORS)
            for given in (dict(input_shape=(16, 24, 3)), dict(position_grid=(2, 3), input_shape=(16, 24, 3))):
                found = keras_vit.from_pretrained(tmp_path / "bare.safetensors", **given, **COLORS)
                np.testing.assert_allclose(outputs(found, images), outputs(model, images), atol=1e-5, err_msg=f"{form} {format}")


def test_what_a_bare_file_leaves_open_is_said_in_one_line(tmp_path, caplog):
    save(model_of(num_classes=2), tmp_path / "timm", "timm")
    shutil.copy(tmp_path / "timm" / "model.safetensors", tmp_path / "bare.safetensors")
    keras_vit.from_pretrained(tmp_path / "timm")
    assert not caplog.records
    keras_vit.from_pretrained(tmp_path / "bare.safetensors", activation="gelu")
    (record,) = caplog.records
    line = record.getMessage()
    assert record.levelno == logging.WARNING and "\n" not in line and "num_heads=1" in line and "activation" not in line
    assert "'mean': (0.485, 0.456, 0.406)" in line and "`preprocessing=`" in line
    assert "positions are taken for a square" in line and "`position_grid=(rows, columns)`" in line
    save(model_of(input_shape=(16, 36, 3), patch_size=4, num_classes=2), tmp_path / "wide", "timm")  # 36 positions: 4 x 9, or 6 x 6
    for given, grid in ({}, (6, 6)), ({"input_shape": (16, 36, 3)}, (4, 9)):
        caplog.clear()
        found = keras_vit.from_pretrained(shutil.copy(tmp_path / "wide" / "model.safetensors", tmp_path / "square.safetensors"), **given)
        assert found.config.grid_size == grid and ("36 positions are taken for a square" in caplog.text) == (not given)
    caplog.clear()
    model = keras_vit.ViTMicro4(num_classes=2)
    save(model, tmp_path / "micro", "timm")
    (tmp_path / "micro" / "config.json").unlink()
    assert keras_vit.ViTMicro4(weights=tmp_path / "micro").get_config()["num_heads"] == 3  # the preset tells what the file does not
    loaded = pretrained.load(tmp_path / "bare.safetensors", {**FORM, "activation": "relu"}, {})
    assert loaded.get_config()["activation"] == "relu"
    save(model_of(num_classes=2), tmp_path / "hf", "huggingface")
    (tmp_path / "hf" / "preprocessor_config.json").unlink()
    caplog.clear()
    assert keras_vit.from_pretrained(tmp_path / "hf").preprocessing["mean"] == 0.5
    assert "preprocessing" in caplog.text and "num_heads" not in caplog.text


def test_the_configuration_beside_a_file_counts(tmp_path):
    save(model_of(num_classes=3, class_names=["a", "b", "c"], preprocessing={"mean": 0.3}), tmp_path, "timm")
    (tmp_path / "model.safetensors").rename(tmp_path / "best.safetensors")
    found = keras_vit.from_pretrained(tmp_path / "best.safetensors")
    assert found.preprocessing["mean"] == (0.3,) * 3 and found.class_names == ("a", "b", "c")
    names = list(load_file(tmp_path / "best.safetensors"))
    tensors = load_file(tmp_path / "best.safetensors")
    for number, part in enumerate((names[::2], names[1::2]), 1):
        save_file({name: tensors[name] for name in part}, tmp_path / f"model-0000{number}-of-00002.safetensors")
    where = {name: f"model-0000{number}-of-00002.safetensors" for number, part in enumerate((names[::2], names[1::2]), 1) for name in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    for path in ("model.safetensors.index.json", "model-00002-of-00002.safetensors"):
        assert keras_vit.from_pretrained(tmp_path / path).class_names == ("a", "b", "c")
    (tmp_path / "config.json").write_text('{"learning_rate": 0.1}')  # another program's
    assert keras_vit.from_pretrained(tmp_path / "best.safetensors").class_names is None


def test_class_names(tmp_path, caplog):
    names = ("ant", "bee", "cat")
    for format, name in (("timm", "timm"), ("huggingface", "hf"), ("google", "x.npz")):
        form = dict(activation="gelu_tanh") if format == "google" else {}
        save(model_of(num_classes=3, class_names=names, **form), tmp_path / name, format)
        assert keras_vit.from_pretrained(tmp_path / name).class_names == names
        assert keras_vit.from_pretrained(tmp_path / name, num_classes=2).class_names is None
        assert keras_vit.from_pretrained(tmp_path / name, class_names=["x", "y", "z"]).class_names == ("x", "y", "z")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["id2label"] == {"0": "ant", "1": "bee", "2": "cat"} and config["label2id"]["bee"] == 1
    for labels, wanted, said in (
        ({"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, None, False),
        ({"0": "ant", "1": "bee"}, None, True),
        ({"2": "cat", "0": "ant", "1": "bee"}, names, False),
        ({"ant": 0, "bee": 1, "cat": 2}, None, True),
    ):
        caplog.clear()
        (tmp_path / "hf" / "config.json").write_text(json.dumps({**config, "id2label": labels}))
        assert keras_vit.from_pretrained(tmp_path / "hf").class_names == wanted and bool(caplog.records) == said
    (tmp_path / "hf" / "config.json").write_text(json.dumps({**config, "problem_type": "multi_label_classification"}))
    assert keras_vit.from_pretrained(tmp_path / "hf").get_config()["classifier_activation"] == "sigmoid"
    flat = json.loads((tmp_path / "timm" / "config.json").read_text())
    flat = {**{key: flat[key] for key in ("architecture", "num_classes")}, "labels": list(names), **flat["pretrained_cfg"]}
    (tmp_path / "timm" / "config.json").write_text(json.dumps(flat))
    assert keras_vit.from_pretrained(tmp_path / "timm").class_names == names
    for many in ([f"a class with a long name, number {i}" for i in range(3000)],):  # longer than an archive's comment can be
        save(model_of(num_classes=3000, class_names=many, activation="gelu_tanh"), tmp_path / "x.npz", "google")
        assert keras_vit.from_pretrained(tmp_path / "x.npz").class_names is None and "left out" in caplog.text
