"""Batches of images in their own aspect ratios (NaFlex), with a token budget. A batch is a pure function of the seed and the step."""

import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_vit.data.augmentation import Augmentation, flip, open_augmentation
from keras_vit.data.pipeline import AUTOTUNE, Data, epoch_by_epoch, prefetched
from keras_vit.data.sequences import check_model, sequence_grid
from keras_vit.data.sources import Source, open_source
from keras_vit.layers import checks

FILTERS = {"lanczos": "lanczos3"}  # TensorFlow's names, where they differ


def naflex(
    source: str | os.PathLike | tuple | list | Source,
    model: keras.Model,
    max_tokens: int | tuple[int, ...] = 256,
    tokens_per_batch: int = 16384,
    augmentation: str | Augmentation = "none",
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    **options: Any,
) -> Data:
    """Loads a data source as batches of patches, for a model that takes images in their own aspect ratios (`naflex=True`).

    Each image is resized to as many patches as possible, but at most `max_tokens`, see `keras_vit.data.naflex_transform`. With several
    values of `max_tokens`, each training step uses one of them, and as many images as fit into `tokens_per_batch`. All lengths get the same
    number of steps, in an order that is shuffled every epoch. A batch only depends on the seed and the step, so that a run resumes exactly
    and workers agree.

    Args:
        source: as in `keras_vit.data.load`: a folder with one subfolder per class, "tfds:NAME", or a tuple `(images, labels)`, where images
            may be a list of arrays of different shapes.
        model: a `keras_vit.VisionTransformer` with `naflex=True`, or a model that contains one. It determines the patch size, the
            interpolation and the number of channels.
        max_tokens: int or tuple of ints. Maximum number of patches of an image. With several values, training steps use one after the
            other, and validation and test images the largest. Defaults to 256.
        tokens_per_batch: int. Number of patches of a batch, with padding: it holds `tokens_per_batch // max_tokens` images. Defaults to
            16384.
        augmentation: "none"; "flip", which mirrors half of the images; or an `Augmentation` with `image` functions only: crops and
            functions of a batch need images of one size. Defaults to "none".
        seed: int. Seed of the order and of the augmentation. Defaults to 0.
        shard: (index, count). The shard of one of several machines that train together, as in `keras_vit.data.load`. Defaults to (0, 1),
            the whole batch.
        **options: further arguments of the source, such as `test_fraction`.

    Returns:
        A `keras_vit.data.Data` of batches `({"patches", "grid", "mask"}, labels)`, whose `image_shape` is (None, None, channels).

    Raises:
        ValueError: if the model takes images and not patches, a number is out of range, or the augmentation crops or mixes images.
        ImportError: if the source needs a package that is not installed.

    Reference:
        Dehghani et al., "Patch n' Pack: NaViT", 2023; Tschannen et al., "SigLIP 2", 2025, section 2.4.2.

    Example:
    >>> images = [np.zeros((40 + 8 * i, 64, 3), "uint8") for i in range(20)]
    >>> model = keras_vit.VisionTransformer((32, 32, 3), 8, 64, 2, 4, 128, num_classes=2, naflex=True)
    >>> data = keras_vit.data.naflex((images, [0, 1] * 10), model, max_tokens=(16, 32), tokens_per_batch=128)
    >>> data.steps_per_epoch, sorted(tuple(inputs["patches"].shape[:2]) for inputs, _ in data.train)
    (2, [(4, 32), (8, 16)])
    """
    vit = check_model(model)
    seed = checks.seed(seed)
    source, augmentation = open_source(source, options), _of_images(augmentation)
    train = source.splits["train"]
    lengths = tuple(max_tokens) if isinstance(max_tokens, (list, tuple)) else (max_tokens,)
    if not lengths:
        raise ValueError(f"`max_tokens` must hold a number. Received: max_tokens={max_tokens}")
    for length in lengths:
        checks.integer("max_tokens", length)
    steps = _schedule(train.size, lengths, tokens_per_batch, shard)
    of_length, of_size, of_start = (tf.constant(column, tf.int64) for column in zip(*steps))
    (index, count), cut = shard, _cutter(vit)

    def example(split, place, length, change=None):
        image, label = split.read_one(place)
        return cut(image if change is None else change(image), length), tf.cast(label, tf.float32 if label.shape.rank else tf.int64)

    def batch_of(read, places, length):
        label = train.read_one(tf.constant(0, tf.int64))[1]
        spec = (*({"patches": tf.float32, "grid": tf.int32, "mask": tf.bool},), tf.float32 if label.shape.rank else tf.int64)
        inputs, labels = tf.map_fn(lambda place: read(place, length), places, fn_output_signature=spec)
        values = vit.config.channels * int(np.prod(vit.config.patch))
        shapes = {"patches": (None, None, values), "grid": (None, 2), "mask": (None, None)}
        inputs = {key: tf.ensure_shape(value, shapes[key]) for key, value in inputs.items()}
        return inputs, tf.ensure_shape(labels, (None, *([len(source.class_names)] if label.shape.rank else [])))

    def train_batch(step):
        epoch = step // len(steps)
        entry = tf.random.experimental.index_shuffle(step % len(steps), _seed(seed, epoch, 1), len(steps) - 1)
        mine = of_size[entry] // count
        places = of_start[entry] + index * mine + tf.range(mine)
        places = tf.random.experimental.index_shuffle(places, _seed(seed, epoch, 0), train.size - 1)

        def read(place, length):
            def change(image):
                for number, function in enumerate(augmentation.image, start=256):
                    image = function(image, tf.stack([tf.constant(seed, tf.int64) + (number << 32), epoch * train.size + place]))
                return image

            return example(train, place, length, change)

        return batch_of(read, places, of_length[entry])

    def batches_at(numbers):
        return prefetched(numbers.map(train_batch, AUTOTUNE, deterministic=True), count)

    def in_order(split):
        length = tf.constant(max(lengths), tf.int64)
        places = tf.data.Dataset.range(split.size).batch(max(1, tokens_per_batch // max(lengths)))

        def read(place, length):
            return example(split, place, length)

        return places.map(lambda places: batch_of(read, places, length), AUTOTUNE, deterministic=True).prefetch(AUTOTUNE)

    ordered = {id(split): in_order(split) for split in source.splits.values()}  # two splits may be the same
    return Data(
        class_names=source.class_names,
        image_shape=(None, None, vit.config.channels),
        sizes={name: split.size for name, split in source.splits.items()},
        steps_per_epoch=len(steps),
        train=epoch_by_epoch(batches_at, len(steps), 1),
        train_from=lambda step: batches_at(tf.data.Dataset.counter(start=step)),
        splits={name: ordered[id(split)] for name, split in source.splits.items()},
    )


def _seed(seed, epoch, stream):
    return tf.stack([tf.constant(seed + (stream << 32), tf.int64), tf.cast(epoch, tf.int64)])


def _of_images(augmentation):
    if augmentation == "flip":
        return Augmentation("mirror images alone", image=(flip(),))
    augmentation = open_augmentation(augmentation)
    if augmentation.crop or augmentation.batch or augmentation.repeats > 1:
        raise ValueError(
            "Images keep their own aspect ratios, so `augmentation` can change images, but neither crop nor mix them. "
            f"Received: augmentation={augmentation.source!r}. Pass an `Augmentation` with only `image`"
        )
    return augmentation


def _schedule(images: int, lengths: tuple[int, ...], tokens_per_batch: int, shard: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Returns a list of `(max_tokens, images, first image)`, one for each step of an epoch. An incomplete batch is left out."""
    _, count = checks.shard(shard)
    checks.integer("tokens_per_batch", tokens_per_batch)
    sizes = [tokens_per_batch // length // count * count for length in lengths]
    if not min(sizes):
        raise ValueError(
            f"A batch must hold at least one image for each of {count} machines. "
            f"Received: tokens_per_batch={tokens_per_batch}, max_tokens={max(lengths)}"
        )
    if max(sizes) > images:
        raise ValueError(
            f"A batch of {max(sizes)} images of {lengths[int(np.argmax(sizes))]} tokens needs as many training images. "
            f"Received: {images} training images, tokens_per_batch={tokens_per_batch}. "
            f"Pass `tokens_per_batch` of at most {images * min(lengths)}"
        )
    steps, start = [], 0
    while True:
        for length, size in zip(lengths, sizes):
            if start + size > images:
                return steps
            steps.append((length, size, start))
            start += size


def _cutter(vit) -> Callable:
    """Returns a function that turns a uint8 image into the model's inputs, padded to a given length."""
    config, (height, width) = vit.config, vit.config.patch
    method = vit.preprocessing["interpolation"]
    mean, std = (config.per_channel(key).astype("float32") for key in ("mean", "std"))

    def cut(image, length):
        image = tf.cast(image, tf.float32)
        size = [tf.cast(side, tf.float64) for side in tf.unstack(tf.shape(image)[:2])]
        rows, columns = (tf.cast(side, tf.int32) for side in sequence_grid(size, (height, width), tf.cast(length, tf.float64), tf))
        image = tf.image.resize(image, (rows * height, columns * width), FILTERS.get(method, method), antialias=True)
        image = tf.clip_by_value(image, 0.0, 255.0)
        image = tf.image.rgb_to_grayscale(image) if config.channels == 1 else image
        image = image if config.include_preprocessing else (image / 255.0 - mean) / std
        patches = tf.transpose(tf.reshape(image, (rows, height, columns, width * config.channels)), (0, 2, 1, 3))
        patches, length = tf.reshape(patches, (rows * columns, height * width * config.channels)), tf.cast(length, tf.int32)
        padded = tf.pad(patches, [[0, length - rows * columns], [0, 0]])
        return {"patches": padded, "grid": tf.stack([rows, columns]), "mask": tf.range(length) < rows * columns}

    return cut
