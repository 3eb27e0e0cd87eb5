"""Reads data sets of TensorFlow Datasets by index."""

import os
import pathlib
import socket
from typing import Any

import numpy as np
import tensorflow as tf

from keras_vit.data.sources.source import Source, Split, held_out
from keras_vit.layers import checks

IN_MEMORY = 4 * 2**30  # bytes of encoded images


def tfds(
    name: str,
    data_dir: str | None = None,
    train: str = "train",
    validation: str | None = None,
    test: str | None = None,
    image: str | None = None,
    label: str | None = None,
    image_size: int | tuple[int, int] = 224,
    download: bool = False,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    part: tuple[int, int] | None = None,
) -> Source:
    """Reads a classification data set of TensorFlow Datasets.

    Images stay encoded until they are used. Data sets in the format array_record are read from disk by index. Other formats can only be
    read in order: these data sets are read into memory once.

    Args:
        name: `NAME` or `NAME/config`, with `:version` if several versions are prepared.
        data_dir: path of the folder with prepared data sets. Defaults to `TFDS_DATA_DIR` or `~/tensorflow_datasets`.
        train: the training split, such as `"train"`, `"train[:10%]"` or `"train+validation"`. Defaults to "train".
        validation: the validation split. Defaults to `"validation"` or, without one, to held-out training images.
        test: the test split. Defaults to `"test"`, if it has labels, then to the validation split, then to held-out training images.
        image: name of the feature with the images. Defaults to that of `as_supervised`, or to the only one.
        label: name of the feature with the labels. Defaults to that of `as_supervised`, or to the only one.
        image_size: int or (rows, columns). Size that images are resized to. Defaults to 224.
        download: bool. Whether to download and prepare a data set that is not prepared. Defaults to False.
        validation_fraction: float in (0, 1). Share of held-out validation images among the images that are not test images, stratified by
            class if the data set is in memory. Defaults to 0.1.
        test_fraction: float in (0, 1). Share of held-out test images among the training images. Defaults to 0.2.
        part: (index, count) or None. Which of `count` equal sections of the training images to read. Files without images of this section
            are not opened. Set by `load(shard_by="files")`.

    Returns:
        A `Source`.

    Raises:
        ValueError: if the data set is not prepared or too large for memory, or a split or a feature does not exist.
        ImportError: if tensorflow-datasets is not installed.
    """
    image_shape = checks.positive_pair("image_size", image_size)
    builder = prepared(name, data_dir, download)
    image, label = features(builder, image, label)
    known = builder.info.splits
    splits = {"train": train, "validation": validation or ("validation" if "validation" in known else None), "test": test}
    if test is None and "test" in known and name.split("/")[0].split(":")[0] != "imagenet2012":  # its test images have no labels
        splits["test"] = "test"
    splits = {ours: theirs for ours, theirs in splits.items() if theirs is not None}
    if "validation" in splits:
        splits.setdefault("test", splits["validation"])
    try:
        sizes = {ours: known[theirs].num_examples for ours, theirs in splits.items()}
    except (KeyError, ValueError) as error:
        raise ValueError(f"A split must be one of {', '.join(known)}, or a slice or a sum of them ({error}). Received: {splits}") from None
    if part:
        if "validation" not in splits:
            raise ValueError(f"`shard_by='files'` needs a validation split. Received: {name} with {', '.join(known)}")
        import tensorflow_datasets

        stretches = tensorflow_datasets.even_splits(train, part[1], drop_remainder=True)  # of equal sizes
        splits["train"] = stretches[part[0]]
        sizes["train"] = known[splits["train"]].num_examples
    by_index = str(getattr(builder.info.file_format, "value", builder.info.file_format)) == "array_record"
    if not by_index and sum(known[split].num_bytes for split in splits.values()) > IN_MEMORY:
        raise ValueError(
            "A data set of more than 4 GiB must be in a format that can be read by index: prepare it with "
            f"`tfds build {name} --file_format=array_record`. Received: {name} in {builder.data_dir}"
        )
    encoded = {ours: (from_disk if by_index else from_memory)(builder, theirs, image, label) for ours, theirs in splits.items()}
    readers = {name: reader for name, (reader, _) in encoded.items()}
    places = {name: np.arange(size) for name, size in sizes.items()}
    fractions = {"test": test_fraction, "validation": validation_fraction}
    orders = held_out(places, encoded["train"][1], fractions)

    def read_by_index(name):
        reader, indices = readers.get(name, readers["train"]), tf.constant(orders[name], tf.int64)

        def read(index):
            encoded_image, label = reader(indices[index])
            pixels = tf.io.decode_image(encoded_image, channels=3, expand_animations=False)
            pixels.set_shape((None, None, 3))
            return pixels, label

        return Split(len(orders[name]), read, same_shape=False)

    names = tuple(builder.info.features[label].names)
    return Source(names, (*image_shape, 3), {name: read_by_index(name) for name in orders})


