"""The operations of RandAugment, 3-Augment and color jitter on a uint8 image. The results equal Pillow's, unless noted.

Each function takes an image `(rows, columns, 3)` of uint8. Most take a float32 scalar, too.
"""

from typing import Any

import numpy as np
import tensorflow as tf

LEVELS = np.arange(256)


def identity(image: Any) -> Any:
    return image


def autocontrast(image: Any) -> Any:
    present = histogram(image) > 0
    lowest = tf.cast(tf.argmax(present, axis=0), tf.float64)
    highest = 255.0 - tf.cast(tf.argmax(present[::-1], axis=0), tf.float64)
    scale = 255.0 / (highest - lowest)
    table = tf.clip_by_value(tf.constant(LEVELS[:, None], tf.float64) * scale - lowest * scale, 0.0, 255.0)
    return look_up(tf.where(highest > lowest, table, LEVELS[:, None].astype("float64")), image)


def equalize(image: Any) -> Any:
    counts = histogram(image)
    highest = 255 - tf.argmax((counts > 0)[::-1], axis=0)
    step = (tf.reduce_sum(counts, axis=0) - tf.gather(tf.transpose(counts), highest, batch_dims=1)) // 255
    below = tf.cumsum(counts, exclusive=True)
    table = tf.minimum((below + step // 2) // tf.maximum(step, 1), 255)
    return look_up(tf.where(step > 0, table, LEVELS[:, None].astype("int32")), image)


def invert(image: Any) -> Any:
    return 255 - image


def posterize(image: Any, bits: Any) -> Any:
    """Keeps the `bits` highest bits of each pixel."""
    shift = 8 - tf.cast(bits, tf.int32)
    mask = tf.bitwise.left_shift(tf.bitwise.right_shift(255, shift), shift)
    return tf.bitwise.bitwise_and(image, tf.cast(mask, tf.uint8))


def solarize(image: Any, threshold: Any) -> Any:
    """Inverts the pixels from `threshold` upward."""
    # 255 - x has the opposite bits of x. `tf.where` takes four times as long.
    return tf.bitwise.bitwise_xor(image, 255 * tf.cast(tf.cast(image, tf.float32) >= threshold, tf.uint8))


def solarize_add(image: Any, addition: Any) -> Any:
    """Adds `addition` to the pixels below 128."""
    wide = tf.cast(image, tf.int32)
    return tf.cast(tf.minimum(wide + tf.cast(addition, tf.int32) * tf.cast(wide < 128, tf.int32), 255), tf.uint8)


def color(image: Any, factor: Any) -> Any:
    """Changes the saturation: a factor of 0 gives a gray image, 1 the original."""
    return blend(gray(image), image, factor)


def contrast(image: Any, factor: Any) -> Any:
    """Changes the contrast: a factor of 0 gives an image of the mean gray, 1 the original."""
    total = tf.reduce_sum(tf.cast(gray(image), tf.int64))
    pixels = tf.size(image, out_type=tf.int64) // 3
    mean = (2 * total + pixels) // (2 * pixels)
    return blend(tf.cast(mean, tf.uint8), image, factor)


def brightness(image: Any, factor: Any) -> Any:
    """Changes the brightness: a factor of 0 gives a black image, 1 the original."""
    return blend(tf.constant(0, tf.uint8), image, factor)


def sharpness(image: Any, factor: Any) -> Any:
    """Changes the sharpness: a factor of 0 gives a smoothed image, 1 the original."""
    wide = tf.cast(image, tf.int32)
    rows = wide[:-2] + wide[1:-1] + wide[2:]
    box = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * wide[1:-1, 1:-1]
    inner = tf.cast((2 * box + 13) // 26, tf.uint8)  # divided by 13 and rounded
    middle = tf.concat([image[1:-1, :1], inner, image[1:-1, -1:]], axis=1)  # Pillow leaves the border as it is
    return blend(tf.concat([image[:1], middle, image[-1:]], axis=0), image, factor)


def gaussian_blur(image: Any, radius: Any) -> Any:
    """Blurs by three box blurs, as Pillow does, but without rounding between them: results differ by up to 3 levels. `radius` is at most 2.

    Reference:
        Pillow's BoxBlur.c.
    """
    variance = tf.cast(radius, tf.float32) ** 2 / 3.0
    whole = tf.floor((tf.sqrt(12.0 * variance + 1.0) - 1.0) / 2.0)
    edge = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    reach = whole + edge

    def blur(length):
        offsets = tf.range(-2, 3)
        weights = tf.clip_by_value(reach - tf.cast(tf.abs(offsets), tf.float32) + 1.0, 0.0, 1.0) / (2.0 * reach + 1.0)
        sources = tf.clip_by_value(tf.range(length)[:, None] + offsets, 0, length - 1)
        box = tf.reduce_sum(tf.one_hot(sources, length) * weights[:, None], axis=1)
        return box @ box @ box

    rows, columns = tf.shape(image)[0], tf.shape(image)[1]
    blurred = tf.einsum("xc,rck->rxk", blur(columns), tf.cast(image, tf.float32))
    blurred = tf.einsum("yr,rxk->yxk", blur(rows), blurred)
    return tf.cast(tf.clip_by_value(tf.round(blurred), 0.0, 255.0), tf.uint8)


def shear_x(image: Any, slant: Any, **options: Any) -> Any:
    return affine(image, (1.0, slant, 0.0), (0.0, 1.0, 0.0), **options)


def shear_y(image: Any, slant: Any, **options: Any) -> Any:
    return affine(image, (1.0, 0.0, 0.0), (slant, 1.0, 0.0), **options)


def translate_x(image: Any, pixels: Any, **options: Any) -> Any:
    return affine(image, (1.0, 0.0, pixels), (0.0, 1.0, 0.0), **options)


def translate_y(image: Any, pixels: Any, **options: Any) -> Any:
    return affine(image, (1.0, 0.0, 0.0), (0.0, 1.0, pixels), **options)


def rotate(image: Any, degrees: Any, **options: Any) -> Any:
    rows, columns = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float64))
    angle = -tf.cast(degrees, tf.float64) * (np.pi / 180.0)
    cos, sin = tf.cos(angle), tf.sin(angle)
    x, y = columns / 2.0, rows / 2.0
    return affine(image, (cos, sin, x - cos * x - sin * y), (-sin, cos, y + sin * x - cos * y), **options)


def affine(image: Any, to_x, to_y, fill: tuple[int, int, int] = (128, 128, 128), interpolation: str = "nearest") -> Any:
    """Applies an affine transform: output pixel (x, y) is input pixel (a x + b y + c, d x + e y + f), or `fill` outside the image.

    Args:
        image: uint8 `(rows, columns, 3)`.
        to_x: (a, b, c), as in Pillow's `Image.transform`: pixel centers are at 0.5, 1.5, ...
        to_y: (d, e, f).
        fill: three ints. Color of pixels outside the image. Defaults to gray.
        interpolation: "nearest", which equals Pillow's fixed-point arithmetic in 1 / 65536 pixels, or "bilinear", which differs by at
            most one level. Defaults to "nearest".
    """
    rows, columns = tf.shape(image)[0], tf.shape(image)[1]
    down, right = tf.range(rows)[:, None], tf.range(columns)[None]
    pixels = tf.reshape(image, (-1, 3))
    (a, b, c), (d, e, f) = ([tf.cast(value, tf.float64) for value in line] for line in (to_x, to_y))
    c, f = c + (a + b) / 2.0, f + (d + e) / 2.0
    if interpolation == "nearest":
        a, b, c, d, e, f = tf.unstack(tf.cast(tf.floor(tf.stack([a, b, c, d, e, f]) * 65536.0 + 0.5), tf.int32))
        x, y = (tf.bitwise.right_shift(value, 16) for value in (c + b * down + a * right, f + e * down + d * right))
        taken = tf.gather(pixels, tf.clip_by_value(y, 0, rows - 1) * columns + tf.clip_by_value(x, 0, columns - 1))
    else:
        a, b, c, d, e, f = tf.unstack(tf.cast(tf.stack([a, b, c, d, e, f]), tf.float32))
        down, right = tf.cast(down, tf.float32), tf.cast(right, tf.float32)
        x, y = c + b * down + a * right, f + e * down + d * right
        left, top = tf.floor(x - 0.5), tf.floor(y - 0.5)
        to_right, to_bottom = (x - 0.5 - left)[..., None], (y - 0.5 - top)[..., None]
        left, top = tf.cast(left, tf.int32), tf.cast(top, tf.int32)

        def at(y, x):
            place = tf.clip_by_value(y, 0, rows - 1) * columns + tf.clip_by_value(x, 0, columns - 1)
            return tf.cast(tf.gather(pixels, place), tf.float32)

        above = at(top, left) * (1.0 - to_right) + at(top, left + 1) * to_right
        below = at(top + 1, left) * (1.0 - to_right) + at(top + 1, left + 1) * to_right
        taken = tf.cast(above * (1.0 - to_bottom) + below * to_bottom, tf.uint8)
        x, y = tf.cast(tf.floor(x), tf.int32), tf.cast(tf.floor(y), tf.int32)
    inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
    return tf.where(inside[..., None], taken, tf.constant(fill, tf.uint8))


def cutout(image: Any, reach, center, fill: tuple[int, int, int] = (128, 128, 128)) -> Any:
    """Fills a square of side `2 * reach` around `center`, a pair of fractions of rows and columns."""
    shape = tf.shape(image)[:2]
    row, column = tf.unstack(tf.cast(tf.cast(shape, tf.float32) * center, tf.int32))
    down, right, reach = tf.range(shape[0])[:, None], tf.range(shape[1])[None], tf.cast(reach, tf.int32)
    inside = (down >= row - reach) & (down < row + reach) & (right >= column - reach) & (right < column + reach)
    return tf.where(inside[..., None], tf.constant(fill, tf.uint8), image)


def gray(image: Any) -> Any:
    """Returns the image as Pillow's gray (ITU-R 601-2), with one channel of uint8."""
    red, green, blue = tf.unstack(tf.cast(image, tf.int32), axis=-1)
    return tf.cast(tf.bitwise.right_shift(red * 19595 + green * 38470 + blue * 7471 + 0x8000, 16), tf.uint8)[..., None]


def blend(one, other, factor: Any) -> Any:
    """Returns `one + factor * (other - one)`, clipped to 0..255 and truncated to whole levels."""
    one, other = tf.cast(one, tf.float32), tf.cast(other, tf.float32)
    return tf.cast(tf.clip_by_value(one + factor * (other - one), 0.0, 255.0), tf.uint8)


def histogram(image: Any) -> Any:
    """Returns the number of pixels of each level: int32 `(256, 3)`."""
    levels = tf.cast(image, tf.int32) + (0, 256, 512)
    return tf.transpose(tf.reshape(tf.math.bincount(tf.reshape(levels, (-1,)), minlength=768, maxlength=768), (3, 256)))


def look_up(table, image: Any) -> Any:
    """Replaces each level by its entry in `table` `(256, 3)`."""
    table = tf.reshape(tf.transpose(tf.cast(table, tf.uint8)), (768,))
    return tf.gather(table, tf.cast(image, tf.int32) + (0, 256, 512))
