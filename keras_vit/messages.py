"""How the package speaks to its user while it works."""

import re
import sys

# What a data pipeline raises within TensorFlow, which adds a page to it.
IMAGE_LOST = "An image that was whole when its folder was opened can no longer be read"
IMAGES_LOST = "No image of the split can be read any more"


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


def file_error(error):
    """Returns the line that matters if TensorFlow's error is of an image that can no longer be read, else None."""
    found = re.search(rf"ValueError: ((?:{IMAGE_LOST}|{IMAGES_LOST}).*?)(?:\n+Traceback|\n\n|$)", str(error), re.DOTALL)
    return found and found[1].strip()
