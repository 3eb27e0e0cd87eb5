"""Real images for the check of an exported model."""

import numpy as np

from keras_vit.data.preprocessing import evaluation_transform
from keras_vit.extras import install

CROPS = 3  # rows and columns that a photograph is cut into


def as_input(model, pixels):
    """Returns pixels `(n, rows, columns, channels)` from 0 to 255 as a model takes them."""
    images = np.asarray(pixels, "float32")
    if not model.config.include_preprocessing:
        images = (images / 255.0 - np.float32(model.preprocessing["mean"])) / np.float32(model.preprocessing["std"])
    return np.transpose(images, (0, 3, 1, 2)) if model.config.data_format == "channels_first" else images


def photographs(model):
    """Returns crops of scikit-learn's two photographs as a model takes them, float32 `(18, *input shape)`."""
    try:
        from sklearn.datasets import load_sample_images
    except ImportError:
        raise ImportError(f"Without `images`, the check of an exported model needs scikit-learn's: {install('demo')}") from None
    transform, found = evaluation_transform(model), []
    for photograph in load_sample_images().images:
        for rows in np.array_split(photograph, CROPS, axis=0):
            found += [transform(crop) for crop in np.array_split(rows, CROPS, axis=1)]
    return np.stack(found).astype("float32")
