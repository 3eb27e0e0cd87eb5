"""From a source to batches. A training batch is a pure function of the seed and the step, so a run can go on at any step."""

import dataclasses
import difflib
from collections.abc import Callable

import tensorflow as tf

from keras_vit.data.augmentation import AUGMENTATIONS
from keras_vit.data.sources import SOURCES, arrays


@dataclasses.dataclass(frozen=True)
class Data:
    """What `load` returns. Batches are `(images, labels)`: float32 `(batch, rows, columns, 3)` in 0..255 and one-hot `(batch, classes)`.

    Args:
        class_names: tuple of str.
        image_shape: (rows, columns, 3).
        sizes: dict from "train", "validation" and "test" to the number of images.
        steps_per_epoch: int. Batches in which an epoch passes over the training images; an incomplete last batch is left out.
        train_from: function from a step, counted from the start of training, to the endless dataset that begins with its batch.
        validation: `tf.data.Dataset` of the validation images, in a fixed order, not augmented.
        test: the same for the test images.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    sizes: dict[str, int]
    steps_per_epoch: int
    train_from: Callable[[int], tf.data.Dataset]
    validation: tf.data.Dataset
    test: tf.data.Dataset

    @property
    def train(self):
        """The endless dataset of training batches: give `steps_per_epoch` to `fit`."""
        return self.train_from(0)


def load(source, batch_size=64, augmentation="none", seed=0, **options):
    """Loads a data source as `tf.data` datasets.

    Args:
        source: name of a source (`"digits"`), or a tuple `(images, labels)` of arrays.
        batch_size: int. Images a batch.
        augmentation: name of a row of `AUGMENTATIONS`, applied to training images.
        seed: int. Seed of the order and of the augmentation. The split into training, validation and test images is always the same.
        **options: passed to the source, such as `image_size`.

    Returns:
        A `Data`.

    Raises:
        ValueError: if the source or the augmentation is unknown, or a number out of range.
        ImportError: if the source needs a package that is not installed.

    Example:
    >>> from keras_vit.data import load
    >>> data = load("digits", batch_size=32)
    >>> data.image_shape, data.sizes
    ((16, 16, 3), {'train': 1294, 'validation': 144, 'test': 359})
    """
    if not 0 <= seed < 2**31:
        raise ValueError(f"`seed` must lie between 0 and 2**31 - 1. Received: seed={seed}")
    if isinstance(source, tuple):
        source = arrays(*source, **options)
    else:
        source = choose("data source", source, SOURCES)(**options)
    changes = choose("augmentation", augmentation, AUGMENTATIONS)
    train = source.parts["train"]
    if not 1 <= batch_size <= train.size:
        raise ValueError(f"`batch_size` must lie between 1 and the {train.size} training images. Received: batch_size={batch_size}")
    steps_per_epoch = train.size // batch_size
    num_classes = len(source.class_names)

    def read(part, indexes):
        images, labels = part.read(indexes)
        images = tf.ensure_shape(tf.cast(images, tf.float32), (None, *source.image_shape))
        return images, tf.one_hot(labels, num_classes)

    def training_batch(step):
        epoch, first = step // steps_per_epoch, step % steps_per_epoch * batch_size
        places = tf.range(batch_size, dtype=tf.int64) + first
        indexes = tf.random.experimental.index_shuffle(places, seed=(seed, epoch), max_index=train.size - 1)
        images, labels = read(train, indexes)
        seeds = tf.stack([tf.fill((batch_size,), tf.constant(seed, tf.int64)), epoch * train.size + indexes], axis=-1)
        for number, change in enumerate(changes):
            images, labels = change(images, labels, seeds + (number << 32, 0))  # no two changes share their draws
        return images, labels

    def train_from(step):
        batches = tf.data.Dataset.counter(start=step).map(training_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return batches.prefetch(tf.data.AUTOTUNE)

    def in_order(part):
        batches = tf.data.Dataset.range(part.size).batch(batch_size)
        return batches.map(lambda indexes: read(part, indexes), num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    return Data(
        class_names=source.class_names,
        image_shape=source.image_shape,
        sizes={name: part.size for name, part in source.parts.items()},
        steps_per_epoch=steps_per_epoch,
        train_from=train_from,
        validation=in_order(source.parts["validation"]),
        test=in_order(source.parts["test"]),
    )


def choose(kind, name, table):
    """Returns the row of `table`; an unknown name is a ValueError with the nearest ones, or all."""
    if name in table:
        return table[name]
    near = difflib.get_close_matches(str(name), table) or sorted(table)
    raise ValueError(f"Unknown {kind}; there is {', '.join(map(repr, near))}. Received: {name!r}")
