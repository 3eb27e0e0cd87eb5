"""Foreign checkpoint files: what is read, how lazily, and what is refused."""

import argparse
import io
import json
import os
import pathlib
import pickle
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


def test_format_is_recognised_by_content(tmp_path):
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


# --- what is refused ---


def test_unknown_formats(tmp_path):
    for content in (b"", b"\x89HDF\r\n\x1a\n" + bytes(100), b"<!DOCTYPE html>", b"abc", bytes(5000)):
        (tmp_path / "x").write_bytes(content)
        assert_refused(tmp_path / "x", "must be one of: safetensors")


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        ({}, b"", 1 << 40),  # the header is longer than the file
        ({}, b"", 2**64 - 1),
        (b"{" + b" " * (11 << 20) + b"}", b"", None),  # longer than any real header
        (b"{" * 50, b"", None),
        (b'{"a": 1}', b"", None),
        ({"a": entry([1 << 40], 0, 4 << 40)}, b"1234", None),  # data outside the file
        ({"a": entry([2], 0, 4)}, b"1234", None),  # a shape that its bytes cannot hold
        ({"a": entry([1 << 62, 4], 0, 0)}, b"", None),  # a product that overflows to zero
        ({"a": entry([-1], 0, 4)}, b"1234", None),
        ({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, b"1234", None),  # overlap
        ({"a": entry([1], 4, 8)}, b"12345678", None),  # hole
        ({"a": entry([1], 0, 4)}, b"12345678", None),  # unaccounted end
        ({"a": entry([2], 0, 8)}, b"1234", None),  # cut
        ({"a": entry([1], 0, 4, "ZZ")}, b"1234", None),
        ({"a": entry([4], 0, 4, "F8_E4M3")}, b"1234", None),
        (b'{"a":%b,"a":%b}' % ((b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}',) * 2), b"1234", None),
        (
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[1099511627776],"data_offsets":[0,1099511627776]}}',
            b"1234",
            None,
        ),
    ],
)
def test_lying_safetensors(tmp_path, header, data, length):
    assert_refused(write_safetensors(tmp_path / "x", header, data, length), "safetensors|well formed")


