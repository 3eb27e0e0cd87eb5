import json
import logging
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from checkpoints.test_download import Site
from checkpoints.test_hub import HubHandler
from helpers import randomize

import keras_vit
from keras_vit.checkpoints import catalogue, from_pretrained
from keras_vit.config import PREPROCESSING, ViTConfig
from keras_vit.presets import PRESETS, num_heads_of

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
ALL = keras_vit.list_weights()

# These files hold a dense layer with tanh before the head, as wide as a token.
WITH_REPRESENTATION = {("ViTB16", "hf_in21k"), ("SimpleViTS16", "jax_300ep_in1k")}

# MiB of Google's files of ImageNet-21k, as the README of vision_transformer states them.
GOOGLE_MIB = dict(ViTL16=1243, ViTB16=391, ViTS16=115, R50ViTL32=1337, R26ViTS32=170, ViTTi16=37, ViTB32=398, ViTS32=118, RViTTi16=40)


def test_rows_are_well_formed():
    assert len(ALL) == len(catalogue.CATALOGUE) >= 40
    assert len({(row.model, row.tag) for row in ALL}) == len({row.source for row in ALL}) == len(ALL)
    for row in ALL:
        assert row.model in PRESETS
        assert re.fullmatch(r"hf://[\w-]+/[\w.-]+|https://storage\.googleapis\.com/(vit_models|big_vision)/[\w./-]+\.npz", row.source), row
        assert row.license in ("Apache-2.0", "MIT", *catalogue.NON_COMMERCIAL, *catalogue.TERMS)
        assert row.top1 is None or (row.classes == 1000 and 70 < row.top1 < 91), row
        assert row.classes in (0, 1000, 21841, 21843)
        assert set(row.preprocessing) == set(PREPROCESSING) and row.preprocessing["size"] == row.resolution


@pytest.mark.parametrize("row", ALL, ids=lambda row: f"{row.model}-{row.tag}")
def test_the_preset_has_the_parameters_of_the_weights(row):
    form = {"num_classes": row.classes, "include_top": True} if row.classes else {"include_top": False}
    if (row.model, row.tag) in WITH_REPRESENTATION:
        form["representation_size"] = ViTConfig.of(row.model).to_dict()["hidden_dim"]
    parameters = keras_vit.cost(row.model, input_shape=(row.resolution, row.resolution, 3), **form).parameters  # the patch must divide
    assert row.parameters == round(parameters / 1e6, 2)
    if row.tag == "jax_augreg_in21k":
        assert abs(4 * row.parameters * 1e6 / 2**20 - GOOGLE_MIB[row.model]) <= 1


LICENSES = {"apple-ascl": "apple-amlr"}  # what AIMv2's authors changed since, in their repositories


def test_rows_agree_with_timm():
    facts = json.loads((GOLDEN / "catalogue.json").read_text())
    rows = {row.source.removeprefix("hf://timm/"): row for row in ALL if row.source.startswith("hf://timm/")}
    assert rows.keys() == facts.keys()
    for name, row in rows.items():
        fact, ours = facts[name], row.preprocessing
        classes = 0 if PRESETS[row.model].get("representation_size") else fact["classes"]  # timm calls a projection the head
        assert (row.resolution, row.classes, row.license.lower()) == (
            fact["resolution"],
            classes,
            LICENSES.get(fact["licence"], fact["licence"]),
        ), name
        assert row.top1 == (None if fact["top1"] is None else pytest.approx(fact["top1"], abs=0.006)), name
        # timm folds a position into DINOv2's class token, and the SBB models have one on their register.
        assert row.parameters == pytest.approx(fact["parameters"] / 1e6, abs=0.01), name
        for key in ("mean", "std"):
            np.testing.assert_array_equal(np.broadcast_to(ours[key], 3), fact[key], err_msg=name)
        assert {key: ours[key] for key in ("interpolation", "crop_fraction", "crop_mode")}.items() <= fact.items(), name
        assert row.tag.removesuffix(f"_{row.resolution}") == name.split(".")[1]


