"""Images without classes, such as a collection of photographs: the files of a folder, or a list of files."""

import concurrent.futures
import os
import zlib
from typing import NamedTuple

import numpy as np

from keras_vit.backbone import find_vision_transformer
from keras_vit.data.preprocessing import evaluation_transform, printable, read_image
from keras_vit.layers import checks
from keras_vit.messages import say


class Unlabeled(NamedTuple):
    """Image files in a fixed order.

    Args:
        folder: str. Absolute path of the folder that the names are relative to; "" if they are absolute.
        names: list of str.
    """

    folder: str
    names: list[str]


def find_images(source):
    """Returns the `Unlabeled` images of a folder, at any depth and without hidden files, or of a list of paths.

    Raises:
        ValueError: if a file or the folder does not exist, or there is no image file.
    """
    if isinstance(source, (list, tuple)):
        if not all(isinstance(path, (str, bytes, os.PathLike)) for path in source):
            raise ValueError("`data` must be a `keras_vit.data.Data`, a folder or a list of paths. Received: a list of other things")
        found = Unlabeled("", [os.path.abspath(os.fsdecode(path)) for path in source])
        if missing := [name for name in found.names if not os.path.isfile(name)]:
            raise ValueError(f"No such image file. Received: {printable(missing[0])}")
    else:
        found = _files_of(source)
    if not found.names:
        raise ValueError(f"There must be an image to embed. Received: no image file{found.folder and f' in {printable(found.folder)}'}")
    return found


def has_no_classes(folder):
    """Returns whether a folder holds images, and no folder in it does."""
    from keras_vit.data.sources.listing import list_files, subfolders

    if not os.path.isdir(folder):
        return False
    folder = os.path.abspath(os.fsencode(folder))
    if any(list_files(os.path.join(folder, name)).names for name in subfolders(folder)):
        return False
    return bool(list_files(folder).names)


def fingerprint_of_files(images):
    """Returns the number of files, and a checksum of their names, sizes and times of change."""
    value = 0
    for name in images.names:
        status = os.stat(os.path.join(images.folder, name))
        value = zlib.crc32(os.fsencode(f"{name}\0{status.st_size}\0{status.st_mtime_ns}"), value)
    return {"count": len(images.names), "crc32": value}


def transform_of(model, image_size=None):
    """Returns the `evaluation_transform` of a model, to images of a size.

    Args:
        model: a `keras_vit.VisionTransformer`, or a model that contains one.
        image_size: int, (rows, columns) or None. For a model that takes any size. None takes that of its preprocessing.

    Raises:
        ValueError: if the model takes images of another size.
    """
    vit = find_vision_transformer(model)
    if image_size is not None:
        sides, own = checks.positive_pair("image_size", image_size), vit.config.image_size
        if any(mine not in (None, side) for mine, side in zip(own, sides)):
            raise ValueError(f"`image_size` must be that of the model, {own}. Received: image_size={image_size}")
        if None in own:
            vit = vit.adapt(input_shape=(*sides, vit.config.channels))
    return evaluation_transform(vit)


def batches_of_files(images, transform, batch_size, first=0, strict=False):
    """Yields the batches of `Unlabeled` images from a number on. Files that cannot be read are named and skipped.

    Args:
        images: `Unlabeled`.
        transform: function from a path to an image as the model takes it.
        batch_size: int.
        first: int. Number of the first batch.
        strict: bool. Whether a file that cannot be read is an error.

    Yields:
        A list of images, and a dict of the arrays `names`, `splits` and `indices`.
    """

    def read(number):
        try:
            return number, transform(os.path.join(images.folder, images.names[number]))
        except ValueError as error:
            if strict:
                raise
            say(f"Skipped: {error}")
            return number, None

    def finished(reading):
        found = [(number, image) for number, image in reading if image is not None]
        numbers = np.array([number for number, _ in found], np.int64)
        names = np.array([images.names[number] for number in numbers], str)
        return [image for _, image in found], {"names": names, "splits": np.full(len(found), "all"), "indices": numbers}

    with concurrent.futures.ThreadPoolExecutor() as pool:
        ahead = None  # a batch is read while the one before it is computed
        for start in range(first * batch_size, len(images.names), batch_size):
            reading = pool.map(read, range(start, min(start + batch_size, len(images.names))))
            if ahead is not None:
                yield finished(ahead)
            ahead = reading
        if ahead is not None:
            yield finished(ahead)


def read_files(folder, names):
    """Returns images as arrays `(rows, columns, 3)` of uint8."""
    return [np.asarray(read_image(os.path.join(folder, name))) for name in names]


def _files_of(folder):
    from keras_vit.data.sources.listing import list_files  # needs TensorFlow, as all data sources do

    folder = os.path.abspath(os.path.expanduser(os.fsdecode(folder)))
    if not os.path.isdir(folder):
        raise ValueError(f"No such folder of images. Received: {printable(folder)}")
    found = list_files(os.fsencode(folder))
    for path, reason in found.troubles:
        say(f"Skipped: {reason}: {printable(path)}")
    for suffix, (number, first) in sorted(found.unread.items()):
        say(f"Not read: {number} files {f'of the kind {printable(suffix)}' if suffix else 'without a suffix'}, such as {printable(first)}")
    return Unlabeled(folder, [os.fsdecode(name) for name in found.names.split(b"\0")[:-1]])
