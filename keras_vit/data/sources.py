"""Where images come from: one function a source, one row of `SOURCES` each."""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Part:
    """The training, validation or test images of a source.

    Args:
        size: int. Number of images.
        read: function from indexes, an int64 tensor `(n,)`, to images `(n, rows, columns, 3)` in 0..255 and labels `(n,)`. It is
            traced by `tf.data`, and all images of a part have one shape.
    """

    size: int
    read: Callable


@dataclasses.dataclass(frozen=True)
class Source:
    """Images by part, with the names of their classes: `labels[i]` is an index into `class_names`."""

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    parts: dict[str, Part]


def arrays(images, labels, class_names=None, image_size=None, validation_fraction=0.1, test_fraction=0.2):
    """Splits arrays into parts: first the test images, then the validation images out of the rest, both stratified by class.

    Args:
        images: array `(n, rows, columns)` or `(n, rows, columns, channels)` with 1 or 3 channels and values in 0..255.
        labels: array `(n,)` of ints from 0.
        class_names: sequence of str, or None for the numbers themselves.
        image_size: int or (rows, columns) to resize to (bicubic), or None to leave the images as they are.
        validation_fraction: float in (0, 1). Share of the images that are not test images.
        test_fraction: float in (0, 1).

    Returns:
        A `Source`.

    Raises:
        ValueError: if shapes, labels or fractions are not as said above.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"`images` must have the shape (n, rows, columns) or (n, rows, columns, 1 or 3). Received: shape {images.shape}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"`labels` must hold one label an image. Received: {len(images)} images, labels of shape {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer) or len(labels) == 0 or labels.min() < 0:
        raise ValueError(f"`labels` must be ints from 0. Received: labels of type {labels.dtype}")
    class_names = tuple(class_names or map(str, range(labels.max() + 1)))
    if labels.max() >= len(class_names):
        raise ValueError(f"`class_names` must name every label. Received: {len(class_names)} names, largest label {labels.max()}")
    for name, fraction in (("validation_fraction", validation_fraction), ("test_fraction", test_fraction)):
        if not 0.0 < fraction < 1.0:
            raise ValueError(f"`{name}` must lie in (0, 1). Received: {name}={fraction}")

    if image_size is not None:
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"`image_size` must be one or two numbers of pixels. Received: image_size={image_size}")
        if size != images.shape[1:3]:
            images = tf.clip_by_value(tf.image.resize(images, size, method="bicubic"), 0.0, 255.0).numpy()
    images = np.broadcast_to(images, (*images.shape[:3], 3))  # a gray image is a colour image: pre-trained weights expect three channels

    order = stratified_order(labels)
    num_test = round(test_fraction * len(order))
    num_held_out = num_test + round(validation_fraction * (len(order) - num_test))
    if not 0 < num_test < num_held_out < len(order):
        raise ValueError(f"Every part must hold an image. Received: {len(order)} images")
    test, validation, train = np.split(order, [num_test, num_held_out])
    return Source(
        class_names,
        images.shape[1:],
        {
            "train": in_memory(images[train], labels[train]),
            "validation": in_memory(images[validation], labels[validation]),
            "test": in_memory(images[test], labels[test]),
        },
    )


def digits(image_size=16):
    """The 1,797 handwritten digits that come with scikit-learn (8x8 pixels), enlarged to `image_size`.

    Reference:
        Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError('The data source "digits" needs scikit-learn: pip install scikit-learn') from None
    bunch = load_digits()
    return arrays(bunch.images * (255.0 / 16.0), bunch.target, image_size=image_size)


SOURCES = {
    "digits": digits,
}


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


def in_memory(images, labels):
    """Returns the `Part` of images that fit into memory."""
    images, labels = tf.constant(images), tf.constant(labels, tf.int64)
    return Part(len(images), lambda indexes: (tf.gather(images, indexes), tf.gather(labels, indexes)))
