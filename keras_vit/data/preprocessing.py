"""Prepares images for evaluation: resizes, crops and normalizes them as in the evaluation of the model's weights."""

import functools
import math
import os
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_vit.backbone import find_vision_transformer, of_images
from keras_vit.layers import checks

# Our names -> Pillow's filters, all of which antialias when they shrink. "area" is TensorFlow's name for Pillow's BOX.
INTERPOLATIONS = {
    "nearest": "NEAREST",
    "bilinear": "BILINEAR",
    "bicubic": "BICUBIC",
    "lanczos": "LANCZOS",
    "lanczos3": "LANCZOS",
    "area": "BOX",
}
CROP_MODES = ("center", "squash")
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM")  # of Pillow
MOST_ASPECT = 100  # the middle of a longer image is taken: enlarged until its short side fits, it would take gigabytes
EXIF_ORIENTATION = 0x0112
# EXIF orientation -> name of the transposition of Pillow that turns the image upright.
UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def evaluation_transform(model: keras.Model) -> Callable[..., np.ndarray]:
    """Returns a function that resizes and crops an image for a model, as in the evaluation of its weights.

    The entries of `model.preprocessing` decide how. With the "crop_mode" "center", the shorter side is resized to that of the model's
    input divided by "crop_fraction", and the center is cropped. With "squash", both sides are resized, which changes the aspect ratio.
    "interpolation" names the filter.

    Args:
        model: a `keras_vit.VisionTransformer`, or a model that contains one. If its input size is open, images get the side
            `model.preprocessing["size"]`.

    Returns:
        A function that takes an image and returns a float32 array of the model's input shape, without the batch axis. Pixels lie between
        0 and 255 if the model normalizes them itself, and are normalized otherwise. The image is a path, a Pillow image, or an array
        `(rows, columns)` or `(rows, columns, 1, 3 or 4)` of values from 0 to 255.

    Raises:
        ValueError: if `model` is of another kind, or its preprocessing is unknown. The function raises it, naming the file, if a file is
            missing, damaged or not an image; and if an array does not hold pixels from 0 to 255, channels last. For pixels from 0 to 1
            it warns.
        ImportError: if Pillow is not installed.

    Reference:
        `transforms_imagenet_eval` of timm. The results are equal pixel by pixel.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 32, 3), 8, 64, 2, 4, 128)
    >>> keras_vit.data.evaluation_transform(model)(np.zeros((60, 40, 3), "uint8")).shape
    (32, 32, 3)
    """
    model = of_images(find_vision_transformer(model))
    config, preprocessing = model.get_config(), model.preprocessing
    checks.one_of("interpolation", preprocessing["interpolation"], INTERPOLATIONS)
    checks.one_of("crop_mode", preprocessing["crop_mode"], CROP_MODES)
    if not 0.0 < preprocessing["crop_fraction"] <= 1.0:
        raise ValueError(f"`crop_fraction` must lie in (0, 1]. Received: crop_fraction={preprocessing['crop_fraction']}")
    channels_first = config["data_format"] == "channels_first"
    shape = config["input_shape"]
    *sides, channels = (*shape[1:], shape[0]) if channels_first else shape
    if channels not in (1, 3):
        raise ValueError(f"Images are read for models of 1 or 3 channels. Received: a model of {channels} channels")
    target = tuple(preprocessing["size"] or 224 if side is None else side for side in sides)

    def transform(image):
        image = _resized(read_image(image, "RGB" if channels == 3 else "L"), target, preprocessing)
        pixels = np.asarray(image, "float32").reshape(*target, channels)
        if not config["include_preprocessing"]:
            pixels = (pixels / 255.0 - np.float32(preprocessing["mean"])) / np.float32(preprocessing["std"])
        return np.transpose(pixels, (2, 0, 1)) if channels_first else pixels

    return transform


