"""Foreign checkpoint files: what is read, how lazily, and what is refused."""

import argparse
import io
import json
import os
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from keras_vit.checkpoints.formats import archives as module
from keras_vit.checkpoints.formats.files import find_checkpoint, open_tensors
from keras_vit.checkpoints.formats.tensors import CheckpointError

FLOATS = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")
ARRAYS = {
    "a/float32": FLOATS,
    "a/float64": FLOATS.astype("float64"),
    "b/float16": FLOATS.astype("float16"),
    "b/bfloat16": FLOATS.astype(ml_dtypes.bfloat16),
    "step": np.int64(7),
    "empty": np.zeros((0, 5), "float32"),
}


def write_safetensors(path, header, data=b"", length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


def entry(shape, start, stop, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def npy(array_or_header, data=b""):
    file = io.BytesIO()
    if isinstance(array_or_header, dict):
        np.lib.format.write_array_header_1_0(file, array_or_header)
        file.write(data)
    else:
        np.lib.format.write_array(file, array_or_header)
    return file.getvalue()


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def assert_refused(path, match, most=8 << 20):
    """Refused with `match` in the message, and without taking more than `most` bytes on the way."""
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=match) as caught:
            open_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()
    assert "Received: " in str(caught.value) and str(path) in str(caught.value)


def assert_reads(path, expected):
    with open_tensors(path) as tensors:
        assert set(tensors) == set(expected) and len(tensors) == len(expected)
        assert tensors.shapes == {key: np.shape(value) for key, value in expected.items()}
        for key, value in expected.items():
            assert tensors[key].dtype == value.dtype
            np.testing.assert_array_equal(tensors[key], value)
            tensors[key].fill(1)  # a copy of its own: neither the file nor the next reader sees it
            np.testing.assert_array_equal(tensors[key], value)


# --- what is read ---


def test_safetensors(tmp_path):
    save_file({key: np.asarray(value) for key, value in ARRAYS.items()}, tmp_path / "x", metadata={"format": "pt"})
    assert_reads(tmp_path / "x", ARRAYS)
    with open_tensors(tmp_path / "x") as tensors:
        assert tensors.metadata == {"format": "pt"}


def test_npz_with_slashes_in_names_and_bfloat16_as_void(tmp_path):
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **ARRAYS, fortran=np.asfortranarray(FLOATS))
        assert np.load(tmp_path / "x.npz")["b/bfloat16"].dtype.kind == "V"
        assert_reads(tmp_path / "x.npz", {**ARRAYS, "fortran": FLOATS})


@pytest.mark.parametrize("wrappers", [(), ("model",), ("teacher",), ("model", "state_dict")])
def test_torch(tmp_path, wrappers):
    """What wraps a dict of tensors becomes a part of their names."""
    torch = pytest.importorskip("torch")
    arrays = {key: value for key, value in ARRAYS.items() if key != "b/bfloat16"}
    state = {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}
    state["b/bfloat16"] = torch.from_numpy(FLOATS).bfloat16()
    state["transposed"] = torch.nn.Parameter(torch.from_numpy(FLOATS).T)
    for wrapper in reversed(wrappers):
        state = {wrapper: state, "epoch": 1}
    torch.save(state, tmp_path / "x.pth")
    assert_reads(tmp_path / "x.pth", {".".join([*wrappers, key]): value for key, value in {**ARRAYS, "transposed": FLOATS.T}.items()})


def test_torch_with_plain_values_beside_the_model(tmp_path):
    torch = pytest.importorskip("torch")
    beside = {"args": argparse.Namespace(lr=0.1), "best": np.float64(0.5), "step": np.int64(3), "optimizer": {"state": {0: {}}}}
    torch.save({"model": {"w": torch.ones(2), "depth": 12}, **beside, "model_ema": {"w": torch.zeros(2)}}, tmp_path / "x.pth")
    assert_reads(tmp_path / "x.pth", {"model.w": np.ones(2, "float32"), "model_ema.w": np.zeros(2, "float32")})


