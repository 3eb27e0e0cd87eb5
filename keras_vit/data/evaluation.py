"""What images go through before a model judges them, as the authors of its weights did it."""

import math
import os

import numpy as np

from keras_vit.layers import checks

# Names of Pillow's filters, all of which antialias when they shrink. "area" is TensorFlow's name for what it calls BOX.
INTERPOLATIONS = {
    "nearest": "NEAREST",
    "bilinear": "BILINEAR",
    "bicubic": "BICUBIC",
    "lanczos": "LANCZOS",
    "lanczos3": "LANCZOS",
    "area": "BOX",
}
CROP_MODES = ("center", "squash")


def evaluation_transform(model):
    """Returns the function that brings an image to what a model takes: resized, and cropped in its centre, as in the weights' evaluation.

    `model.preprocessing` says how. "crop_mode" is "center": the shorter side is resized to that of the model's input divided by
    "crop_fraction"; or "squash": both sides are, out of proportion. "interpolation" names the filter.

    Args:
        model: a `keras_vit.VisionTransformer`. Where its input's size is open, images get the side `model.preprocessing["size"]`.

    Returns:
        A function from an image to a float32 array of the model's input shape without batch: pixels from 0 to 255 if the model normalises
        them itself, else normalised ones. The image is a path, a Pillow image, or an array `(rows, columns)` or
        `(rows, columns, 1, 3 or 4)` of values from 0 to 255.

    Raises:
        ValueError: if the preprocessing is unknown; and the function, if a file is missing, damaged or no image, naming it.
        ImportError: if Pillow is not installed.

    Reference:
        `transforms_imagenet_eval` of timm, which this equals pixel by pixel.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 32, 3), 8, 64, 2, 4, 128)
    >>> keras_vit.data.evaluation_transform(model)(np.zeros((60, 40, 3), "uint8")).shape
    (32, 32, 3)
    """
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


def read_image(image, mode="RGB"):
    """Returns a Pillow image, upright, in a colour mode.

    Args:
        image: a path, a Pillow image or an array, as in `evaluation_transform`.
        mode: "RGB" or "L". Transparency is left out; 16 bits become 8.

    Raises:
        ValueError: if a file is missing, damaged or no image, naming it; or if an array is none.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise ImportError("Reading images needs Pillow: pip install pillow") from None
    if isinstance(image, (str, os.PathLike)):
        try:
            with Image.open(image) as file:
                file.load()
                return read_image(file, mode)
        except FileNotFoundError:
            raise ValueError(f"An image must exist. Received: {image}") from None
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"An image must be a whole file in a format that Pillow reads ({error}). Received: {image}") from error
    if not isinstance(image, Image.Image):
        return Image.fromarray(_bytes(image)).convert(mode)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits: Pillow would cut off what is above 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257.0).round().astype("uint8"))
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


def _bytes(image):
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    in_form = (array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (3, 4))) and array.size and array.dtype.kind in "uif"
    if not in_form or not (array.min() >= 0 and array.max() <= 255):
        raise ValueError(
            "An array must be an image (rows, columns) or (rows, columns, 1, 3 or 4) of values from 0 to 255. "
            f"Received: {array.dtype} of shape {array.shape}"
        )
    return np.rint(array).astype("uint8")


def _resized(image, target, preprocessing):
    from PIL import Image

    # The tiny addend undoes the rounding of fractions such as 224 / 248.
    rows, columns = (math.floor(side / preprocessing["crop_fraction"] + 1e-6) for side in target)
    if preprocessing["crop_mode"] == "center":
        width, height = image.size
        whole = int if rows == columns else round  # torchvision's way, and timm's own for other shapes
        if width * rows <= height * columns:
            rows = whole(columns * height / width)
        else:
            columns = whole(rows * width / height)
    image = image.resize((columns, rows), Image.Resampling[INTERPOLATIONS[preprocessing["interpolation"]]])
    top, left = round((rows - target[0]) / 2), round((columns - target[1]) / 2)
    return image.crop((left, top, left + target[1], top + target[0]))
