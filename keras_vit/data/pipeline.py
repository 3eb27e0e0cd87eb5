"""Builds batches from a source. A training batch is a pure function of the seed and the step, so that a run can resume at any step."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_vit.data.augmentation import Augmentation, open_augmentation
from keras_vit.data.augmentation.crops import WindowCrop, evaluation_crop
from keras_vit.data.sources import Source, open_source
from keras_vit.layers import checks

AUTOTUNE = tf.data.AUTOTUNE


@dataclasses.dataclass(frozen=True)
class Data:
    """The result of `load`: training, validation and test images as batches `(images, labels)`.

    Images are float32 `(batch, rows, columns, 3)` in 0..255. Labels are class indices, int64 `(batch,)`. If the augmentation mixes labels
    (MixUp, CutMix), or an image may have several classes, the labels of all splits are float32 `(batch, classes)`.

    Args:
        class_names: tuple of str.
        image_shape: (rows, columns, 3).
        sizes: dict from "train", "validation" and "test" to the number of images.
        steps_per_epoch: int. Number of batches of an epoch. An incomplete last batch is left out.
        train: `tf.data.Dataset` of one epoch of training batches, for `fit`. Each pass over it is the next epoch, with another order
            and another augmentation. The first pass has the batches of `train_from(0)`. A pass that stops before the last batch does not
            count: the next pass repeats the epoch.
        train_from: function that takes a step, counted from the start of training, and returns an infinite dataset that starts with the
            batch of this step. Nothing before that batch is read.
        splits: dict from "train", "validation" and "test" to a `tf.data.Dataset` of the images in a fixed order, without augmentation.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int | None, int | None, int]
    sizes: dict[str, int]
    steps_per_epoch: int
    train: tf.data.Dataset
    train_from: Callable[[int], tf.data.Dataset]
    splits: dict[str, tf.data.Dataset]

    @property
    def validation(self) -> tf.data.Dataset:
        return self.splits["validation"]

    @property
    def test(self) -> tf.data.Dataset:
        return self.splits["test"]


