"""Keras's own files: what declares more than it holds, or leads elsewhere, is refused before it costs memory."""

import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
from helpers import tiny

import keras_vit
from keras_vit.checkpoints.formats.keras_files import CONFIG, WEIGHTS, open_h5


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "whole.keras"
    tiny(num_layers=1, stem=None).save(path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rewritten(path, members, compression=zipfile.ZIP_STORED, **changes):
    """Writes the `.keras` file with other arguments in its configuration."""
    saved = json.loads(members[CONFIG])
    saved["config"] |= changes
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in (members | {CONFIG: json.dumps(saved).encode()}).items():
            archive.writestr(name, content)
    return path


def refused(path, words):
    with pytest.raises(ValueError, match=words) as raised:
        keras_vit.from_pretrained(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_model_must_be_as_large_as_its_weights(tmp_path, members):
    path = tmp_path / "x.keras"
    assert keras_vit.from_pretrained(rewritten(path, members)).config.num_layers == 1
    for changes in (
        {"hidden_dim": 1 << 20},
        {"num_layers": 1 << 20},
        {"num_classes": 1 << 40, "class_names": None},
        {"input_shape": [1 << 19, 1 << 19, 3], "position_embedding": "sincos2d"},
        {"stem": {"kind": "resnet", "block_counts": [1 << 20], "width": 32}},
    ):
        refused(rewritten(path, members, **changes), "must be as large as its weights")
    refused(rewritten(path, members, hidden_dim="8"), "well formed|must be an int")
    refused(rewritten(path, members, zipfile.ZIP_DEFLATED), "not compressed")
    refused(rewritten(path, {**members, "../x": b""}), "distinct relative names")
    refused(rewritten(path, {**members, "x" * 300: b""}), "distinct relative names")
    refused(rewritten(path, {**members, WEIGHTS: members[WEIGHTS][:500]}), "well formed")
    path.write_bytes(b"PK\x03\x04" + bytes(50))
    refused(path, "well formed")
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(path)
    refused(path, "must hold a VisionTransformer")


def test_weights_that_lie_elsewhere_or_nowhere(tmp_path):
    path = tmp_path / "x.weights.h5"

    def declare(file):
        file.create_dataset("layers/dense/vars/0", (1 << 20, 1 << 20), "float32", chunks=(64, 64))

    def link(file):
        file["layers"] = h5py.ExternalLink("/etc/hostname", "/x")

    def external(file):
        file.create_dataset("x", (8,), "u1", external=[("/etc/hostname", 0, 8)])

    def loop(file):
        file["x"] = file["/"]

    for write, words in (
        (declare, "hold as much as it declares"),
        (link, "must not hold links"),
        (external, "must lie in its file"),
        (loop, ""),
    ):
        with h5py.File(path, "w") as file:
            write(file)
        with pytest.raises(ValueError, match=words) as raised, open_h5(path):
            pass
        assert str(path) in str(raised.value)
    with h5py.File(path, "w") as file:
        file["x"] = np.ones((2, 3))
    with open_h5(path) as file:
        assert file["x"].shape == (2, 3)
    path.write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match="must be one of HDF5"):
        keras_vit.ViTMicro4(weights=str(path))
