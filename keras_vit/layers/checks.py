"""Checks of arguments that several layers share. Each returns the value, of Python's own type: numpy's would not go into a JSON file."""

import numbers


def is_int(value, least=1):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= least


def integer(name, value, least=1):
    if not is_int(value, least):
        raise ValueError(f"`{name}` must be an int of at least {least}. Received: {name}={value!r}")
    return int(value)


def integers(name, values):
    try:
        return tuple(integer(name, value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(f"`{name}` must be a sequence of positive ints. Received: {name}={values!r}") from None


def positive_pair(name, value):
    """Returns `(rows, columns)` for an int or a pair of ints."""
    try:
        rows, columns = integers(name, value if isinstance(value, (list, tuple)) else (value, value))
    except ValueError:
        raise ValueError(f"`{name}` must be a positive int or a pair of them, (rows, columns). Received: {name}={value!r}") from None
    return rows, columns


def rate(name, value):
    if not isinstance(value, numbers.Real) or not 0.0 <= value < 1.0:
        raise ValueError(f"`{name}` must lie in [0, 1). Received: {name}={value!r}")
    return float(value)


def one_of(name, value, known):
    if value not in tuple(known):
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, known))}. Received: {name}={value!r}")
    return value


def divides(name, value, of, width):
    if width % value:
        raise ValueError(f"`{name}` must divide `{of}`. Received: {name}={value}, {of}={width}")
    return value