def load(
    source: str | os.PathLike | tuple | list | Source,
    batch_size: int = 64,
    augmentation: str | Augmentation | Callable = "none",
    seed: int = 0,
    preprocessing: dict | None = None,
    train_images: int | None = None,
    shard: tuple[int, int] = (0, 1),
    shard_by: str = "batch",
    **options: Any,
) -> Data:
    """Loads a data source as `tf.data` datasets.

    Args:
        source: a name, `"digits"`, `"fashion_mnist"` or `"tfds:NAME"`; the path of a folder with one subfolder per class; a tuple
            `(images, labels)` of arrays; `((images, labels), (test images, test labels))`, as `keras.datasets` returns them; or a
            `keras_vit.data.sources.Source`, from `keras_vit.data.sources.open_source` or of your own.
        batch_size: int. Number of images per batch. Defaults to 64.
        augmentation: augmentation of the training images: the name of a row of `AUGMENTATIONS`, to which "+randaugment(MAGNITUDE)" and
            "+mixup(ALPHA)" may be added; an `Augmentation`; or a Keras layer or a function that maps a batch of images to a batch. With
            the last two a run cannot resume exactly: the draws of Keras's layers depend on the order in which threads call them.
            Defaults to "none".
        seed: int. Seed of the order and of the augmentation. The split into training, validation and test images is always the same.
            Defaults to 0.
        preprocessing: dict such as `model.preprocessing`, with the resize and crop of images of different sizes for evaluation, see
            `keras_vit.data.evaluation_transform`. Defaults to None: the shorter side is resized to `image_size / 0.875`, bicubic, and the
            center is cropped.
        train_images: int or None. Trains on a fixed, stratified subset of this many training images. Defaults to None, all of them.
        shard: (index, count). The shard of one of several machines that train together. With (1, 4), a training batch is the second
            quarter of a batch of `batch_size` images, and only these images are read. MixUp and CutMix mix within a shard. Defaults to
            (0, 1), the whole batch.
        shard_by: "batch", or "files" for training images that do not fit on one machine: each machine then draws its shard of a batch
            from its own training files, tar files or those of TFDS, and opens no others. Defaults to "batch".
        **options: further arguments of the source, such as `image_size`: see `arrays`, `digits`, `fashion_mnist`, `folder` and `tfds` in
            `keras_vit.data.sources`.

    Returns:
        A `Data`.

    Raises:
        ValueError: if the source or the augmentation is unknown, or a number is out of range.
        ImportError: if the source needs a package that is not installed.

    Example:
    >>> from keras_vit.data import load
    >>> data = load("digits", batch_size=32)
    >>> data.image_shape, data.sizes
    ((16, 16, 3), {'train': 1294, 'validation': 144, 'test': 359})
    >>> model = keras_vit.ViTMicro4(num_classes=10, input_shape=data.image_shape)
    >>> model.compile("adamw", "sparse_categorical_crossentropy", metrics=["accuracy"])
    >>> history = model.fit(data.train, validation_data=data.validation, epochs=5)  # doctest: +SKIP
    """
    seed = checks.seed(seed)
    index, count = checks.shard(shard)
    if batch_size % count:
        raise ValueError(f"`shard` must be (index, count), where count divides the batch. Received: shard={shard}, batch_size={batch_size}")
    checks.one_of("shard_by", shard_by, ("batch", "files"))
    own_files = shard_by == "files" and count > 1
    if own_files and not isinstance(source, Source):  # an open source already holds only the files of this machine
        options["part"] = index, count
    source = open_source(source, options)
    augmentation = open_augmentation(augmentation)
    resize = evaluation_crop(preprocessing)
    if train_images is not None:
        train = source.splits["train"]
        if not 1 <= train_images <= train.size:
            raise ValueError(f"`train_images` must lie between 1 and the {train.size} there are. Received: train_images={train_images}")
        subset = dataclasses.replace(train, size=train_images)
        source = dataclasses.replace(source, splits=source.splits | {"train": subset})
    train = source.splits["train"]
    mine = batch_size // count
    drawn = mine if own_files else batch_size  # images of a batch that are drawn from `train`
    images = min(source.smallest or train.size, train.size)
    if not 1 <= drawn <= images:
        raise ValueError(f"`batch_size` must lie between 1 and the {images} training images. Received: batch_size={batch_size}")
    steps_per_epoch = images // drawn
    num_classes, size = len(source.class_names), source.image_shape[:2]

    def finished(images, labels, *seeds):
        images = tf.ensure_shape(tf.cast(images, tf.float32), (None, *source.image_shape))
        labels = tf.cast(labels, tf.int64) if labels.shape.rank == 1 else tf.ensure_shape(labels, (None, num_classes))
        return images, labels, *seeds

    def draw(positions):
        """Returns the indices and seeds of the images at some positions, counted from the start of training."""
        steps = positions // drawn
        epochs, places = steps // steps_per_epoch, steps % steps_per_epoch * drawn + positions % drawn
        seeds = tf.fill(tf.shape(epochs), tf.constant(seed, tf.int64))
        copies, places = places % augmentation.repeats, places // augmentation.repeats
        # The positions of a call belong to one batch, and therefore to one epoch.
        indices = tf.random.experimental.index_shuffle(places, seed=(seed, epochs[0]), max_index=train.size - 1)
        numbers = (epochs * train.size + indices) * augmentation.repeats + copies
        if own_files:  # an index stands for different images on different machines
            numbers = numbers * count + index
        return indices, tf.stack([seeds, numbers], axis=-1)

    def read_batch(positions):
        indices, seeds = draw(positions)
        return *train.read(indices), seeds

    def read_image(position):
        indices, seeds = draw(position[None])
        # Seeds of image changes start at 256: the numbers below are for changes of batches.
        crop, first = augmentation.crop or (None if train.same_shape else resize), seeds[0] + (256 << 32, 0)
        if train.read_window and isinstance(crop, WindowCrop):
            image, label = train.read_window(indices[0], lambda shape: crop.window(shape, first))
            image = crop.finish(image, size)
        else:
            image, label = train.read_one(indices[0])
            image = crop(image, first, size) if crop else image
        if image.dtype != tf.uint8:
            image = tf.cast(tf.round(image), tf.uint8)
        image = tf.ensure_shape(image, source.image_shape)
        for number, change in enumerate(augmentation.image, start=257 if crop else 256):
            image = change(image, seeds[0] + (number << 32, 0))
        return image, label, seeds[0]

    def change_batch(images, labels, seeds):
        changed = whole = tf.one_hot(labels, num_classes) if labels.shape.rank == 1 else labels
        for number, change in enumerate(augmentation.batch):
            images, changed = change(images, changed, seeds + (number << 32, 0))  # no two changes share their draws
        return images, labels if changed is whole else changed

    # Traced once for all datasets: for a policy of many operations that takes a second.
    read_image, change_batch = tf.function(read_image), tf.function(change_batch)

    def batches_at(positions):
        if count > 1 and not own_files:
            positions = positions.map(lambda position: position // mine * batch_size + index * mine + position % mine)
        if train.same_shape and not augmentation.crop and not augmentation.image:
            batches = positions.batch(mine).map(read_batch, AUTOTUNE, deterministic=True)
        else:  # image by image, so that all cores work on one batch
            batches = positions.map(read_image, AUTOTUNE, deterministic=True).batch(mine)
        batches = batches.map(finished).map(change_batch, AUTOTUNE, deterministic=True)
        return prefetched(batches, count)

    def train_from(step):
        return batches_at(tf.data.Dataset.counter(start=step * mine))

    train_batches = epoch_by_epoch(batches_at, steps_per_epoch, mine)
    mixes = train_batches.element_spec[1].shape.rank == 2

    def in_order(split):
        indices = tf.data.Dataset.range(split.size)
        if split.same_shape:
            batches = indices.batch(batch_size).map(split.read, AUTOTUNE, deterministic=True)
        else:
            images = indices.map(split.read_one, AUTOTUNE, deterministic=True)
            batches = images.map(lambda image, label: (resize(image, None, size), label), AUTOTUNE, deterministic=True).batch(batch_size)
        batches = batches.map(finished)
        if mixes and batches.element_spec[1].shape.rank == 1:  # the same loss and metric are used for all splits
            batches = batches.map(lambda images, labels: (images, tf.one_hot(labels, num_classes)))
        return batches.prefetch(AUTOTUNE)

    ordered = {id(split): in_order(split) for split in source.splits.values()}  # two splits may be the same
    return Data(
        class_names=source.class_names,
        image_shape=source.image_shape,
        sizes={name: split.size for name, split in source.splits.items()},
        steps_per_epoch=steps_per_epoch,
        train=train_batches,
        train_from=train_from,
        splits={name: ordered[id(split)] for name, split in source.splits.items()},
    )


def prefetched(batches, machines: int):
    """Returns batches that are read ahead. With several machines they are the shards of one, so TensorFlow must not shard them again."""
    if machines > 1:
        options = tf.data.Options()
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
        batches = batches.with_options(options)
    return batches.prefetch(AUTOTUNE)


def epoch_by_epoch(batches_at, steps: int, batch_size: int):
    """Returns a dataset of one epoch. After each complete pass, it yields the next epoch.

    A pass is complete when its last batch is taken: Keras reads a first batch before it trains, and opens iterators that it does not use.

    Args:
        batches_at: function that takes a dataset of positions, counted in images from the start of training, and returns a dataset of
            their batches.
        steps: int. Number of batches of an epoch.
        batch_size: int. Number of positions of a batch.
    """
    done = []  # one entry for each complete pass

    def positions(_):
        epoch = tf.numpy_function(lambda: np.int64(len(done)), [], tf.int64)
        return tf.data.Dataset.range(epoch * steps * batch_size, (epoch + 1) * steps * batch_size)

    def count(number, batch):
        def complete():
            return tf.numpy_function(lambda: np.bool_(done.append(None) is None), [], tf.bool)

        with tf.control_dependencies([tf.cond(number == steps - 1, complete, lambda: False)]):
            return tf.nest.map_structure(tf.identity, batch)

    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False  # a prefetch would count batches that nobody has taken yet
    batches = batches_at(tf.data.Dataset.from_tensors(0).flat_map(positions))
    batches = batches.enumerate().map(count).apply(tf.data.experimental.assert_cardinality(steps))
    return batches.with_options(options)
