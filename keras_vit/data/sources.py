"""Where images come from: one function a source, one row of `SOURCES` for those that have a name."""

import os

import numpy as np

from keras_vit.data import idx
from keras_vit.data.parts import Source, held_out, in_memory
from keras_vit.data.tfds import find_prepared, tfds
from keras_vit.layers import checks
from keras_vit.names import Table


def arrays(images, labels, class_names=None, image_size=None, validation_fraction=0.1, test_fraction=0.2):
    """Splits arrays into parts: first the test images, then the validation images out of the rest, both stratified by class.

    Args:
        images: array `(n, rows, columns)` or `(n, rows, columns, channels)` with 1 or 3 channels and values in 0..255.
        labels: array `(n,)` of ints from 0; or `(n, classes)` of 0 and 1, where an image may be of several classes or none.
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
    several = labels.ndim == 2
    if labels.shape[:1] != images.shape[:1] or labels.ndim > 2:
        raise ValueError(f"`labels` must hold one label an image. Received: {len(images)} images, labels of shape {labels.shape}")
    if several and not np.isin(labels, (0, 1)).all():
        raise ValueError(f"`labels` of shape (n, classes) must be 0 or 1. Received: values from {labels.min()} to {labels.max()}")
    if not several and (not np.issubdtype(labels.dtype, np.integer) or len(labels) == 0 or labels.min() < 0):
        raise ValueError(f"`labels` must be ints from 0. Received: labels of type {labels.dtype}")
    known = labels.shape[1] if several else labels.max() + 1
    class_names = tuple(class_names or map(str, range(known)))
    if known > len(class_names) or (several and known < len(class_names)):
        largest = f"{known} classes" if several else f"largest label {known - 1}"
        raise ValueError(f"`class_names` must name every label. Received: {len(class_names)} names, {largest}")
    strata = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1) if several else labels
    image_shape = images.shape[1:3] if image_size is None else checks.positive_pair("image_size", image_size)
    parts = {"train": np.arange(len(labels))}
    parts = held_out(parts, strata, {"test": test_fraction, "validation": validation_fraction})
    return Source(
        class_names,
        (*image_shape, 3),
        {name: in_memory(images[order], labels[order], image_shape) for name, order in parts.items()},
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


def fashion_mnist(folder=idx.FOLDER, image_size=28, validation_fraction=0.1):
    """The 70,000 pictures of clothes (28x28, gray) of Fashion-MNIST, 10,000 of them for the test.

    Args:
        folder: path of the folder with the four IDX files; default: where Debian's package dataset-fashion-mnist puts them. If they are
            not there, TensorFlow Datasets' copy is taken, if it has been prepared.
        image_size: int or (rows, columns) to resize to.
        validation_fraction: float in (0, 1). Share of the training images, stratified by class.

    Reference:
        Xiao et al., "Fashion-MNIST", 2017.
    """
    if not os.path.isdir(folder):
        if folder == idx.FOLDER and find_prepared("fashion_mnist"):
            return tfds("fashion_mnist", image_size=image_size, validation_fraction=validation_fraction)
        raise ValueError(
            "The files of Fashion-MNIST must be there: `apt-get install dataset-fashion-mnist`, or `tfds build fashion_mnist`. "
            f"Received: folder={folder}"
        )
    images, labels = zip(*(idx.read_pair(folder, prefix) for prefix in ("train", "t10k")))
    train, test = map(len, labels)
    images, labels = np.concatenate(images)[..., None], np.concatenate(labels)
    image_shape = checks.positive_pair("image_size", image_size)
    parts = {"train": np.arange(train), "test": np.arange(train, train + test)}
    parts = held_out(parts, labels, {"validation": validation_fraction})
    return Source(
        FASHION_MNIST, (*image_shape, 3), {name: in_memory(images[order], labels[order], image_shape) for name, order in parts.items()}
    )


FASHION_MNIST = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
SOURCES = Table(
    "data source",
    {
        "digits": digits,
        "fashion_mnist": fashion_mnist,
    },
)
