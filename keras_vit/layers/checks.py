"""Checks of arguments that several layers share.

Each returns the value as a plain Python type, because NumPy's types cannot be written to a JSON file.
"""

import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np


def is_int(value: Any, least: int = 1) -> bool:
    """Returns whether a value is an int of at least `least`. A bool is not an int here."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= least


def integer(name: str, value: Any, least: int = 1) -> int:
    """Returns a value as an int, or raises ValueError if it is not an int of at least `least`."""
    if not is_int(value, least):
        raise ValueError(f"`{name}` must be an int of at least {least}. Received: {name}={value!r}")
    return int(value)


def seed(value: Any) -> int:
    """Returns a seed as an int, or raises ValueError if it is no int from 0 to 2**31 - 1."""
    if not is_int(value, 0) or value >= 2**31:
        raise ValueError(f"`seed` must be an int between 0 and 2**31 - 1. Received: seed={value!r}")
    return int(value)


def shard(value: Any) -> tuple[int, int]:
    """Returns a shard as (index, count), or raises ValueError if it is no pair of ints with 0 <= index < count."""
    pair = isinstance(value, (list, tuple)) and len(value) == 2 and all(is_int(number, 0) for number in value)
    if not pair or value[0] >= value[1]:
        raise ValueError(f"`shard` must be (index, count), with an index from 0 to count - 1. Received: shard={value!r}")
    return int(value[0]), int(value[1])


def integers(name: str, values: Any) -> tuple[int, ...]:
    """Returns a sequence as a tuple of ints, or raises ValueError if it holds anything but positive ints."""
    try:
        return tuple(integer(name, value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` must be a sequence of positive ints. Received: {name}={values!r}") from None


def positive_pair(name: str, value: Any) -> tuple[int, int]:
    """Returns `(rows, columns)` for a positive int or a pair of them, or raises ValueError."""
    try:
        rows, columns = integers(name, value if isinstance(value, (list, tuple)) else (value, value))
    except ValueError:
        raise ValueError(f"`{name}` must be a positive int or a pair of them, (rows, columns). Received: {name}={value!r}") from None
    return rows, columns


def rate(name: str, value: Any) -> float:
    """Returns a value as a float, or raises ValueError if it lies outside [0, 1)."""
    if not isinstance(value, numbers.Real) or not 0.0 <= value < 1.0:
        raise ValueError(f"`{name}` must lie in [0, 1). Received: {name}={value!r}")
    return float(value)


def number(name: str, value: Any, least: float | None = None, above: float | None = None) -> float:
    """Returns a value as a float, or raises ValueError if it is no finite number, less than `least`, or not greater than `above`."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not real or (least is not None and value < least) or (above is not None and value <= above):
        bound = f" of at least {least:g}" if least is not None else f" above {above:g}" if above is not None else ""
        raise ValueError(f"`{name}` must be a number{bound}. Received: {name}={value!r}")
    return float(value)


def one_of(name: str, value: Any, known: Iterable) -> Any:
    """Returns a value, or raises ValueError if it is none of the known ones."""
    if value not in tuple(known):
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, known))}. Received: {name}={value!r}")
    return value


def divides(name: str, value: int, of: str, width: int) -> int:
    """Returns a value, or raises ValueError if it does not divide `width`."""
    if width % value:
        raise ValueError(f"`{name}` must divide `{of}`. Received: {name}={value}, {of}={width}")
    return value


def norm_branches(value: bool, norm_first: bool) -> bool:
    """Returns `norm_branches`, or raises ValueError if `norm_first` contradicts it."""
    if value and norm_first:
        raise ValueError(
            "A block normalizes the input of each branch (`norm_first`) or its output (`norm_branches`). "
            f"Received: norm_branches={value}, norm_first={norm_first}. Use norm_first=False"
        )
    return value


def odd_pixels(images: np.ndarray) -> str | None:
    """Returns what is wrong with the values of images, and what to do about it.

    A model takes pixels from 0 to 255. Only the least and the greatest value are read, so a batch is cheap to check.

    Args:
        images: NumPy array of ints or floats, of any shape.

    Returns:
        str, or None if nothing is wrong.

    Example:
    >>> odd_pixels(np.array([0.0, 0.25, 1.0]))
    'float64 values from 0 to 1, not to 255: multiply them by 255'
    >>> odd_pixels(np.array([0, 255], "uint8"))
    """
    if not images.size or images.dtype == np.uint8:
        return None
    low, high = float(images.min()), float(images.max())
    if not np.isfinite((low, high)).all():
        return f"{images.dtype} values that are not finite (NaN or infinite): repair or remove these images"
    seen = f"{images.dtype} values from {low:.4g} to {high:.4g}"
    if low < 0 and high < 16:
        return f"{seen}, as if normalized already: undo the normalization, so that the values lie between 0 and 255"
    if low < -32 or high > 287:  # bicubic interpolation goes a little beyond 0 and 255
        return f"{seen}, not from 0 to 255: rescale them (divide 16-bit images by 257)"
    if 0 < high <= 1 and images.dtype.kind in "fb":
        return f"{seen}, not to 255: multiply them by 255"
    return None


def odd_layout(shape: tuple) -> str | None:
    """Returns what is wrong with the shape of an image or of a batch of images, and what to do about it.

    Args:
        shape: tuple. It should be `(rows, columns, channels)` with 1 or 3 channels, with a batch axis in front for a batch.

    Returns:
        str, or None if nothing is wrong.

    Example:
    >>> odd_layout((8, 3, 32, 32))
    'channels first: move them to the end with np.moveaxis(images, -3, -1)'
    """
    if len(shape) in (3, 4) and shape[-1] not in (1, 3):
        if shape[-3] in (1, 3):
            return "channels first: move them to the end with np.moveaxis(images, -3, -1)"
        if shape[-1] == 4:
            return "four channels, such as RGBA: remove the transparency with images[..., :3]"
        if shape[-1] == 2:
            return "two channels, such as gray with transparency: remove the transparency with images[..., :1]"
    return None
