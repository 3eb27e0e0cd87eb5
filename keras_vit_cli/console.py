"""Helpers of the commands: a quiet start of TensorFlow, checks of output paths, and reading and printing values."""

import contextlib
import os


@contextlib.contextmanager
def quiet():
    """Hides TensorFlow's start-up messages. They ignore Python's stderr and log level, so that the file descriptor must be replaced."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def check_new_file(output, force, suffix=None):
    """Raises a ValueError if `--output` has another suffix than `suffix`, or exists and `--force` is not given."""
    if suffix is not None and output.suffix != suffix:
        raise ValueError(f"`--output` must be a file *{suffix}. Received: {output}")
    if output.exists() and not force:
        raise ValueError(f"The output exists; `--force` replaces it. Received: {output}")


def check_new_folder(output):
    """Raises a ValueError if `--output` is a file, or a folder that is not empty."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"`--output` must be a new or empty folder. Received: {output}")


def parse_shape(text):
    """Returns (rows, columns, channels) from text such as "384,384,3" or "384"."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) == 1:
        numbers *= 2
    if len(numbers) == 2:
        numbers += (3,)
    if len(numbers) != 3 or min(numbers) < 1:
        raise ValueError(f"`--input-shape` must be rows,columns,channels in pixels, such as 384,384,3. Received: {text}")
    return numbers


def table(header, rows, names=1):
    """Prints a table. The first `names` columns are aligned to the left, and the others, numbers, to the right."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=any(header))
    for number, name in enumerate(header):
        shown.add_column(name, justify="left" if number < names else "right", no_wrap=True)
    for row in rows:
        shown.add_row(*map(str, row))
    Console(width=None if os.isatty(1) else 200, highlight=False).print(shown)
