"""Pictures of features: a contact sheet of images."""

import math

import numpy as np

from keras_vit.visualize.figures import axes_of

ACROSS = 5


def contact_sheet(images, titles, heading=None):
    """Draws images row by row, each under its title.

    Args:
        images: sequence of arrays `(rows, columns, 3)` of values from 0 to 255, of any sizes.
        titles: sequence of str, one an image.
        heading: str or None. What stands above all.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if there is no image, or not one title for each.

    Example:
    >>> figure = contact_sheet([np.full((20, 30, 3), 90), np.full((40, 30, 3), 200)], ["dark", "bright"])
    >>> len(figure.axes)
    2
    """
    if not len(images) or len(images) != len(titles):
        raise ValueError(f"A contact sheet needs images and a title for each. Received: {len(images)} images, {len(titles)} titles")
    across = min(ACROSS, len(images))
    down = math.ceil(len(images) / across)
    figure = axes_of(None, 1.9 * max(across, 2), 2.3 * down + (0.4 if heading else 0.0)).figure
    figure.clear()
    for ax, image, title in zip(figure.subplots(down, across, squeeze=False).flat, images, titles):
        image = np.asarray(image)
        ax.imshow(image.clip(0, 255).astype("uint8"), interpolation="nearest" if len(image) < 100 else "antialiased")
        ax.set_title(title, fontsize=9)
    for ax in figure.axes:
        ax.axis("off")
    for ax in figure.axes[len(images) :]:
        ax.remove()
    figure.suptitle(heading, fontsize=11) if heading else None
    return figure
