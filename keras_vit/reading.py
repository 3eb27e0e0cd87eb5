"""Small text files of others, JSON and TOML: read only if they are small, and refused in one line."""

import json
import pathlib
import tomllib
from typing import Any

MOST_BYTES = 10 << 20


def read_json(path: Any, what: str) -> Any:
    """Returns the content of a JSON file.

    Args:
        path: str or path-like.
        what: str. The name of such files at the beginning of an error, such as "A search space".

    Raises:
        ValueError: if it is no JSON, or larger than 10 MB.
    """
    return _parsed(path, what, "JSON", json.loads)


def read_toml(path: Any, what: str) -> dict[str, Any]:
    """Returns the content of a TOML file. Arguments and errors as those of `read_json`."""
    return _parsed(path, what, "a TOML file", tomllib.loads)


def _parsed(path, what, format, parse):
    path = pathlib.Path(path)
    if not path.is_file():  # a device or a pipe may have no end
        raise FileNotFoundError(2, f"{what} must be a file", str(path))
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{what} must be {format} of at most {MOST_BYTES} bytes. Received: {path} of {path.stat().st_size} bytes")
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # RecursionError: brackets within brackets
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else f"{error}"[:200]
        raise ValueError(f"{what} must be {format}: {reason}. Received: {path}") from None
