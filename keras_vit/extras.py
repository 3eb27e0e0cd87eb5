"""The command that installs an optional dependency, for error messages."""

import importlib.metadata
import json
import pathlib

NAME = "keras-vit-zoo"  # name of the distribution


def install(extra):
    """Returns the command that installs an extra, from the same index, repository or folder as the package itself.

    Args:
        extra: str, one of pyproject.toml's.

    Example:
    >>> install("tune")  # doctest: +SKIP
    "pip install 'keras-vit-zoo[tune]'"
    """
    try:
        origin = json.loads(importlib.metadata.distribution(NAME).read_text("direct_url.json") or "{}")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        root = pathlib.Path(__file__).resolve().parents[1]
        return f"pip install '{root}[{extra}]'"
    if "vcs_info" in origin:
        return f"pip install '{NAME}[{extra}] @ {origin['vcs_info']['vcs']}+{origin['url']}'"
    if "dir_info" in origin:
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f"pip install {editable}'{origin['url'].removeprefix('file://')}[{extra}]'"
    return f"pip install '{NAME}[{extra}]'"
