"""Reads options of the command line as settings of the package."""

import tomllib


def parse_options(texts):
    """Returns a dict of options from texts NAME=VALUE. A value that is not valid TOML, such as an unquoted word, is a string."""
    options = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"`--data-option` must be NAME=VALUE. Received: {text}")
        try:
            options[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            options[name] = value
    return options