def from_memory(builder, split: str, image: Any, label):
    """Returns a function that maps an index to an encoded image and its label, and an array of all labels."""
    import tensorflow_datasets

    decoders = {image: tensorflow_datasets.decode.SkipDecoding()}
    dataset = builder.as_dataset(split=split, decoders=decoders, shuffle_files=False)
    rows = [(row[image], row[label]) for row in dataset.as_numpy_iterator()]
    images, labels = tf.constant([row[0] for row in rows]), tf.constant([row[1] for row in rows], tf.int64)
    return lambda index: (images[index], labels[index]), labels.numpy()


def from_disk(builder, split: str, image: Any, label):
    """Returns a function as `from_memory` does, but one that reads from disk, and None instead of the labels."""
    import tensorflow_datasets

    source = builder.as_data_source(split=split, decoders={image: tensorflow_datasets.decode.SkipDecoding()})

    def read(index):
        row = source[int(index)]
        return row[image], np.int64(row[label])

    def reader(index):
        encoded, label = tf.numpy_function(read, [index], (tf.string, tf.int64), stateful=False)
        return tf.ensure_shape(encoded, ()), tf.ensure_shape(label, ())

    return reader, None


def features(builder, image: Any, label):
    """Returns the names of the features with the images and with the labels."""
    import tensorflow_datasets

    kinds = {"image": tensorflow_datasets.features.Image, "label": tensorflow_datasets.features.ClassLabel}
    supervised = builder.info.supervised_keys or (None, None)
    chosen = []
    for (argument, kind), given, usual in zip(kinds.items(), (image, label), supervised):
        candidates = [name for name, feature in builder.info.features.items() if isinstance(feature, kind)]
        name = given or (usual if usual in candidates else candidates[0] if len(candidates) == 1 else None)
        if name not in candidates:
            raise ValueError(f"`{argument}` must name a feature, one of: {', '.join(candidates) or 'none'}. Received: {argument}={given!r}")
        chosen.append(name)
    return chosen


def find_prepared(name: str, data_dir=None):
    """Returns the folder of the newest prepared version of a data set, or None."""
    name, _, version = name.partition(":")
    root = pathlib.Path(data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser() / name
    found = [file.parent for file in root.glob(f"{version or '*'}/dataset_info.json")]
    if not found and "/" not in name:  # a data set with configs has them between name and version
        found = [file.parent for file in root.glob(f"*/{version or '*'}/dataset_info.json")]
        configs = sorted({folder.parent.name for folder in found})
        if len(configs) > 1:
            raise ValueError(f"`{name}` has several configs: {', '.join(f'{name}/{config}' for config in configs)}. Received: tfds:{name}")
    return max(found, key=lambda folder: [int(number) if number.isdigit() else 0 for number in folder.name.split(".")], default=None)


def prepared(name: str, data_dir, download):
    """Returns the builder of a prepared data set. Unlike `tfds.load`, it does not try the network for minutes before it fails."""
    try:
        import importlib_resources  # noqa: F401  tensorflow-datasets needs it but does not declare it
        import tensorflow_datasets
    except ImportError:
        raise ImportError("Data sets of TensorFlow Datasets need: pip install tensorflow-datasets importlib_resources") from None
    folder = find_prepared(name, data_dir)
    if folder is not None:
        return tensorflow_datasets.builder_from_directory(folder)
    where = data_dir or os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    if not download:
        raise ValueError(
            f"The data set must be prepared: run `tfds build {name} --data_dir={where}`, or pass download=True. Received: tfds:{name}, "
            f"which is not in {where}"
        )
    if not reachable():
        raise ValueError(f"Downloading a data set needs a network connection. Received: tfds:{name}, which is not in {where}")
    builder = tensorflow_datasets.builder(name, data_dir=data_dir)
    builder.download_and_prepare()
    return builder


def reachable(host: str = "storage.googleapis.com", port: int = 443, timeout: float = 3.0) -> bool:
    """Returns whether the host of TensorFlow Datasets can be reached. Behind a proxy the result is always True."""
    if any(os.environ.get(name) for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")):
        return True
    try:
        socket.create_connection((host, port), timeout).close()
        return True
    except OSError:
        return False
