import gzip
import struct

import numpy as np
import pytest

from keras_vit.data import load
from keras_vit.data.sources.idx import read_idx, restore_downloads


def write(path, array, packed=True):
    data = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data, mtime=0) if packed else data)


@pytest.fixture
def clothes(tmp_path):
    generator = np.random.default_rng(0)
    for prefix, count in (("train", 60), ("t10k", 20)):
        write(tmp_path / f"{prefix}-images-idx3-ubyte.gz", generator.integers(0, 256, (count, 28, 28)).astype("uint8"))
        write(tmp_path / f"{prefix}-labels-idx1-ubyte.gz", (np.arange(count) % 10).astype("uint8"))
    return tmp_path


def test_arrays_are_read_back(tmp_path):
    array = np.arange(24, dtype="uint8").reshape(2, 3, 4)
    for name, packed in (("a.gz", True), ("a", False)):
        write(tmp_path / name, array, packed)
        np.testing.assert_array_equal(read_idx(tmp_path / name), array)


@pytest.mark.parametrize("damage", [lambda data: data[:30], lambda data: b"nothing", lambda data: data[:-10]])
def test_damaged_files_are_named(tmp_path, damage):
    write(tmp_path / "a.gz", np.arange(240, dtype="uint8"))
    (tmp_path / "a.gz").write_bytes(damage((tmp_path / "a.gz").read_bytes()))
    with pytest.raises(ValueError, match="a.gz"):
        read_idx(tmp_path / "a.gz")
    write(tmp_path / "b", np.arange(240, dtype="uint8"), packed=False)
    (tmp_path / "b").write_bytes((tmp_path / "b").read_bytes()[:-1])
    with pytest.raises(ValueError, match="as many as its header says"):
        read_idx(tmp_path / "b")


def test_fashion_mnist(clothes):
    data = load("fashion_mnist", batch_size=8, folder=clothes, image_size=32)
    assert data.sizes == {"train": 54, "validation": 6, "test": 20}
    assert data.class_names[0] == "T-shirt/top" and len(data.class_names) == 10
    images, labels = next(iter(data.train))
    assert images.shape == (8, 32, 32, 3) and labels.shape == (8,)
    tests = np.concatenate([labels for _, labels in data.test])
    np.testing.assert_array_equal(tests, np.arange(20) % 10)


def test_fashion_mnist_that_is_not_there_says_how_to_get_it(tmp_path):
    with pytest.raises(ValueError, match="apt-get install dataset-fashion-mnist"):
        load("fashion_mnist", folder=tmp_path / "none")


def test_downloads_are_restored_with_name_and_time(clothes, tmp_path_factory):
    output = tmp_path_factory.mktemp("downloads")
    restore_downloads(output, clothes)
    data = (output / "t10k-labels-idx1-ubyte.gz").read_bytes()
    assert data[:8] == b"\x1f\x8b\x08\x08" + struct.pack("<I", 1504176627)
    assert data[10:].startswith(b"t10k-labels-idx1-ubyte\0")
    np.testing.assert_array_equal(read_idx(output / "t10k-labels-idx1-ubyte.gz"), np.arange(20) % 10)
