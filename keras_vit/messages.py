"""How the package speaks to its user while it works."""

import sys


def say(text):
    """Prints a line on stderr, under the name of the package."""
    print(f"keras_vit: {text}", file=sys.stderr, flush=True)


def counted(number, noun, nouns=None):
    """Returns a number with its noun, such as "1 image" and "1,797 images".

    Args:
        number: int.
        noun: str. The singular.
        nouns: str or None. The plural. Defaults to the singular with an "s".
    """
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def duration(seconds):
    """Returns a time in the unit that suits it, such as "45 s", "12 min" and "3.5 h"."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
