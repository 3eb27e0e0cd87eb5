"""Checks the images that are passed to a model's methods."""

import functools
import itertools
import types
import warnings

import keras
import numpy as np

from keras_vit.layers import checks

METHODS = ("fit", "evaluate", "predict", "train_on_batch", "test_on_batch", "predict_on_batch")
FEW = 8  # images whose pixels are checked: few, so that the check takes no time


class ChecksImages:
    """Mixin of a model that checks the shape of images in `fit`, `evaluate`, `predict` and so on.

    Keras only checks shapes while it traces a function. TensorFlow calls a traced function with other
    shapes, too, and layers then fail with obscure messages or give wrong results. For unusual pixels,
    such as those between 0 and 1, there is one warning. For generators, `PyDataset`s and `tf.data`,
    the first batch is checked.
    """

    _warned_of_pixels = False
    _looked_at = None


def _checked(name):
    @functools.wraps(getattr(keras.Model, name))
    def method(self, x=None, *args, **kwargs):
        check_images(self, x)
        return getattr(super(ChecksImages, self), name)(_first_checked(self, x), *args, **kwargs)

    return method


for name in METHODS:
    setattr(ChecksImages, name, _checked(name))


def check_images(model, x):
    """Raises a ValueError for images of a wrong shape, and warns once of pixels in an unexpected range."""
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
    if isinstance(x, np.ndarray) and x.dtype.kind in "biuf" and expects_pixels(model):
        check_pixels(model, x[:FEW])


def expects_pixels(model):
    """Returns whether the pixels still have to be checked: the model takes raw pixels, and has not warned yet."""
    return model.config.include_preprocessing and not model._warned_of_pixels


def check_pixels(model, images):
    """Warns if images do not hold values from 0 to 255, once per model."""
    if odd := checks.odd_pixels(images):
        model._warned_of_pixels = True
        warnings.warn(f"The model takes pixels from 0 to 255. Received: {odd}", stacklevel=5)


def _first_checked(model, x):
    """Returns the same data, after checking its first batch. In `tf.data`, the check runs when the batch is read."""

    def check(batch):
        images = batch[0] if isinstance(batch, (tuple, list)) else batch
        check_images(model, keras.ops.convert_to_numpy(images[:FEW]) if keras.ops.is_tensor(images) else images)

    if isinstance(x, types.GeneratorType):
        batches = list(itertools.islice(x, 1))
        for batch in batches:
            check(batch)
        return _chained(batches, x)
    if isinstance(x, keras.utils.PyDataset) and x is not model._looked_at:
        model._looked_at = x  # `fit` evaluates the same one after every epoch
        if x.num_batches != 0:
            check(x[0])
    is_dataset = type(x).__module__.startswith("tensorflow.") and hasattr(x, "enumerate")
    # A dataset that Keras distributes on JAX is not changed, because Keras reads its batch size.
    if is_dataset and expects_pixels(model) and not keras.distribution.distribution():
        return _pixels_checked(model, x)
    return x


def _chained(first, others):
    yield from first
    yield from others


def _pixels_checked(model, dataset):
    """Returns a `tf.data.Dataset` that checks the pixels of its first batch. The shapes are checked by its `element_spec`."""
    import tensorflow as tf

    spec = dataset.element_spec[0] if isinstance(dataset.element_spec, (tuple, list)) else dataset.element_spec
    if not isinstance(spec, tf.TensorSpec) or spec.dtype == tf.uint8 or not (spec.dtype.is_floating or spec.dtype.is_integer):
        return dataset

    def look(images):
        check_pixels(model, images)
        return np.bool_(True)

    def passed(number, *batch):
        images = tf.cast(batch[0][:FEW], tf.float32)
        looked = tf.cond(number == 0, lambda: tf.numpy_function(look, [images], tf.bool), lambda: True)
        with tf.control_dependencies([looked]):
            return tf.identity(batch[0]), *batch[1:]

    single = not isinstance(dataset.element_spec, (tuple, list))
    batches = dataset.enumerate().map(lambda number, batch: passed(number, *((batch,) if single else batch)))
    return batches.map(lambda images, *_: images) if single else batches


def check_patches(model, x):
    """Raises a ValueError unless `x` is a dict of patches, grids and masks that fit the model."""
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
    """Returns the shape of images with the batch axis, where None stands for unknown sizes; None if the shape is unknown."""
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
        return ". Pass a single image as a batch: images[None]"
    channels = expected[-1] if expected[-1] in (1, 3) else None
    if len(shape) == 4 and channels and shape[-1] != channels:
        if shape[1] == channels:
            return ": channels first. Move them to the end: np.moveaxis(images, 1, -1)"
        if shape[-1] == 1:
            return ": gray. Repeat the channel: np.repeat(images, 3, axis=-1)"
        if shape[-1] == 4:
            return ": four channels, such as RGBA. Drop the transparency: images[..., :3]"
    if len(shape) == 3 and channels == 3:
        return ": no channels. For gray images: np.repeat(images[..., None], 3, axis=-1)"
    if len(shape) == 4 and shape[-1] == expected[-1]:
        return ". `keras_vit.data.evaluation_transform(model)` resizes images; `model.adapt(input_shape=...)` returns a model of their size"
    return ""
