"""The data source of images and labels in arrays."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_vit.data.sources.source import Source, held_out, in_memory, of_many_sizes
from keras_vit.layers import checks

log = logging.getLogger("keras_vit")


def arrays(
    images,
    labels,
    validation: tuple | None = None,
    test: tuple | None = None,
    class_names: Sequence[str] | None = None,
    image_size: int | tuple[int, int] | None = None,
    multi_label: bool | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
) -> Source:
    """Returns a source of images and labels in arrays.

    Splits that are not given are held out: test images first, then validation images, both stratified by class.

    Args:
        images: array `(n, rows, columns)` or `(n, rows, columns, channels)` with 1 or 3 channels and values in 0..255; or a list of
            images, which may have different sizes.
        labels: array or list. Class indices from 0, `(n,)` or `(n, 1)`; class names, `(n,)` of str or bool; or `(n, classes)` of 0 and 1,
            with any number of ones in a row. If each row holds exactly one 1, they are taken for one-hot class indices.
        validation: tuple (images, labels) or None. The validation images, in the same form. Defaults to None, held out.
        test: tuple (images, labels) or None. The test images, in the same form. Defaults to None, held out.
        class_names: sequence of str in the order of the class indices. Defaults to None: the names among the labels, sorted, or the class
            numbers.
        image_size: int or (rows, columns) to resize to (bicubic). None leaves the images as they are; images of different sizes are then
            resized to 224 x 224 where one size is needed. Defaults to None.
        multi_label: bool or None. Whether an image may have several classes. Defaults to None: inferred from `labels` of shape
            `(n, classes)`.
        validation_fraction: float in (0, 1). Share of validation images among the images that are not test images. Defaults to 0.1.
        test_fraction: float in (0, 1). Share of test images among all images. Defaults to 0.2.

    Returns:
        A `Source`.

    Raises:
        ValueError: if shapes, pixels, labels or fractions are not as described above.
    """
    given = {"train": (images, labels), "validation": validation, "test": test}
    given = {name: pair for name, pair in given.items() if pair is not None}
    for name, pair in given.items():
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"`{name}` must be a tuple (images, labels). Received: {name} of type {type(pair).__name__}")
    columns = {name: (read_images(pair[0]), label_array(pair[1])) for name, pair in given.items()}
    for name, (images, labels) in columns.items():
        if len(images) != len(labels):
            raise ValueError(f"There must be one label per image. Received: {len(images)} {name} images, labels of shape {labels.shape}")
    if len({(images.shape[1:], labels.shape[1:]) for images, labels in columns.values()}) > 1:
        shapes = ", ".join(f"{name} {images.shape} and {labels.shape}" for name, (images, labels) in columns.items())
        raise ValueError(f"Images and labels of all splits must have the same form. Received: images and labels of shapes {shapes}")
    places = np.cumsum([0, *(len(images) for images, _ in columns.values())])
    splits = {name: np.arange(begin, end) for name, begin, end in zip(columns, places, places[1:])}
    images, labels = (np.concatenate(column) if len(columns) > 1 else column[0] for column in zip(*columns.values()))
    labels, class_names = read_labels(labels, class_names, multi_label)
    strata = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1) if labels.ndim == 2 else labels
    one_size = images.ndim == 4
    own = images.shape[1:3] if one_size else (224, 224)
    rows, columns = own if image_size is None else checks.positive_pair("image_size", image_size)
    splits = held_out(splits, strata, {"test": test_fraction, "validation": validation_fraction})
    make = (lambda images, labels: in_memory(images, labels, (rows, columns))) if one_size else of_many_sizes
    made = {name: make(images[order], labels[order]) for name, order in splits.items()}
    return Source(class_names, (rows, columns, 3), made)


def read_images(images: Any):
    """Returns images as an array `(n, rows, columns, 1 or 3)` of values in 0..255. Images of different sizes give an array of arrays."""
    try:
        images = np.asarray(images)
    except ValueError:  # NumPy's error for arrays of different shapes
        each = np.empty(len(images), object)
        each[:] = [read_images(np.asarray(image)[None])[0] for image in images]
        return each
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype.kind not in "uifb":
        odd = checks.odd_layout(images.shape)
        raise ValueError(
            "`images` must be numbers of the shape (n, rows, columns) or (n, rows, columns, 1 or 3). "
            f"Received: {images.dtype} of shape {images.shape}" + (f", {odd}" if odd else "")
        )
    if odd := checks.odd_pixels(images):
        raise ValueError(f"`images` must hold values from 0 to 255. Received: {odd}")
    return images.astype("uint8") if images.dtype == bool else images


def label_array(labels: Any) -> np.ndarray:
    try:
        labels = np.asarray(labels)
    except ValueError:
        raise ValueError(
            "`labels` must be one class per image, or rows (n, classes) of 0 and 1 if an image may have several. "
            "Received: lists of unequal length"
        ) from None
    if labels.ndim not in (1, 2):
        raise ValueError(f"`labels` must have the shape (n,), (n, 1) or (n, classes). Received: shape {labels.shape}")
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def read_labels(labels: Any, class_names: Sequence[str] | None = None, multi_label=None):
    """Returns labels as class indices `(n,)`, or as `(n, classes)` of 0 and 1, and the names of the classes."""
    several = labels.ndim == 2
    if multi_label and not several:
        raise ValueError(f"`labels` must be (n, classes) of 0 and 1 with multi_label=True. Received: labels of shape {labels.shape}")
    if labels.dtype.kind in "USb" or (labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels.flat)):
        if several:
            raise ValueError(f"`labels` must be one class name per image, or numbers. Received: {labels.dtype} of shape {labels.shape}")
        labels, class_names = indices_of(labels.astype(str), class_names)
    if several and not (labels.dtype.kind in "uif" and np.isin(labels, (0, 1)).all()):
        seen = f"values from {labels.min()} to {labels.max()}" if labels.size and labels.dtype.kind in "uif" else f"type {labels.dtype}"
        raise ValueError(f"`labels` of shape (n, classes) must be 0 or 1. Received: {seen}")
    if not several and (not np.issubdtype(labels.dtype, np.integer) or len(labels) == 0 or labels.min() < 0):
        seen = f"labels of type {labels.dtype}" + (f" from {labels.min()}" if labels.dtype.kind in "if" and len(labels) else "")
        cast = ". If they are whole numbers, pass labels.astype(int)" if labels.dtype.kind == "f" else ""
        raise ValueError(f"`labels` must be ints from 0, or class names. Received: {seen}{cast}")
    known = labels.shape[1] if several else int(labels.max()) + 1
    class_names = tuple(map(str, range(known) if class_names is None else class_names))
    if known > len(class_names) or (several and known < len(class_names)):
        largest = f"{known} classes" if several else f"largest label {known - 1}"
        raise ValueError(f"`class_names` must name every label. Received: {len(class_names)} names, {largest}")
    if several and multi_label is not True and (multi_label is False or known > 1) and (labels.sum(axis=1) == 1).all():
        if multi_label is None:
            log.warning("Each row of labels holds one 1: one class per image. Pass multi_label=True if an image may have several classes")
        labels = labels.argmax(axis=1)
    elif several and multi_label is False:
        raise ValueError("With multi_label=False, each row of `labels` must hold one 1. Received: rows with several, or none")
    present = labels.any(axis=0) if labels.ndim == 2 else np.isin(np.arange(len(class_names)), labels)
    if lacking := [name for name, there in zip(class_names, present) if not there]:
        names = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
        log.warning(f"{len(lacking)} of {len(class_names)} classes have no image: {names}")
    return labels, class_names


def indices_of(labels: Any, class_names: Sequence[str] | None):
    """Returns class names as indices, and the names in order."""
    labels = labels.tolist()
    names = tuple(sorted({*labels})) if class_names is None else tuple(map(str, class_names))
    if strange := sorted({*labels} - {*names}):
        raise ValueError(f"`class_names` must name every label. Received: labels {', '.join(map(repr, strange[:5]))}, which are missing")
    index = {name: number for number, name in enumerate(names)}
    return np.array([index[label] for label in labels], "int64"), names
