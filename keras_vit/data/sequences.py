"""Turns images in their own aspect ratios into sequences of patches, without TensorFlow."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_vit.backbone import find_vision_transformer
from keras_vit.data.preprocessing import INTERPOLATIONS, read_image
from keras_vit.layers import checks

BISECTIONS = 24  # narrow the interval [1e-6, 100] to less than 1e-5


def sequence_grid(size: Any, patch_size: Any, max_tokens: int, xp: Any = np) -> tuple:
    """Returns the grid of patches of an image that is resized in its own aspect ratio to at most `max_tokens` patches.

    The image is scaled as much as possible while at most `max_tokens` patches cover it. Both sides are then rounded up to whole patches,
    and the image is resized to this size. Its aspect ratio changes by less than a patch.

    Args:
        size: (rows, columns) of the image in pixels.
        patch_size: int or pair of ints.
        max_tokens: int. Maximum number of patches.
        xp: module that computes: `numpy`, or `tensorflow` for use in a graph.

    Returns:
        (rows, columns) of patches, integers as floats.

    Reference:
        `get_resize_to_sequence` of big_vision; `get_image_size_for_max_num_patches` of transformers.

    Example:
    >>> [int(side) for side in keras_vit.data.sequences.sequence_grid((2200, 1700), 16, 256)]
    [18, 14]
    """
    sides = list(zip(size, checks.positive_pair("patch_size", patch_size)))

    def grid(scale):
        return [xp.maximum(-xp.floor(-side * scale / patch), 1.0) for side, patch in sides]

    low, high = 1e-6 * xp.ones((), "float64"), 100.0 * xp.ones((), "float64")
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        rows, columns = grid(middle)
        fits = rows * columns <= max_tokens
        low, high = xp.where(fits, middle, low), xp.where(fits, high, middle)
    rows, columns = grid(low)
    return rows, columns


def check_model(model: keras.Model):
    """Returns the `VisionTransformer` with `naflex=True` that a model is or contains.

    Raises:
        ValueError: if it takes images and not patches, or its images do not have 1 or 3 channels.
    """
    model = find_vision_transformer(model)
    if not model.config.naflex:
        raise ValueError("The model must take patches: `model.adapt(naflex=True)`. Received: a model with naflex=False")
    if model.config.channels not in (1, 3):
        raise ValueError(f"Images are read for models of 1 or 3 channels. Received: a model of {model.config.channels} channels")
    checks.one_of("interpolation", model.preprocessing["interpolation"], INTERPOLATIONS)
    return model


def naflex_transform(model: keras.Model, max_tokens: int = 256) -> Callable[..., dict[str, np.ndarray]]:
    """Returns a function that turns images into the inputs of a model with `naflex=True`, each image in its own aspect ratio.

    An image is resized with the filter `model.preprocessing["interpolation"]` to as many patches as possible, but at most `max_tokens`,
    and cut into patches, row by row. Shorter sequences are padded with zeros.

    Args:
        model: a `keras_vit.VisionTransformer` with `naflex=True`, or a model that contains one.
        max_tokens: int. Number of patches of a sequence. Defaults to 256.

    Returns:
        A function that takes a list of images and returns the model's inputs, a dict of arrays. "patches" is float32
        `(images, max_tokens, patch rows * patch columns * channels)`: pixels from 0 to 255 if the model normalizes them itself, normalized
        otherwise. "grid" is int32 `(images, 2)`, and "mask" bool `(images, max_tokens)`. An image is a path, a Pillow image or an array, as
        in `keras_vit.data.evaluation_transform`.

    Raises:
        ValueError: if the model takes images and not patches, or `max_tokens` is less than 1. The function raises it if an argument is not
            an image.
        ImportError: if Pillow is not installed.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 32, 3), 8, 64, 2, 4, 128, naflex=True)
    >>> inputs = keras_vit.data.naflex_transform(model, max_tokens=16)([np.zeros((60, 40, 3), "uint8"), np.zeros((20, 90, 3), "uint8")])
    >>> inputs["patches"].shape, inputs["grid"].tolist()
    ((2, 16, 192), [[5, 3], [2, 8]])
    """
    vit = check_model(model)
    checks.integer("max_tokens", max_tokens)
    config, preprocessing, (height, width) = vit.config, vit.preprocessing, vit.config.patch
    mean, std = (config.per_channel(key).astype("float32") for key in ("mean", "std"))

    def cut(image):
        from PIL import Image

        image = read_image(image, "RGB" if config.channels == 3 else "L")
        rows, columns = (int(side) for side in sequence_grid((image.height, image.width), config.patch, max_tokens))
        image = image.resize((columns * width, rows * height), Image.Resampling[INTERPOLATIONS[preprocessing["interpolation"]]])
        pixels = np.asarray(image, "float32").reshape(rows * height, columns * width, config.channels)
        pixels = pixels if config.include_preprocessing else (pixels / 255.0 - mean) / std
        return (rows, columns), pixels.reshape(rows, height, columns, -1).swapaxes(1, 2).reshape(rows * columns, -1)

    def transform(images):
        if not isinstance(images, (list, tuple)) and np.ndim(images) != 4:
            raise ValueError(f"`images` must be a list of images. Received: {type(images).__name__}. Pass a single image as [image]")
        cuts = [cut(image) for image in images]
        patches = np.zeros((len(cuts), max_tokens, height * width * config.channels), "float32")
        for row, (_, values) in zip(patches, cuts):
            row[: len(values)] = values
        grid = np.array([grid for grid, _ in cuts], "int32").reshape(-1, 2)
        return {"patches": patches, "grid": grid, "mask": np.arange(max_tokens) < grid.prod(axis=-1, keepdims=True)}

    return transform