def test_a_tag_ends_in_the_resolution_where_it_is_not_the_presets():
    for row in [row for row in ALL if not PRESETS[row.model].get("naflex")]:
        assert row.tag.endswith(f"_{row.resolution}") == (row.resolution != PRESETS[row.model].get("input_shape", (224,))[0]), row


def test_list_weights():
    assert [row.tag for row in keras_vit.list_weights("ViTB8")] == ["augreg2_in21k_ft_in1k"]
    assert {row.model for row in keras_vit.list_weights("deit3*16")} == {"DeiT3S16", "DeiT3M16", "DeiT3B16", "DeiT3L16"}
    assert keras_vit.list_weights("ViTe14") == []
    (row,) = keras_vit.list_weights("DINOv2S14")
    assert row.megabytes == 88 and row.source == "hf://timm/vit_small_patch14_dinov2.lvd142m"
    with pytest.raises(ValueError, match="The nearest are ViTB16"):
        keras_vit.list_weights("ViTB61")


@pytest.mark.parametrize("weights", ["augreg", "vit_base_patch16_224", "", True, 7, None, ["mae"]])
def test_weights_that_are_nothing_known(weights):
    with pytest.raises(
        ValueError, match=r"must be a tag of ViTB16, a path, .*: augreg_in21k_ft_in1k_384 \(86.01 %\), .*Received: weights="
    ):
        catalogue.source("ViTB16", weights)


def test_sources():
    assert catalogue.source("ViTB16", "mae") == {"source": "hf://timm/vit_base_patch16_224.mae"}
    for source in ("hf://owner/repository", "https://host/file.npz", "folder/file", "file.npz", pathlib.Path("folder/file.pth")):
        assert catalogue.source("ViTe14", source) == {"source": str(source)}
    with pytest.raises(ValueError, match="`weights` must be a path"):
        catalogue.source("ViTe14", "mae")


def test_imagenet_means_the_best_tag(caplog):
    assert catalogue.source("ViTB16", "imagenet") == {"source": "hf://timm/vit_base_patch16_384.augreg_in21k_ft_in1k"}
    assert "augreg_in21k_ft_in1k_384" in caplog.text
    for preset in ("DINOv2S14", "ViTe14"):  # features alone; nothing at all
        with pytest.raises(ValueError, match="Received: weights='imagenet'"):
            catalogue.source(preset, "imagenet")


