"""What commands share: silence while TensorFlow starts, and reading and showing values."""

import contextlib
import os


@contextlib.contextmanager
def quiet():
    """Keeps TensorFlow's start-up lines off the terminal. They bypass Python and ignore its own log level: only the descriptor helps."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def parse_shape(text):
    """Reads "384,384,3", or a side alone, as (rows, columns, channels)."""
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
    """Prints a table; its first columns, `names`, stand to the left and the rest, numbers, to the right."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), show_header=any(header))
    for number, name in enumerate(header):
        shown.add_column(name, justify="left" if number < names else "right", no_wrap=True)
    for row in rows:
        shown.add_row(*map(str, row))
    Console(width=None if os.isatty(1) else 200, highlight=False).print(shown)
