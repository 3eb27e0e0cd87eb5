"""Tables with string keys, whose errors for unknown names suggest the nearest ones."""

import difflib


class UnknownName(ValueError, KeyError):
    """An unknown name. It is a ValueError, like any wrong argument, and a KeyError, like a missing key of a dict."""

    __str__ = ValueError.__str__  # KeyError would show the message with quotes around it


class Table(dict):
    """A dict with string keys, whose error for an unknown key suggests the nearest ones.

    Args:
        kind: str. The kind of the entries, for the error, such as "recipe".
        rows: dict. The entries.

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
    """Returns the names that are most similar to `name`, ignoring case. If none is similar, returns all, sorted."""
    by_lower = {known.lower(): known for known in map(str, names)}
    found = difflib.get_close_matches(str(name).lower(), by_lower, count)
    return [by_lower[lower] for lower in found] or sorted(by_lower.values())


def unknown(kind, name, names):
    """Returns the error for a name that is not in `names`."""
    return UnknownName(f"Unknown {kind}; there is {listed(nearest(name, names))}. Received: {name!r}")


def listed(names, most=20):
    """Returns names for an error, in quotes; of a longer list the first `most`, and how many there are.

    Example:
    >>> listed(["cat", "dog", "owl"], most=2)
    "'cat', 'dog' and 1 more"
    """
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def choose(kind, name, table):
    """Returns the row of `table` with this name.

    Raises:
        UnknownName: if there is no such row. The error suggests the nearest names.
    """
    if name in table:
        return table[name]
    raise unknown(kind, name, table)
