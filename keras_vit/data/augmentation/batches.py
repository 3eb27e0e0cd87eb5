"""Augmentation of whole batches: functions `(images, labels, seeds) -> (images, labels)`. The seed of an image is a pair of int64."""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf


def affine(rotation: float = 0.0, scale: float = 0.0, shift: float = 0.0, shear: float = 0.0) -> Callable:
    """Returns a random affine transform: it rotates, scales, shifts and shears each image about its center. Uncovered pixels are black.

    Args:
        rotation: float. Largest angle in degrees, in both directions. Defaults to 0.0.
        scale: float. Largest relative change of size: 0.1 draws from [0.9, 1.1]. Defaults to 0.0.
        shift: float. Largest shift along each axis, as a fraction of the image's side. Defaults to 0.0.
        shear: float. Largest shear along the rows, as the tangent of its angle. Defaults to 0.0.

    Returns:
        A function `(images, labels, seeds) -> (images, labels)`.
    """

    def apply(images, labels, seeds):
        rows, columns = images.shape[1:3]
        turn, size, right, down, slant = tf.unstack(uniform(seeds, 5, -1.0, 1.0), axis=-1)
        angle = turn * (rotation * math.pi / 180.0)
        zoom = 1.0 / (1.0 + size * scale)  # inverted, because the op maps output pixels to input pixels
        cos, sin, slant = zoom * tf.cos(angle), zoom * tf.sin(angle), slant * shear
        a, b, c, d = cos, cos * slant + sin, -sin, cos - sin * slant
        x, y = (columns - 1) / 2, (rows - 1) / 2
        from_x, from_y = x + right * shift * columns, y + down * shift * rows
        nothing = tf.zeros_like(turn)
        moved = tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=tf.stack([a, b, x - a * from_x - b * from_y, c, d, y - c * from_x - d * from_y, nothing, nothing], axis=-1),
            output_shape=(rows, columns),
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
        )
        return moved, labels

    return apply


def mirror() -> Callable:
    """Returns a function that flips half of the images, left to right."""

    def change(images, labels, seeds):
        mirrored = uniform(seeds, 1, 0.0, 1.0) < 0.5
        return tf.where(mirrored[..., None, None], tf.reverse(images, [2]), images), labels

    return change


def pad_and_crop(padding: int) -> Callable:
    """Returns a function that pads images with `padding` black pixels on each side, and cuts out a random window of the original size.

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", 2016, section 4.2, for CIFAR-10 (4 pixels of 32).
    """

    def change(images, labels, seeds):
        rows, columns = images.shape[1:3]
        padded = tf.pad(images, [[0, 0], [padding, padding], [padding, padding], [0, 0]])
        corners = tf.cast(uniform(seeds, 2, 0.0, 2 * padding + 1.0), tf.int32)
        of_rows = tf.gather(padded, corners[:, :1] + tf.range(rows), axis=1, batch_dims=1)
        return tf.gather(of_rows, corners[:, 1:] + tf.range(columns), axis=2, batch_dims=1), labels

    return change


def cutout(side: float) -> Callable:
    """Returns Cutout: it covers a square around a random pixel with black. The square may reach beyond the image.

    Args:
        side: float in (0, 1]. Side of the square, as a fraction of the image's rows and columns.

    Reference:
        DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017, section 3.2 (half of the side
        for CIFAR-10, a quarter for CIFAR-100).
    """

    def change(images, labels, seeds):
        centers = uniform(seeds, 2, 0.0, 1.0)

        def covered(length, places):
            cut, center = round(length * side), tf.floor(places * length)
            low = center - cut // 2
            return (tf.range(0.0, length) >= low) & (tf.range(0.0, length) < low + cut)

        rows, columns = covered(images.shape[1], centers[:, :1]), covered(images.shape[2], centers[:, 1:])
        return tf.where((rows[:, :, None] & columns[:, None])[..., None], 0.0, images), labels

    return change


def mixup(alpha: float) -> Callable:
    """Returns MixUp as in big_vision: it mixes each image with the one before it in the batch, in one ratio of at least one half.

    Reference:
        Zhang et al., "mixup", 2018; `get_mixup` of big_vision (utils.py).

    Example:
    >>> import tensorflow as tf
    >>> images, labels = tf.random.uniform((4, 8, 8, 3)), tf.eye(4)
    >>> seeds = tf.constant([[0, i] for i in range(4)], "int64")
    >>> images, labels = mixup(0.2)(images, labels, seeds)
    """

    def change(images, labels, seeds):
        ratio = beta(alpha, seeds[0])
        ratio = tf.maximum(ratio, 1.0 - ratio)
        return tuple(mixed(ratio, part, tf.roll(part, 1, axis=0)) for part in (images, labels))

    return change


