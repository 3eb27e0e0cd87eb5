"""Checks of the images that a model is given, on every way in."""

import functools
import warnings

import keras
import numpy as np

from keras_vit.layers import checks

WAYS_IN = ("fit", "evaluate", "predict", "train_on_batch", "test_on_batch", "predict_on_batch")
FEW = 8  # images whose pixels are looked at: their number must not cost time


class ChecksImages:
    """Mixin of a model that refuses images of another shape in `fit`, `evaluate`, `predict` and their like.

    Keras checks shapes while it traces a function. TensorFlow lets a traced function take other
    shapes, and its layers then fail with messages about their own products, or give wrong results.
    Unusual pixels, such as those between 0 and 1, are warned of once.
    """

    _warned_of_pixels = False


def _checked(name):
    @functools.wraps(getattr(keras.Model, name))
    def method(self, x=None, *args, **kwargs):
        check_images(self, x)
        return getattr(super(ChecksImages, self), name)(x, *args, **kwargs)

    return method


for name in WAYS_IN:
    setattr(ChecksImages, name, _checked(name))


def check_images(model, x):
    """Raises a ValueError for images of a shape that a model does not take, and warns once of pixels that it does not expect."""
    if model.config.naflex:
        return check_patches(model, x)
    shape = _shape(x)
    if shape is None:
        return
    expected = model.input_shape
    if len(shape) != 4 or any(None not in pair and pair[0] != pair[1] for pair in zip(shape[1:], expected[1:])):
        raise ValueError(
            f"The model takes images of shape {_listed(expected)}. Received: images of shape {_listed(shape)}{_hint(shape, expected)}"
        )
    if isinstance(x, np.ndarray) and x.dtype.kind in "biuf" and model.config.include_preprocessing and not model._warned_of_pixels:
        if odd := checks.odd_pixels(x[:FEW]):
            model._warned_of_pixels = True
            warnings.warn(f"The model takes pixels from 0 to 255. Received: {odd}", stacklevel=4)


def check_patches(model, x):
    """Raises a ValueError for what is no dict of patches, grids and masks that fit a model of patches."""
    spec = getattr(x, "element_spec", None)  # of tf.data, replicated by tf.distribute or not
    x = x if spec is None else spec[0] if isinstance(spec, (tuple, list)) else spec
    given = {key: _shape(value) for key, value in x.items()} if isinstance(x, dict) else _shape(x)
    if given is None:
        return
    expected = {key: tuple(tensor.shape) for key, tensor in model.input.items()}
    fits = isinstance(given, dict) and given.keys() == expected.keys()
    known = {key: shape for key, shape in given.items() if shape} if fits else {}
    for key, shape in known.items():
        fits &= len(shape) == len(expected[key]) and all(None in pair or pair[0] == pair[1] for pair in zip(shape, expected[key]))
    if not fits or len({known[key][1] for key in ("patches", "mask") if key in known} - {None}) > 1:
        what = ", ".join(f"{key} {_listed(shape)}" for key, shape in given.items() if shape) if isinstance(given, dict) else _listed(given)
        raise ValueError(
            f"A model of patches takes a dict of {', '.join(f'{key} {_listed(shape)}' for key, shape in expected.items())}, as "
            f"`keras_vit.data.naflex` makes it. Received: {what}"
        )


def _shape(x):
    """Returns the shape of images with their batch axis, with None for what is unknown; None if they cannot be seen."""
    if hasattr(x, "element_spec"):  # of tf.data, replicated by tf.distribute or not
        first = x.element_spec[0] if isinstance(x.element_spec, (tuple, list)) else x.element_spec
        x = first if hasattr(first, "shape") else first._component_specs[0]
    elif isinstance(x, (list, tuple)) and x:
        if len(x) > 1 or not hasattr(x[0], "shape"):  # not the list of the model's only input
            return (len(x), *np.shape(x[0]))
        x = x[0]
    shape = getattr(x, "shape", None)
    rank = getattr(shape, "rank", -1)  # of a TensorShape, None if it is unknown
    return None if shape is None or rank is None else tuple(shape)


def _listed(shape):
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"


def _hint(shape, expected):
    if len(shape) == 3 and all(None in pair or pair[0] == pair[1] for pair in zip(shape, expected[1:])):
        return ". One image is a batch of one: images[None]"
    channels = expected[-1] if expected[-1] in (1, 3) else None
    if len(shape) == 4 and channels and shape[-1] != channels:
        if shape[1] == channels:
            return ": channels first. Move them to the end: np.moveaxis(images, 1, -1)"
        if shape[-1] == 1:
            return ": gray. Repeat the channel: np.repeat(images, 3, axis=-1)"
        if shape[-1] == 4:
            return ": four channels, such as RGBA. Leave the transparency out: images[..., :3]"
    if len(shape) == 3 and channels == 3:
        return ": no channels. Gray images are np.repeat(images[..., None], 3, axis=-1)"
    if len(shape) == 4 and shape[-1] == expected[-1]:
        return ". `keras_vit.data.evaluation_transform(model)` resizes images; `model.adapt(input_shape=...)` returns a model of their size"
    return ""
