"""Reads IDX files, the format of MNIST and Fashion-MNIST, and converts Debian's copy of them for TensorFlow Datasets."""

import gzip
import math
import os
import pathlib
import struct
import zlib

import numpy as np

FOLDER = "/usr/share/datasets/fashion-mnist"  # of Debian's package dataset-fashion-mnist

# The times in the gzip headers of the published files, whose checksums TensorFlow Datasets knows.
UPSTREAM_TIMES = {
    "train-images-idx3-ubyte.gz": 1504176606,
    "train-labels-idx1-ubyte.gz": 1504176606,
    "t10k-images-idx3-ubyte.gz": 1504176627,
    "t10k-labels-idx1-ubyte.gz": 1504176627,
}


def read_idx(path):
    """Returns the uint8 array of an IDX file, which may be compressed by gzip.

    Raises:
        ValueError: if the file is missing or damaged, or does not hold unsigned bytes.
    """
    try:
        data = pathlib.Path(path).read_bytes()
        data = gzip.decompress(data) if str(path).endswith(".gz") else data
        zeros, kind, ndim = struct.unpack(">HBB", data[:4])
        shape = struct.unpack(f">{ndim}I", data[4 : 4 + 4 * ndim])
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise ValueError(f"The IDX file is missing or damaged ({error}). Received: {path}") from None
    if zeros != 0 or kind != 8 or len(data) != 4 + 4 * ndim + math.prod(shape):
        raise ValueError(f"An IDX file must hold unsigned bytes, as many as its header says. Received: {path}")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def read_pair(folder, prefix):
    """Returns the images `(n, rows, columns)` and labels `(n,)` of "train" or "t10k"."""

    def read(name):
        path = os.path.join(folder, f"{prefix}-{name}-ubyte")
        return read_idx(path if os.path.exists(path) else path + ".gz")

    images, labels = read("images-idx3"), read("labels-idx1")
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise ValueError(f"There must be one label per image. Received: shapes {images.shape} and {labels.shape} in {folder}")
    return images, labels.astype("int64")


def restore_downloads(output, folder=FOLDER):
    """Restores the published files of Fashion-MNIST from Debian's, so that TensorFlow Datasets accepts them as its downloads.

    Debian's files lack the name and time in the gzip headers, so that their checksums differ. The compressed data are the same.

    Args:
        output: path of an existing folder.
        folder: path of the folder with Debian's files.

    Example:

        import tensorflow_datasets as tfds

        restore_downloads(folder_for_downloads)
        builder = tfds.builder("fashion_mnist", data_dir=data_dir)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder_for_downloads))
    """
    for name, time in UPSTREAM_TIMES.items():
        data = pathlib.Path(folder, name).read_bytes()
        if data[:4] != b"\x1f\x8b\x08\x00":
            raise ValueError(f"The file must be compressed by gzip, without a name in its header. Received: {pathlib.Path(folder, name)}")
        header = b"\x1f\x8b\x08\x08" + struct.pack("<I", time) + data[8:10] + name.removesuffix(".gz").encode() + b"\0"
        pathlib.Path(output, name).write_bytes(header + data[10:])