@pytest.mark.parametrize(
    "name, answer",
    [
        ("vit_base_patch16_224", r"called ViTB16 here. Its weights: augreg_in21k_ft_in1k_384 \(86.01 %\)"),
        ("vit_small_patch14_reg4_dinov2", r"called DINOv2S14Reg4 here. Its weights: lvd142m \(features\)"),
        ("ViT-L-14", "called ViTL14 here. Its weights: none is published"),
        ("vit_large_patch16_384.augreg_in21k_ft_in1k", "preset ViTL16 with `weights='augreg_in21k_ft_in1k_384'`"),
        ("google/vit-base-patch16-224", "hf://google/vit-base-patch16-224"),
        ("ViTS16", "is a preset: .*augreg_in21k_ft_in1k_384"),
        ("ViTS16:augreg_in1k", r"keras_vit.ViTS16\(weights='augreg_in1k'\)"),
        ("dinov2_vits14", "called DINOv2S14 here"),
        ("vit_small_patch16_18x2_224", "has parallel blocks, which is not read"),
    ],
)
def test_a_name_from_elsewhere_is_answered_by_its_meaning(name, answer, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    calls = (
        [from_pretrained] if "/" in name or name.startswith("ViTS16") else [from_pretrained, keras_vit.zoo.create, keras_vit.list_weights]
    )
    for call in calls:
        with pytest.raises(ValueError, match=f"{answer}.*Received: "):
            call(name)


@pytest.mark.parametrize("source", [{"cls_token": np.zeros((1, 1, 64))}, None, [1], 7])
def test_what_is_no_source(source):
    with pytest.raises(ValueError, match="must be a path, `hf://owner/repo`.*Received: a "):
        from_pretrained(source)


@pytest.fixture
def published(monkeypatch):
    """Adds a tiny file on this disk to the catalogue."""

    def publish(path, **columns):
        row = keras_vit.list_weights("ViTB16")[0]._replace(tag="tiny", source=str(path), **columns)
        monkeypatch.setattr(catalogue, "CATALOGUE", [row])
        return row

    return publish


@pytest.mark.parametrize("license, warned", [("CC-BY-NC-4.0", True), ("Apache-2.0", False)])
def test_a_license_that_forbids_commercial_use_is_said(published, caplog, license, warned):
    row = published(GOLDEN / "timm" / "plain", license=license)
    with caplog.at_level(logging.WARNING, "keras_vit"):
        from_pretrained(row.source)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ([f"{row.source} is not for commercial use: its license is CC-BY-NC-4.0"] if warned else [])


def test_the_catalogue_says_what_a_file_without_config_does_not(published):
    path = GOLDEN / "google" / "vit" / "checkpoint.npz"
    assert from_pretrained(path).preprocessing["crop_fraction"] == 1.0
    preprocessing = {"mean": (0.1, 0.2, 0.3), "std": 0.25, "size": 40, "interpolation": "area", "crop_fraction": 0.8, "crop_mode": "center"}
    row = published(path, preprocessing=preprocessing)
    model = from_pretrained(row.source)
    assert model.preprocessing == preprocessing
    assert from_pretrained(row.source, preprocessing={"mean": 0.0}).preprocessing["mean"] == 0.0  # the user's word is the last
    raw = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3)).astype("float32")
    normalized = from_pretrained(row.source, include_preprocessing=False)
    expected = normalized((raw / 255 - preprocessing["mean"]) / 0.25)
    np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, (model(raw), expected)), atol=1e-5)


def test_the_size_that_positions_were_trained_at_is_kept():
    model = from_pretrained(GOLDEN / "timm" / "plain", input_shape=(None, None, 3))
    assert model.preprocessing["size"] == 32


def test_widths_that_two_families_share_do_not_confuse_the_heads():
    assert num_heads_of(1536, 40, 4096) == PRESETS["DINOv2g14"]["num_heads"] == 24
    assert num_heads_of(1536, 40, 6144) == PRESETS["SigLIPgopt16"]["num_heads"] == 16


def test_a_tag_from_the_hub_to_named_classes(tmp_path):
    model = randomize(keras_vit.ViTTi16(classifier_activation=None), scale=0.05)
    keras_vit.checkpoints.save(model, tmp_path / "saved", format="timm")
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype="uint8")
    image = pytest.importorskip("PIL.Image").fromarray(pixels)
    image.save(tmp_path / "photo.png")
    command = [sys.executable, "-m", "keras_vit_cli", "predict", "--model", "ViTTi16", "--weights", "augreg_in21k_ft_in1k", "--json"]
    with Site(HubHandler) as hub:
        files = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
        hub.repos = {"timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k": {"main": files}}
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*"}
        done = subprocess.run([*command, tmp_path / "photo.png"], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout)
    transform = pytest.importorskip("keras_vit.data").evaluation_transform(model)
    scores = keras.ops.softmax(model(transform(image)[None]))
    best = keras_vit.decode_predictions(scores)[0]
    assert [(p["id"], p["label"]) for p in answer["predictions"]] == [(wordnet_id, label) for wordnet_id, label, _ in best]
    assert [p["score"] for p in answer["predictions"]] == pytest.approx([score for *_, score in best], rel=1e-3)
