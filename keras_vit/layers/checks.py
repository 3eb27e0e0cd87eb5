"""Checks of arguments that several layers share."""


def rate(name, value):
    if not 0.0 <= value < 1.0:
        raise ValueError(f"`{name}` must lie in [0, 1). Received: {name}={value}")
    return value


def positive_pair(name, value):
    """Returns `(rows, columns)` for an int or a pair of ints."""
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if len(pair) != 2 or not all(isinstance(v, int) and v > 0 for v in pair):
        raise ValueError(f"`{name}` must be a positive int or a pair of them, (rows, columns). Received: {name}={value}")
    return pair


def divides(name, value, of, width):
    if value < 1 or width % value:
        raise ValueError(f"`{name}` must divide `{of}`. Received: {name}={value}, {of}={width}")
    return value
