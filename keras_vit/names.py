"""Tables of things with names: a name that is not there is answered with the nearest ones."""

import difflib


class UnknownName(ValueError, KeyError):
    """A name that a table lacks. A ValueError, as any wrong argument is, and the KeyError of a dict."""

    __str__ = ValueError.__str__  # KeyError would show the message with quotes around it


class Table(dict):
    """A dict from names to things, whose missing names are answered with the nearest ones.

    Args:
        kind: str. What the names are of, such as "recipe".
        rows: dict.

    Example:
    >>> Table("fruit", {"apple": 1, "pear": 2})["aple"]
    Traceback (most recent call last):
        ...
    keras_vit.names.UnknownName: Unknown fruit; there is 'apple'. Received: 'aple'
    """

    def __init__(self, kind, rows):
        super().__init__(rows)
        self.kind = kind

    def __missing__(self, name):
        raise unknown(self.kind, name, self)


def nearest(name, names, count=3):
    """Returns the names most like `name`, upper and lower case alike; all of them, sorted, if none is."""
    by_lower = {known.lower(): known for known in map(str, names)}
    found = difflib.get_close_matches(str(name).lower(), by_lower, count)
    return [by_lower[lower] for lower in found] or sorted(by_lower.values())


def unknown(kind, name, names):
    """Returns the error for a name that `names` lack."""
    return UnknownName(f"Unknown {kind}; there is {', '.join(map(repr, nearest(name, names)))}. Received: {name!r}")


def choose(kind, name, table):
    """Returns the row of `table` with this name.

    Raises:
        UnknownName: if there is none. It names the nearest ones.
    """
    if name in table:
        return table[name]
    raise unknown(kind, name, table)
