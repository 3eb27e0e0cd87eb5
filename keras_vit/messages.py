"""Messages for the user, and helpers that format them."""

import re
import sys

# Errors of a data pipeline. TensorFlow wraps them into long messages, and `file_error` finds them there.
IMAGE_LOST = "An image that was whole when its folder was opened can no longer be read"
IMAGES_LOST = "No image of the split can be read any more"


def say(text):
    """Prints a line on stderr, with the package's name as prefix."""
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
    """Returns a duration as text in a suitable unit, such as "45 s", "12 min" and "3.5 h"."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def file_error(error):
    """Returns the relevant line of a TensorFlow error about an image that can no longer be read; None for other errors."""
    found = re.search(rf"ValueError: ((?:{IMAGE_LOST}|{IMAGES_LOST}).*?)(?:\n+Traceback|\n\n|$)", str(error), re.DOTALL)
    return found and found[1].strip()
