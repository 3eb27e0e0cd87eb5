"""Random changes of training images, each a pure function of the image and its seed: a repeated step sees the same images.

Keras's own random layers cannot promise this: under a parallel map their draws depend on which batch comes first.
"""

import math

import tensorflow as tf


def affine(rotation=0.0, scale=0.0, shift=0.0, shear=0.0):
    """Returns a random affine change: turns, resizes, moves and slants each image about its centre; what moves in is black.

    Args:
        rotation: float. Largest angle, in degrees, either way.
        scale: float. Largest relative change of size: 0.1 draws from [0.9, 1.1].
        shift: float. Largest move along each axis, as a share of the image's side.
        shear: float. Largest slant along the rows, as the tangent of its angle.

    Returns:
        A function from `(images, labels, seeds)`, batched, to `(images, labels)`.
    """

    def apply(images, labels, seeds):
        rows, columns = images.shape[1:3]
        turn, size, right, down, slant = tf.unstack(uniform(seeds, 5, -1.0, 1.0), axis=-1)
        angle = turn * (rotation * math.pi / 180.0)
        zoom = 1.0 / (1.0 + size * scale)  # the op asks where each output pixel comes from, hence the inverses
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


AUGMENTATIONS = {  # name: the changes, in their order
    "none": (),
    "digits": (affine(rotation=10.0, scale=0.1, shift=0.08, shear=0.1),),  # no flips: a mirrored digit is another sign
}


def uniform(seeds, count, low, high):
    """Draws `count` numbers for each of the `seeds` (n, 2). Returns float32 `(n, count)`."""
    return tf.map_fn(lambda seed: tf.random.stateless_uniform((count,), seed, low, high), seeds, fn_output_signature=tf.float32)
