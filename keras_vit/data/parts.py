"""What a source is: images by part, read by index; and how parts that it lacks are held out of its training images."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Part:
    """The training, validation or test images of a source.

    Args:
        size: int. Number of images.
        read: function from indexes, an int64 tensor `(n,)`, to images `(n, rows, columns, 3)` in 0..255 and labels `(n,)`, or
            `(n, classes)` of 0 and 1. It is traced by `tf.data`.
        same_shape: bool. Whether all images have the source's `image_shape`. If not, `read` takes one index, an int64 scalar, and gives
            one image `(rows, columns, 3)` of uint8 and its label.
    """

    size: int
    read: Callable
    same_shape: bool = True


@dataclasses.dataclass(frozen=True)
class Source:
    """Images by part, with the names of their classes: `labels[i]` is an index into `class_names`."""

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    parts: dict[str, Part]


def held_out(parts, labels, fractions):
    """Takes the parts that are missing out of the training part.

    Args:
        parts: dict from "train", and what else there is, to indexes of images.
        labels: array with the labels of all images, or None if they are not known: then the shares of the classes are left to chance.
        fractions: dict from the names of the parts that must be there to their shares of the training images, taken in this order.

    Returns:
        dict with "train", "validation" and "test".
    """
    train = np.asarray(parts["train"])
    train = train[stratified_order(np.zeros(len(train)) if labels is None else np.asarray(labels)[train])]
    taken = {}
    for name, fraction in fractions.items():
        if not 0.0 < fraction < 1.0:
            raise ValueError(f"`{name}_fraction` must lie in (0, 1). Received: {name}_fraction={fraction}")
        if name not in parts:
            count = round(fraction * len(train))
            taken[name], train = train[:count], train[count:]
    everything = {"train": train} | {name: parts.get(name, taken.get(name)) for name in ("validation", "test")}
    if any(len(part) == 0 for part in everything.values()):
        raise ValueError(f"Every part must hold an image. Received: {sum(map(len, parts.values()))} images")
    return everything


def stratified_order(labels, seed=0):
    """Returns a shuffled order of the images of which every stretch holds the classes in the same shares.

    The seed is no run's seed: a test image stays a test image in every run, so that runs can be compared.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    quantiles = np.empty(len(labels))
    for label in np.unique(labels):
        (members,) = np.nonzero(labels[order] == label)
        quantiles[members] = (np.arange(len(members)) + generator.random()) / len(members)
    return order[np.argsort(quantiles, kind="stable")]


def in_memory(images, labels, image_shape):
    """Returns the `Part` of images that fit into memory, `(n, rows, columns, 1 or 3)`. They stay as they are there, and are made RGB, and
    resized to `image_shape` (bicubic), as they are read."""
    images, labels = tf.constant(images), tf.constant(labels, tf.int64 if labels.ndim == 1 else tf.float32)
    given, shrinks = tuple(images.shape[1:3]), any(new < old for new, old in zip(image_shape, images.shape[1:3]))

    def read(indexes):
        chosen = tf.gather(images, indexes)
        if given != tuple(image_shape):
            chosen = tf.clip_by_value(tf.image.resize(chosen, image_shape, method="bicubic", antialias=shrinks), 0.0, 255.0)
        if chosen.shape[-1] == 1:  # a gray image is a colour image: pre-trained weights expect three channels
            chosen = tf.repeat(chosen, 3, axis=-1)
        return chosen, tf.gather(labels, indexes)

    return Part(len(labels), read)
