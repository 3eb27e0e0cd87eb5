"""Checkpoint files that lie, are damaged or carry a payload are refused."""

import pathlib
import pickle
import struct
import sys
import zipfile

import numpy as np
import pytest
from checkpoints.formats.test_tensors import FLOATS, assert_refused, entry, npy, write_safetensors, write_zip

from keras_vit.checkpoints.formats import tensors as tensors_module
from keras_vit.checkpoints.formats.files import open_tensors
from keras_vit.checkpoints.formats.tensors import CheckpointError

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


def test_torch_dicts_in_dicts_and_scalars_that_want_memory(tmp_path):
    torch = pytest.importorskip("torch")
    inner = {"w": torch.ones(2)}
    for _ in range(7):
        inner = {str(number): inner for number in range(50)}  # 50**7 tensors in a file of some kilobytes
    torch.save(inner, tmp_path / "x.pth")
    assert_refused(tmp_path / "x.pth", "50,000 entries at most", most=64 << 20)
    scalar = b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x0b\x00\x00\x00V2000000000\x85R\x85R."
    assert_refused(write_pickle_as_torch(tmp_path / "y.pth", scalar), "must hold a dict of tensors")
    torch.save({"w": torch.ones(2, dtype=torch.complex64)}, tmp_path / "z.pth")
    assert_refused(tmp_path / "z.pth", "must hold real numbers")


def test_names_that_no_model_has(tmp_path, monkeypatch):
    for name in ("a\nb", "\x1b[2Jx", "x" * 501):
        assert_refused(write_safetensors(tmp_path / "x", {name: entry([1], 0, 4)}, b"1234"), "printable letters")
    monkeypatch.setattr(tensors_module, "MOST_TENSORS", 100)
    many = {f"{number}.weight": entry([0], 0, 0) for number in range(101)}
    assert_refused(write_safetensors(tmp_path / "x", many), "100 tensors at most")


def test_odd_values_in_a_configuration(tmp_path):
    import keras_vit
    from keras_vit.checkpoints import open_checkpoint, save

    save(keras_vit.VisionTransformer((16, 16, 3), 8, 16, 1, 2, 32, num_classes=3), tmp_path, "huggingface")
    whole = (tmp_path / "config.json").read_text()
    for old, new in (
        ('"hidden_size": 16', '"hidden_size": "16"'),
        ("{", '{"problem_type": ["a"], '),
        ("{", '{"vision_config": "x", '),
        ('"num_attention_heads": 2', '"num_attention_heads": "two"'),
        ("{", "[" * 100_000),
    ):
        assert old in whole
        (tmp_path / "config.json").write_text(whole.replace(old, new, 1))
        with pytest.raises(ValueError) as raised, open_checkpoint(tmp_path) as checkpoint:
            keras_vit.VisionTransformer(**checkpoint.arguments)
            pytest.fail(f"{new} is accepted")
        assert "\n" not in str(raised.value)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="64 models at most"):
        keys = {f"m{i}.patch_embed.proj.weight": entry([0], 0, 0) for i in range(70)}
        keras_vit.from_pretrained(write_safetensors(tmp_path / "many.safetensors", keys))