def test_torch_renews_its_mapping(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(module, "_MAPPED_BYTES", 10)
    torch.save({str(i): torch.full((9,), float(i)) for i in range(5)}, tmp_path / "x.pth")
    assert_reads(tmp_path / "x.pth", {str(i): np.full(9, i, "float32") for i in range(5)})


def test_format_is_recognized_by_content(tmp_path):
    save_file({"w": FLOATS}, tmp_path / "named.npz")
    np.savez(tmp_path / "right.npz", w=FLOATS)
    os.rename(tmp_path / "right.npz", tmp_path / "named.safetensors")
    assert_reads(tmp_path / "named.npz", {"w": FLOATS})
    assert_reads(str(tmp_path / "named.safetensors"), {"w": FLOATS})


def test_shapes_without_data(tmp_path):
    save_file({"w": FLOATS}, tmp_path / "x")
    with open_tensors(tmp_path / "x") as tensors:
        assert "w" in tensors and "v" not in tensors and tensors.get("v") is None
        with pytest.raises(KeyError, match="v"):
            tensors["v"]
        kept = tensors["w"]
    np.testing.assert_array_equal(kept, FLOATS)
    with pytest.raises(ValueError, match="closed"):
        tensors["w"]
    tensors.close()


# --- folders ---


def test_a_shard_alone_is_read_with_its_index_and_so_are_shards_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = {f"w{i}": np.full(3, i, "float32") for i in (1, 2)}
    for suffix, save in (
        ("safetensors", save_file),
        ("bin", lambda d, path: torch.save({k: torch.from_numpy(v) for k, v in d.items()}, path)),
    ):
        names = {key: f"pytorch_model-0000{i}-of-00002.{suffix}" for i, key in enumerate(arrays, 1)}
        (tmp_path / suffix).mkdir()
        for key, name in names.items():
            save({key: arrays[key]}, tmp_path / suffix / name)
        index = tmp_path / suffix / f"pytorch_model.{suffix}.index.json"
        index.write_text(json.dumps({"weight_map": names}))
        for path in (tmp_path / suffix, index, tmp_path / suffix / names["w2"]):
            assert_reads(path, arrays)


def write_shards(folder, weight_map, metadata=None):
    for i in (1, 2):
        save_file({f"w{i}": np.full(3, i, "float32")}, folder / f"model-{i}.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": metadata or {}, "weight_map": weight_map}))
    return index


def test_folder_of_shards(tmp_path):
    index = write_shards(tmp_path, {"w1": "model-1.safetensors", "w2": "model-2.safetensors"}, {"total_size": 24})
    for path in (tmp_path, index):
        assert_reads(path, {"w1": np.ones(3, "float32"), "w2": np.full(3, 2, "float32")})
    with open_tensors(tmp_path) as tensors:
        assert tensors.metadata == {"total_size": 24}
    with pytest.raises(ValueError, match="closed"):
        tensors["w1"]


@pytest.mark.parametrize("name", ["../model-2.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "", "C:model", "a\\b", 3, None])
def test_shard_names_are_plain(tmp_path, name):
    assert_refused(write_shards(tmp_path, {"w1": "model-1.safetensors", "w2": name}), "shard must be a plain file name|well formed")


def test_shards_that_lack_what_the_index_promises(tmp_path):
    assert_refused(write_shards(tmp_path, {"w1": "model-1.safetensors", "w2": "model-3.safetensors"}), "without 'model-3.safetensors'")
    assert_refused(write_shards(tmp_path, {"w1": "model-1.safetensors", "w2": "model-1.safetensors"}), r"without \['w2'\]")
    for text in ("{", "[]", "{}", '{"weight_map": [1]}'):
        (tmp_path / "model.safetensors.index.json").write_text(text)
        assert_refused(tmp_path / "model.safetensors.index.json", "well formed")


def test_choice_in_a_folder(tmp_path):
    assert find_checkpoint(tmp_path) is None
    with pytest.raises(ValueError, match="holds one of: safetensors"):
        open_tensors(tmp_path)
    np.savez(tmp_path / "a.npz", w=FLOATS)
    assert_reads(tmp_path, {"w": FLOATS})
    np.savez(tmp_path / "b.npz", w=FLOATS)
    with pytest.raises(ValueError, match=r"ambiguous; name one of \['a.npz', 'b.npz'\]"):
        open_tensors(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    assert find_checkpoint(tmp_path).name == "pytorch_model.bin"
    save_file({"v": FLOATS}, tmp_path / "model.safetensors")
    assert_reads(tmp_path, {"v": FLOATS})


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match="existing checkpoint file or folder. Received: path=.*nowhere"):
        open_tensors(tmp_path / "nowhere")


# --- memory ---

MEASURE = """
import pathlib, re, sys
import torch
from keras_vit.checkpoints.formats import files
torch.ones(3).clone()
memory = lambda name: int(re.search(name + r":\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
for path in sys.argv[1:]:
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = memory("VmRSS")
    with files.open_tensors(path) as tensors:
        for key in tensors:
            assert tensors[key][-1] == 1
    print("PEAK", memory("VmHWM") - before)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peak memory is read from Linux's /proc")
def test_memory_holds_one_tensor_at_a_time(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = {str(i): np.ones(2 << 20, "float32") for i in range(40)}  # 320 MiB in tensors of 8 MiB
    paths = [tmp_path / name for name in ("x.safetensors", "x.npz", "x.pth")]
    save_file(arrays, paths[0])
    np.savez(paths[1], **arrays)
    torch.save({key: torch.from_numpy(value) for key, value in arrays.items()}, paths[2])
    del arrays
    run = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=True)
    peaks = [int(line.split()[1]) for line in run.stdout.splitlines() if line.startswith("PEAK")]
    assert len(peaks) == 3 and max(peaks) < 200 << 10  # kB, of 320 MiB; the mapping of a torch file is renewed every 32 MiB
