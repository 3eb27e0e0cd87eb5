"""A data source: images by split, read by index. Missing splits are held out from the training images."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Split:
    """The training, validation or test images of a source.

    Args:
        size: int. Number of images.
        read: function that takes indices, an int64 tensor `(n,)`, and returns images `(n, rows, columns, 3)` in 0..255, and labels `(n,)`
            or `(n, classes)` of 0 and 1. It is traced by `tf.data`.
        same_shape: bool. Whether all images have the source's `image_shape`. If not, `read` takes one index, an int64 scalar, and returns
            one uint8 image `(rows, columns, 3)` and its label. Defaults to True.
        read_window: function or None. For images of different shapes: takes an index, and a function that maps the image's (rows, columns)
            to a window (top, left, rows, columns). Returns this window of the image and the label, without decoding the rest. Defaults to
            None.
    """

    size: int
    read: Callable
    same_shape: bool = True
    read_window: Callable | None = None

    def read_one(self, index):
        """Returns the image and the label at one index."""
        if not self.same_shape:
            return self.read(index)
        images, labels = self.read(index[None])
        return images[0], labels[0]


@dataclasses.dataclass(frozen=True)
class Source:
    """A data source: its images by split.

    Args:
        class_names: tuple of str. `class_names[i]` is the name of class i.
        image_shape: (rows, columns, 3).
        splits: dict from "train", "validation" and "test" to `Split`. Two may be the same.
        smallest: int or None. If each of several machines reads training files of its own, the number of images of the machine with the
            fewest. Defaults to None.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int | None, int | None, int]
    splits: dict[str, Split]
    smallest: int | None = None


def held_out(splits, labels, fractions):
    """Holds out missing splits from the training images.

    Args:
        splits: dict from "train", and the other existing splits, to indices of images.
        labels: array with the labels of all images, or None if they are unknown. Without labels, splits are not stratified.
        fractions: dict from the names of required splits to their fraction of the training images. Splits are held out in this order.

    Returns:
        dict with "train", "validation" and "test".

    Raises:
        ValueError: if a fraction is out of range or a split would be empty.
    """
    train = np.asarray(splits["train"])
    train = train[stratified_order(np.zeros(len(train)) if labels is None else np.asarray(labels)[train])]
    missing = {name: fraction for name, fraction in fractions.items() if name not in splits}
    if len(train) <= len(missing):
        raise ValueError(
            f"There are too few training images to hold out {' and '.join(missing)} images: at least {len(missing) + 1} are needed. "
            f"Received: {len(train)} training images. Pass more, or a source that has these splits"
        )
    taken = {}
    for name, fraction in fractions.items():
        if not 0.0 < fraction < 1.0:
            raise ValueError(f"`{name}_fraction` must lie in (0, 1). Received: {name}_fraction={fraction}")
        if name in missing:
            count = round(fraction * len(train))
            if not 0 < count < len(train):
                raise ValueError(
                    f"Too {'few' if count == 0 else 'many'} {name} images: {name}_fraction={fraction} of {len(train)} images is {count}. "
                    f"Pass another `{name}_fraction`, at least {1 / len(train):.2g}, or a source with a {name} split"
                )
            taken[name], train = train[:count], train[count:]
    everything = {"train": train} | {name: splits.get(name, taken.get(name)) for name in ("validation", "test")}
    if empty := [name for name, indices in everything.items() if len(indices) == 0]:
        raise ValueError(f"Every split must hold an image. Received: no {empty[0]} images")
    return everything


def stratified_order(labels, seed=0):
    """Returns a shuffled order of the images in which every section has the same class proportions.

    The seed is not that of the run: a test image is a test image in every run, so that runs can be compared.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    quantiles = np.empty(len(labels))
    by_class = np.argsort(labels[order], kind="stable")  # positions in `order`, class by class
    counts = np.unique(labels, return_counts=True)[1]
    for places in np.split(by_class, np.cumsum(counts)[:-1]):
        quantiles[places] = (np.arange(len(places)) + generator.random()) / len(places)
    return order[np.argsort(quantiles, kind="stable")]


def in_memory(images, labels, image_shape):
    """Returns the `Split` of images in memory.

    Images are kept as they are given. They become RGB and are resized to `image_shape` (bicubic) when they are read.

    Args:
        images: array `(n, rows, columns, 1 or 3)`.
        labels: array `(n,)` of ints or `(n, classes)` of 0 and 1.
        image_shape: (rows, columns).
    """
    images, labels = tf.constant(images), tf.constant(labels, tf.int64 if labels.ndim == 1 else tf.float32)
    given, shrinks = tuple(images.shape[1:3]), any(new < old for new, old in zip(image_shape, images.shape[1:3]))

    def read(indices):
        chosen = tf.gather(images, indices)
        if given != tuple(image_shape):
            chosen = tf.clip_by_value(tf.image.resize(chosen, image_shape, method="bicubic", antialias=shrinks), 0.0, 255.0)
        if chosen.shape[-1] == 1:  # pre-trained weights expect three channels
            chosen = tf.repeat(chosen, 3, axis=-1)
        return chosen, tf.gather(labels, indices)

    return Split(len(labels), read)


def of_many_sizes(images, labels):
    """Returns the `Split` of images of different sizes in memory.

    Args:
        images: array `(n,)` of arrays `(rows, columns, 1 or 3)` of values in 0..255.
        labels: array `(n,)` of ints or `(n, classes)` of 0 and 1.
    """
    images = [np.rint(np.broadcast_to(image, (*image.shape[:2], 3))).astype("uint8") for image in images]
    labels = tf.constant(labels, tf.int64 if labels.ndim == 1 else tf.float32)

    def read(index):
        image = tf.numpy_function(lambda index: images[index], [index], tf.uint8, stateful=False)
        return tf.ensure_shape(image, (None, None, 3)), labels[index]

    return Split(len(images), read, same_shape=False)
