"""Writes a picture of training images as the model sees them."""

import math
import os
from typing import Any

import numpy as np

from keras_vit.data.pipeline import Data

LEAST_SIDE, LINE, GAP = 96, 14, 6  # in pixels: side of a cell, height of a line of text, space between cells
GROUND, INK = "white", "#222222"


def show_batch(data: Data, path: str | os.PathLike, count: int = 64, step: int = 0) -> str | os.PathLike:
    """Writes a picture of a training batch after augmentation: its images with their classes.

    Args:
        data: a `keras_vit.data.Data`.
        path: str or path-like. The picture to write, such as `"batch.png"`.
        count: int. Maximum number of images. Defaults to 64.
        step: int. Training step whose batch is shown. Defaults to 0.

    Returns:
        `path`.

    Raises:
        ImportError: if Pillow is not installed.

    Example:
    >>> import tempfile, os
    >>> data = keras_vit.data.load("digits", batch_size=16, augmentation="digits")
    >>> path = show_batch(data, os.path.join(tempfile.mkdtemp(), "batch.png"))
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise ImportError("Writing pictures needs Pillow: pip install pillow") from None
    images, labels = next(iter(data.train_from(step)))
    images = np.rint(images[:count]).clip(0, 255).astype("uint8")
    scale = max(1, math.ceil(LEAST_SIDE / min(images.shape[1:3])))  # an integer, so that pixels are repeated and not blurred
    rows, columns = (scale * side for side in images.shape[1:3])
    across = math.ceil(math.sqrt(len(images)))
    down = math.ceil(len(images) / across)
    height = rows + 2 * LINE + GAP
    sheet = Image.new("RGB", (across * (columns + GAP) - GAP, down * height), GROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for place, (image, label) in enumerate(zip(images, np.asarray(labels))):
        left, top = place % across * (columns + GAP), place // across * height
        sheet.paste(Image.fromarray(image).resize((columns, rows), Image.Resampling.NEAREST), (left, top))
        for number, line in enumerate(captions(label, data.class_names)):
            draw.text((left, top + rows + number * LINE), fitted(line, font, columns), INK, font)
    sheet.save(path)
    return path


def captions(label: Any, class_names: tuple[str, ...] | list[str]) -> list[str]:
    """Returns the lines under an image: the two classes with the largest share of its label.

    Args:
        label: int, or array with a share for each class.
        class_names: sequence of str.
    """
    if np.ndim(label) == 0:
        return [str(class_names[int(label)])]
    order = [i for i in np.argsort(-label, kind="stable")[:2] if label[i] > 0]
    whole = len(order) < 2 or label[order].sum() > 1.5  # one class, or several that do not exclude each other
    return [str(class_names[i]) if whole else f"{100 * label[i]:.0f} % {class_names[i]}" for i in order]


def fitted(text: str, font: Any, width: float) -> str:
    """Returns text that is at most `width` pixels wide, cut with an ellipsis."""
    text, whole = text.replace("\n", " "), text
    while text and font.getlength(text if text == whole else text + "…") > width:
        text = text[:-1]
    return text if text == whole else text + "…"
