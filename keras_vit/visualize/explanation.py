"""Explains images by one of the package's methods, and draws the result next to each image."""

from typing import Any, NamedTuple

import keras
import numpy as np

from keras_vit.backbone import find_vision_transformer
from keras_vit.visualize.attention_maps import attention_maps
from keras_vit.visualize.attention_rollout import attention_rollout
from keras_vit.visualize.figures import axes_of, enlarge, pixels_of, pixels_to_show, show
from keras_vit.visualize.grad_cam import grad_cam
from keras_vit.visualize.inside import check_images, read_by_head
from keras_vit.visualize.overlay import overlay
from keras_vit.visualize.patch_pca import component_colors
from keras_vit.visualize.relevance import relevance


class Method(NamedTuple):
    """A method: the arguments that it takes besides model and images, and the label of its color bar."""

    takes: tuple
    label: str


METHODS = {
    "attention": Method(("block",), "Attention of a patch (%)"),
    "rollout": Method((), "Attention rollout of a patch (%)"),
    "relevance": Method(("target",), "Share of the relevance (%)"),
    "grad-cam": Method(("block", "target"), "Share of Grad-CAM (%)"),
    "pca": Method(("block",), ""),
}


def explain(model: keras.Model, images: Any, method: str = "attention", block: int | None = None, target: Any = None) -> np.ndarray:
    """Returns the maps of images by a method, for `draw_explanation`.

    Args:
        model: keras.Model. A `VisionTransformer`, or a model that contains one.
        images: array `(batch, rows, columns, channels)`. Input of the model.
        method: str. A name in `METHODS`. Defaults to "attention".
        block: int or None. The block, for methods that explain one. Defaults to None: the last one, or the attention pooling if the model
            has one.
        target: the class, for methods that explain one, as in `relevance`. Defaults to None, the predicted class.

    Returns:
        An array `(batch, rows, columns)` in percent. "pca" returns colors from 0 to 1, `(batch, rows, columns, 3)`.
    """
    if method == "pca":
        return component_colors(model, images, block)
    if method == "attention":
        of_pooling = block is None and read_by_head(model) == "pooling"
        found = attention_maps(model, images, None if of_pooling else -1 if block is None else block)[:, 0].mean(axis=1)
    elif method == "rollout":
        found = attention_rollout(model, images)
    else:
        found = relevance(model, images, target) if method == "relevance" else grad_cam(model, images, target, block)
        found = found / np.maximum(found.sum(axis=(1, 2), keepdims=True), 1e-12)
    return 100.0 * found


def draw_explanation(model: keras.Model, image: Any, map: Any, title: str = "", label: str = "", smooth: bool = False) -> Any:
    """Draws an image, and next to it the image with its map, or the colors of its patches.

    Args:
        model: the model.
        image: array. Input of the model, without the batch axis.
        map: array `(rows, columns)` or `(rows, columns, 3)`, as `explain` returns it.
        title: str. Title of the image. Defaults to "".
        label: str. Label of the color bar. Defaults to "".
        smooth: bool. As in `overlay`. Defaults to False.

    Returns:
        A matplotlib figure.
    """
    pixels = pixels_of(model, check_images(np.asarray(image)[None]))[0]
    rows, columns = pixels.shape[:2]
    height = min(max(3.2 * rows / columns, 1.6), 8.0)
    figure = axes_of(None, 7.6, height + 0.5).figure
    figure.clear()
    left, right = figure.subplots(1, 2)
    show(left, pixels_to_show("image", pixels[None])[0], interpolation="nearest" if min(rows, columns) < 100 else "antialiased")
    left.set_title(title, fontsize=11)
    if map.ndim == 3:
        show(right, enlarge(map, rows, columns))
    else:
        overlay(pixels, map, right, label, smooth=smooth, cell=cell_of(model))
    return figure


def draw_relevances(model: keras.Model, images: Any, classes: Any, titles: Any, heading: str = "") -> Any:
    """Draws images, and below each its relevance for a class.

    Args:
        model: a model with a head.
        images: array `(batch, rows, columns, channels)`. Input of the model. With more than eight images, titles become unreadable.
        classes: sequence of ints. The class to explain for each image.
        titles: sequence of str. Titles of the images.
        heading: str. Title of the figure. Defaults to "".

    Returns:
        A matplotlib figure.
    """
    maps = relevance(model, images, [int(each) for each in classes])
    pixels = pixels_of(model, images)
    height = min(max(1.9 * pixels.shape[1] / pixels.shape[2], 0.9), 4.0)
    columns = min(4, len(pixels))
    rows = -(-len(pixels) // columns)
    figure = axes_of(None, 1.9 * max(columns, 3), rows * (2.0 * height + 0.75) + 0.4).figure
    figure.clear()
    figure.suptitle(heading, fontsize=12)
    panels = figure.subplots(2 * rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.axis("off")
    for i, (image, map, title) in enumerate(zip(pixels, maps, titles)):
        above, below = panels[i // columns * 2 : i // columns * 2 + 2, i % columns]
        small = min(image.shape[:2]) < 100
        show(above, pixels_to_show("images", image[None])[0], interpolation="nearest" if small else "antialiased")
        above.set_title(title, fontsize=9.5)
        overlay(image, map, below, cell=cell_of(model), colorbar=False)
    return figure


def cell_of(model):
    """Returns the (rows, columns) of a patch in pixels if the model pads images, so that its grid may be larger; else None."""
    vit = find_vision_transformer(model, optional=True)
    if vit is None or not vit.config.dynamic_padding:
        return None
    stride = vit.get_layer("stem").stride if vit.config.stem else 1
    return tuple(stride * side for side in vit.get_layer("patch_embedding").patch_size)