class Payload:
    """What a malicious checkpoint carries: unpickling it would make the file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self.path),)


def test_npz_with_objects(tmp_path):
    np.savez(tmp_path / "x.npz", ok=FLOATS, bad=np.array([Payload(tmp_path / "pwned")], dtype=object))
    assert_refused(tmp_path / "x.npz", "object array is a pickle")
    np.savez(tmp_path / "y.npz", bad=np.zeros(2, [("a", "f4"), ("b", "O")]))
    assert_refused(tmp_path / "y.npz", "object array is a pickle")
    assert not (tmp_path / "pwned").exists()


def test_npz_that_lies(tmp_path):
    path = tmp_path / "x.npz"
    huge = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
    assert_refused(write_zip(path, {"a.npy": npy(huge, b"1234")}), "account for the member's bytes exactly")
    assert_refused(write_zip(path, {"a.npy": npy({**huge, "shape": (-1, -1)}, b"1234")}), "account for the member's bytes exactly")
    assert_refused(
        write_zip(path, {"a.npy": npy({**huge, "shape": (1 << 62, 1 << 62, 0)}, b"1234")}), "account for the member's bytes exactly"
    )
    assert_refused(write_zip(path, {"a.npy": b"\x93NUMPY\x01\x00\xff\xff{}"}), "well formed")
    assert_refused(write_zip(path, {"a.npy": b"\x93NUMPY\x01\x00\x0a\x00" + b"__import__"}), "well formed")
    assert_refused(write_zip(path, {"a.txt": b"hello"}), "must be .npy arrays")
    for name in ("../a.npy", "/a.npy", "a/../../b.npy"):
        assert_refused(write_zip(path, {name: npy(FLOATS)}), "distinct relative names")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", npy(FLOATS))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.npy", npy(FLOATS))
    assert_refused(path, "distinct relative names")
    assert_refused(write_zip(path, {"a.npy": npy(FLOATS)}, zipfile.ZIP_LZMA), "stored or deflated")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_npz_whose_table_declares_more_than_there_is(tmp_path, compression):
    declared, header = 0xFFFFFFF0, {"descr": "|u1", "fortran_order": False, "shape": (0xFFFFFFF0 - 128,)}
    content = npy(header, bytes(1000))
    assert len(content) == 128 + 1000
    path = write_zip(tmp_path / "x.npz", {"a.npy": content}, compression)
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", len(content)), struct.pack("<I", declared)))
    assert_refused(path, "a size that their bytes can hold|unpack to 100 times")


def test_zip_bomb_within_deflates_ratio(tmp_path):
    path = tmp_path / "x.npz"
    size = 300 << 20
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
        member.write(npy({"descr": "|u1", "fortran_order": False, "shape": (size,)}))
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    assert_refused(path, "may unpack to 100 times its size")


def test_damaged_npz_is_noticed_when_read(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.arange(1000))
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    with open_tensors(path) as tensors, pytest.raises(CheckpointError, match="Bad CRC"):
        tensors["a"]
    path.write_bytes(content[: len(content) // 2])
    assert_refused(path, "well formed")


def write_pickle_as_torch(path, pickled, data=b"\0" * 16):
    return write_zip(path, {"archive/data.pkl": pickled, "archive/data/0": data, "archive/version": b"3\n"})


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_torch_with_a_payload(tmp_path, protocol):
    pickled = pickle.dumps({"model": Payload(tmp_path / "pwned")}, protocol)
    assert_refused(
        write_pickle_as_torch(tmp_path / "x.pth", pickled), "wants to run code and was refused. Received: .*[pP]ath|STACK_GLOBAL"
    )
    (tmp_path / "bare.pth").write_bytes(pickle.dumps({"model": Payload(tmp_path / "pwned")}, max(protocol, 2)))
    assert_refused(tmp_path / "bare.pth", "can run any code and is never opened")
    assert not (tmp_path / "pwned").exists()


def test_torch_file_that_only_wants_memory(tmp_path):
    bytearray_of_a_terabyte = b"\x80\x02}X\x01\x00\x00\x00wc__builtin__\nbytearray\n\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85Rs."
    assert_refused(write_pickle_as_torch(tmp_path / "x.pth", bytearray_of_a_terabyte), "__builtin__ bytearray")
    assert_refused(write_pickle_as_torch(tmp_path / "y.pth", b"\x80\x02ctorch\nTensor\nK\x05\x85R."), "torch Tensor")


def test_torch_with_packed_or_odd_members(tmp_path):
    path = tmp_path / "x.pth"
    members = {"archive/data.pkl": pickle.dumps({}, 2) + bytes(100)}
    assert_refused(write_zip(path, members, zipfile.ZIP_DEFLATED), "store its members unpacked")
    assert_refused(write_zip(path, {**members, "other/data.pkl": b""}), "one data.pkl")
    assert_refused(write_zip(path, {"archive/data.pkl": bytes(11 << 20)}), "at most", most=16 << 20)
    assert_refused(write_pickle_as_torch(path, b"not a pickle"), "well formed")


def test_torch_storages_that_lie(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "x.pth"
    torch.save({"w": torch.ones(1).expand(1 << 40)}, path)
    assert_refused(path, "held in full by the file")
    torch.save({"w": torch.ones(16)}, path)
    content = zipfile.ZipFile(path).read("x/data.pkl")
    for old, new in ((b"K\x10", b"M\xff\xff"), (b"K\x10", b"\x8a\x06" + (1 << 40).to_bytes(6, "little"))):
        members = {name: zipfile.ZipFile(path).read(name) for name in zipfile.ZipFile(path).namelist()}
        assert_refused(write_zip(tmp_path / "lie.pth", {**members, "x/data.pkl": content.replace(old, new)}), "well formed|held in full")


def test_torch_without_tensors(tmp_path):
    torch = pytest.importorskip("torch")
    cycle = {}
    cycle["model"] = cycle
    for content in ({"epoch": 3}, {"model": {}}, [torch.ones(2)], torch.ones(2), cycle):
        torch.save(content, tmp_path / "x.pth")
        assert_refused(tmp_path / "x.pth", "must hold a dict of tensors|well formed")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pth")
    assert_refused(tmp_path / "x.pth", "torch.nn.modules.linear Linear")


def test_torch_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="pip install torch.*safetensors"):
        open_tensors(write_pickle_as_torch(tmp_path / "x.pth", pickle.dumps({}, 2)))


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
