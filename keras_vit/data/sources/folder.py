"""A folder of images, one subfolder a class."""

import collections
import concurrent.futures
import logging
import os
import pathlib

import numpy as np
import tensorflow as tf

from keras_vit.data.preprocessing import read_image
from keras_vit.data.sources.source import Source, Split, held_out
from keras_vit.layers import checks

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
PARTS = {"train": ("train", "training"), "validation": ("val", "valid", "validation"), "test": ("test",)}
EXIF_ORIENTATION = 0x0112


def folder(path, image_size=224, strict=False, validation_fraction=0.1, test_fraction=0.2):
    """Reads a folder with one subfolder of images a class, or with subfolders `train`, `val` and `test` of that form.

    A part that is missing is held out of the training images, stratified by class; but where there is a `val` and no `test`, `val` is
    both. JPEG, PNG, WebP, BMP and GIF (its first frame) are read; gray images, palettes and CMYK become RGB, transparency is left out, and
    photographs are turned upright.

    Args:
        path: path of the folder.
        image_size: int or (rows, columns) to bring images to.
        strict: bool. Every file is decoded once at the beginning. False: those that cannot be read are named in the log and skipped.
            True: the first of them is an error.
        validation_fraction: float in (0, 1). Share of the images that are not test images.
        test_fraction: float in (0, 1).

    Returns:
        A `Source`.

    Raises:
        ValueError: if the folder holds no images of that form; or, if `strict`, if a file is damaged.
        ImportError: if Pillow is not installed.
    """
    path, image_shape = pathlib.Path(path), checks.positive_pair("image_size", image_size)
    if not path.is_dir():
        raise ValueError(f"A folder of images must exist. Received: {path}")
    roots = {part: path / name for part, names in PARTS.items() for name in names if (path / name).is_dir()}
    if "train" not in roots:
        roots = {"train": path}
    class_names = sorted(entry.name for entry in roots["train"].iterdir() if entry.is_dir() and not entry.name.startswith("."))
    strangers = sorted(
        {entry.name for root in roots.values() for entry in root.iterdir() if entry.is_dir() and entry.name[0] != "."} - {*class_names}
    )
    if len(class_names) < 2 or strangers:
        raise ValueError(
            f"A folder of images must hold a subfolder for each of two or more classes, the same in every part. Received: {path} with "
            f"{len(class_names)} classes" + (f", and {', '.join(strangers)} in other parts only" if strangers else "")
        )
    found = [(part, label, file) for part in roots for label, name in enumerate(class_names) for file in files(roots[part] / name)]
    plain = check([file for _, _, file in found], strict)
    found, plain = [row for row, kind in zip(found, plain) if kind is not None], [kind for kind in plain if kind is not None]
    parts = {part: [i for i, row in enumerate(found) if row[0] == part] for part in roots}
    labels = np.array([label for _, label, _ in found], "int64")
    empty = [part for part, indices in parts.items() if not indices]
    if empty:
        raise ValueError(f"Every part must hold an image ({', '.join(SUFFIXES)}). Received: none in {roots[empty[0]]}")
    if "validation" in parts and "test" not in parts:
        parts["test"] = parts["validation"]
    parts = held_out(parts, labels, {"test": test_fraction, "validation": validation_fraction})
    paths, labels, plain = tf.constant([str(file) for _, _, file in found]), tf.constant(labels), tf.constant(plain)

    def part(indices):
        indices = tf.constant(indices, tf.int64)

        def read(index):
            index = indices[index]
            return decode(paths[index], plain[index]), labels[index]

        return Split(len(indices), read, same_shape=False)

    made = {id(indices): part(indices) for indices in parts.values()}  # where `val` is both, both are one
    return Source(tuple(class_names), (*image_shape, 3), {name: made[id(indices)] for name, indices in parts.items()})


def files(root):
    """Returns the images under a folder, always in the same order."""
    return sorted(file for file in root.rglob("*") if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))


def check(paths, strict=False):
    """Decodes every file once.

    Returns:
        list, one entry a file: whether TensorFlow decodes it as Pillow does; None if it cannot be decoded.
    """

    def kind(path):
        from PIL import Image

        try:
            read_image(path)
            with Image.open(path) as image:
                upright = image.getexif().get(EXIF_ORIENTATION, 1) == 1
                return upright and (
                    (image.format == "JPEG" and image.mode in ("RGB", "L")) or (image.format == "PNG" and image.mode == "RGB")
                )
        except ValueError as error:
            if strict:
                raise
            return error

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside Python's lock
        kinds = list(pool.map(kind, paths))
    errors = [error for error in kinds if isinstance(error, ValueError)]
    for error in errors:
        logging.getLogger(__name__).warning("Skipped: %s", error)
    if errors:
        counts = collections.Counter(str(path.parent) for path, error in zip(paths, kinds) if isinstance(error, ValueError))
        places = ", ".join(f"{count} in {place}" for place, count in sorted(counts.items()))
        logging.getLogger(__name__).warning("Skipped %d of %d files that cannot be read: %s", len(errors), len(paths), places)
    return [None if isinstance(answer, ValueError) else answer for answer in kinds]


def decode(path, plain):
    """Returns the image in a file, as uint8 `(rows, columns, 3)`: by TensorFlow if it is `plain`, else by Pillow."""

    def by_tensorflow():
        # The accurate transform is Pillow's: TensorFlow's default is up to some levels away from it.
        return tf.image.decode_jpeg(tf.io.read_file(path), channels=3, dct_method="INTEGER_ACCURATE")

    def by_pillow():
        return tf.numpy_function(lambda path: np.array(read_image(np.asarray(path).item().decode())), [path], tf.uint8, stateful=False)

    image = tf.cond(plain, by_tensorflow, by_pillow)
    image.set_shape((None, None, 3))
    return image