def read_image(image: Any, mode: str = "RGB"):
    """Returns a Pillow image, upright, in a color mode.

    Args:
        image: a path, a Pillow image or an array, as in `evaluation_transform`.
        mode: "RGB" or "L". Transparency is dropped, and 16 bits become 8. Defaults to "RGB".

    Raises:
        ValueError: naming the file if it is missing, damaged or not an image; or if an array is not an image.
        ImportError: if Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("Reading images needs Pillow: pip install pillow") from None
    if isinstance(image, (str, bytes, os.PathLike)):
        if not os.path.exists(image):
            raise ValueError(f"No such image file. Received: {printable(image)}")
        try:
            with open_image(os.fsdecode(image)) as file:
                file.load()
                return read_image(file, mode)
        except Exception as error:  # a decoder may raise anything on a damaged file: struct.error, TypeError, SyntaxError ...
            raise ValueError(
                f"An image file must be whole and of a format that Pillow reads ({error}). Received: {printable(image)}"
            ) from error
    if not isinstance(image, Image.Image):
        return Image.fromarray(_bytes(image)).convert(mode)
    turn = UPRIGHT.get(orientation(image))
    image = image.transpose(Image.Transpose[turn]) if turn else image
    if image.mode.startswith("I"):  # 16 bits: Pillow would clip values above 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257.0).round().astype("uint8"))
    if image.mode == "F":
        raise ValueError("An image must hold whole numbers. Received: floating-point pixels, whose range is not known")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    image = image.convert(mode)
    image.info = {}  # without its EXIF data, which would turn the image again the next time
    return image


@functools.cache
def formats() -> tuple[str, ...]:
    """Returns the names of the image formats that are read, of those that this Pillow can decode.

    Its other formats are left out: some start programs, such as Ghostscript for EPS, whatever the name of the file.
    """
    from PIL import Image, features

    Image.init()
    lacking = {name.upper() for name in ("webp", "avif") if not features.check(name)}
    return tuple(name for name in FORMATS if name in Image.OPEN and name not in lacking)


def open_image(file: Any):
    """Returns the Pillow image of a file, not decoded yet.

    Args:
        file: path or binary file.

    Raises:
        Exception: of any kind, as a decoder does on a damaged file; and if it declares more pixels than twice `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    from PIL import Image

    return Image.open(file, formats=formats())


def orientation(image: Any):
    """Returns the EXIF orientation of a Pillow image, 1 to 8, where 1 is upright."""
    try:
        return image.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # Pillow does not document what it raises on malformed metadata; the pixels can be read all the same
        return 1


def printable(path: Any) -> str:
    """Returns a path as printable text, even if its bytes are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def evaluation_geometry(given: Any, target: Any, preprocessing: dict[str, Any], xp=np):
    """Returns the size that an image is resized to for evaluation, and the corner of the crop.

    Args:
        given: (rows, columns) of the image, as float64 scalars.
        target: (rows, columns) of the model's input, as ints.
        preprocessing: dict with "crop_fraction" and "crop_mode", such as `model.preprocessing`.
        xp: module that computes: `numpy`, or `tensorflow` for use in a graph.

    Returns:
        `(rows, columns), (top, left)`, integers as floats.
    """
    # The tiny addend undoes the rounding error of fractions such as 224 / 248.
    least = [float(math.floor(side / preprocessing["crop_fraction"] + 1e-6)) for side in target]
    if preprocessing["crop_mode"] == "squash":
        size = least
    else:
        size = covering(given, least, xp)
    return size, [xp.round((side - cut) / 2) for side, cut in zip(size, target)]


def covering(given: Any, least, xp=np):
    """Returns the smallest (rows, columns) of the image's aspect ratio that cover `least`. Other arguments as in `evaluation_geometry`."""
    whole = xp.floor if least[0] == least[1] else xp.round  # as torchvision, and for other shapes timm, do
    rows, columns = given
    return xp.maximum(whole(least[1] * rows / columns), least[0]), xp.maximum(whole(least[0] * columns / rows), least[1])


def _bytes(image):
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    in_form = (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))) and array.size and array.dtype.kind in "uifb"
    if not in_form or not (array.min() >= 0 and array.max() <= 255):
        odd = checks.odd_pixels(array) if in_form else checks.odd_layout(array.shape)
        raise ValueError(
            "An array must be an image (rows, columns) or (rows, columns, 1, 3 or 4) of values from 0 to 255. "
            f"Received: {array.dtype} of shape {array.shape}" + (f", {odd}" if odd else "")
        )
    if odd := checks.odd_pixels(array):  # only a warning, because an image may be almost black
        warnings.warn(f"An image must hold values from 0 to 255. Received: {odd}", stacklevel=4)
    return np.rint(array).astype("uint8")


def middle(given: Any, xp=np):
    """Returns the window (top, left, rows, columns) of a long image around its center, of which a crop to a model's input shows a part.

    Args:
        given: (rows, columns) of the image, as ints.
        xp: module that computes: `numpy`, or `tensorflow` for use in a graph.
    """
    rows, columns = given
    shown = xp.minimum(rows, MOST_ASPECT * columns), xp.minimum(columns, MOST_ASPECT * rows)
    return (rows - shown[0]) // 2, (columns - shown[1]) // 2, *shown


def _resized(image, target, preprocessing):
    from PIL import Image

    if preprocessing["crop_mode"] == "center":
        top, left, rows, columns = map(int, middle((image.height, image.width)))
        if (rows, columns) != (image.height, image.width):
            image = image.crop((left, top, left + columns, top + rows))
    size, corner = evaluation_geometry((np.float64(image.height), np.float64(image.width)), target, preprocessing)
    (rows, columns), (top, left) = ([int(value) for value in pair] for pair in (size, corner))
    image = image.resize((columns, rows), Image.Resampling[INTERPOLATIONS[preprocessing["interpolation"]]])
    return image.crop((left, top, left + target[1], top + target[0]))
