"""Training images as the model sees them, in a picture."""

import math

import numpy as np


def show_batch(data, path, count=64, step=0):
    """Writes images of a training batch, after augmentation, as a picture: squares row by row.

    Args:
        data: a `keras_vit.data.Data`.
        path: path of the picture to write, such as `"batch.png"`.
        count: int. The most images to show.
        step: int. Which step's batch.

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
        from PIL import Image
    except ImportError:
        raise ImportError("Writing pictures needs Pillow: pip install pillow") from None
    images, _ = next(iter(data.train_from(step)))
    images = np.rint(images[:count]).clip(0, 255).astype("uint8")
    rows, columns = images.shape[1:3]
    across, gap = math.ceil(math.sqrt(len(images))), 2
    down = math.ceil(len(images) / across)
    sheet = np.full((down * (rows + gap) - gap, across * (columns + gap) - gap, 3), 255, "uint8")
    for place, image in enumerate(images):
        top, left = place // across * (rows + gap), place % across * (columns + gap)
        sheet[top : top + rows, left : left + columns] = image
    Image.fromarray(sheet).save(path)
    return path
