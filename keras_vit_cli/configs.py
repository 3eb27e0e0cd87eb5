"""Options of the command as settings of the package."""

import tomllib


def parse_options(texts):
    """Reads NAME=VALUE, where a value that is no number or boolean of TOML is a string."""
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