def mixup_or_cutmix(mixup_alpha: float = 0.8, cutmix_alpha: float = 1.0, switch_prob: float = 0.5) -> Callable:
    """Returns timm's `Mixup`: it mixes a batch with its reverse, by CutMix with probability `switch_prob`, else by MixUp.

    Args:
        mixup_alpha: float. Both parameters of the beta distribution of MixUp's ratio; 0 means only CutMix. Defaults to 0.8.
        cutmix_alpha: float. Both parameters of the beta distribution of the area that CutMix keeps; 0 means only MixUp. Defaults to 1.0.
        switch_prob: float. Probability of CutMix for a batch. Defaults to 0.5.

    Reference:
        Yun et al., "CutMix", 2019, section 3; `Mixup(mode="batch", prob=1.0)` of timm (data/mixup.py).
    """
    if mixup_alpha <= 0.0 and cutmix_alpha <= 0.0:
        raise ValueError(f"One alpha must be greater than 0. Received: mixup_alpha={mixup_alpha}, cutmix_alpha={cutmix_alpha}")
    switch_prob = 0.0 if cutmix_alpha <= 0.0 else 1.0 if mixup_alpha <= 0.0 else switch_prob

    def by_mixup(images, labels, seed):
        ratio = beta(mixup_alpha, seed)
        return tuple(mixed(ratio, part, backwards(part)) for part in (images, labels))

    def by_cutmix(images, labels, seed):
        rows, columns = images.shape[1:3]
        side = tf.sqrt(1.0 - beta(cutmix_alpha, seed))
        place = tf.random.stateless_uniform((2,), seed + (0, 1 << 33))

        def span(length, place):
            cut, center = tf.cast(length * side, tf.int32), tf.cast(length * place, tf.int32)
            low, high = tf.maximum(center - cut // 2, 0), tf.minimum(center + (cut + 1) // 2, length)
            return (tf.range(length) >= low) & (tf.range(length) < high)

        inside = span(rows, place[0])[:, None] & span(columns, place[1])
        ratio = 1.0 - tf.reduce_mean(tf.cast(inside, tf.float32))  # the window may be cut off at the border
        return tf.where(inside[..., None], backwards(images), images), mixed(ratio, labels, backwards(labels))

    def change(images, labels, seeds):
        seed = seeds[0]
        if switch_prob in (0.0, 1.0):
            return (by_cutmix if switch_prob else by_mixup)(images, labels, seed)
        switch = tf.random.stateless_uniform((), seed + (0, 1 << 32)) < switch_prob
        return tf.cond(switch, lambda: by_cutmix(images, labels, seed), lambda: by_mixup(images, labels, seed))

    return change


def cutmix(alpha: float = 1.0) -> Callable:
    """Returns CutMix, see `mixup_or_cutmix`."""
    return mixup_or_cutmix(0.0, alpha)


def whole_labels() -> Callable:
    """Returns a function that sets the label of every class in a mixed image to 1, as DeiT-III does for its binary loss.

    Reference:
        Touvron et al., "DeiT III", 2022, section 3; `train_one_epoch` of facebookresearch/deit (engine.py), `bce_loss`.
    """

    def change(images, labels, seeds):
        return images, tf.cast(labels > 0.0, labels.dtype)

    return change


def beta(alpha: float, seed: Any) -> Any:
    """Draws from Beta(alpha, alpha)."""
    one, other = tf.unstack(tf.random.stateless_gamma((2,), seed, tf.constant(alpha, tf.float64), dtype=tf.float64))
    return tf.cast(one / (one + other), tf.float32)


def backwards(batch: Any) -> Any:
    """Returns a batch from its last image to its first. It copies whole images, which `batch[::-1]` does number by number."""
    return tf.gather(batch, tf.range(tf.shape(batch)[0])[::-1])


def mixed(ratio: Any, one: Any, other: Any) -> Any:
    return ratio * one + (1.0 - ratio) * other


def uniform(seeds: Any, count: Any, low: Any, high: Any) -> Any:
    """Returns `count` uniform numbers for each of the `seeds`, `(n, 2)`, as float32 `(n, count)`."""
    return tf.map_fn(lambda seed: tf.random.stateless_uniform((count,), seed, low, high), seeds, fn_output_signature=tf.float32)
