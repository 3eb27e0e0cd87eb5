"""The attention distance of heads: how far away the patches are that they attend to."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.visualize.figures import axes_of, pixels_of
from keras_vit.visualize.inside import block_weights, check_images, check_model, forward_pass, in_batches


def mean_attention_distances(model: keras.Model, images: Any, batch_size: int = 8) -> np.ndarray:
    """Returns the mean distance between a patch and the patches that it attends to, for each block and head.

    Args:
        model: keras.Model. A `VisionTransformer`, or a model that contains one.
        images: array `(batch, rows, columns, channels)`. Input of the model.
        batch_size: int. Number of images of a forward pass. Defaults to 8.

    Returns:
        A float32 array `(block, head)` of distances between the centers of patches, in pixels: the mean over images and patches, weighted
        by the attention. Attention to class, distillation and register tokens does not count.

    Raises:
        ValueError: if the model contains no `VisionTransformer`, or `images` is not a batch.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 48, 3), 8, 64, 4, 2, 128)
    >>> keras_vit.visualize.mean_attention_distances(model, keras.ops.ones((1, 32, 48, 3))).shape
    (4, 2)
    """
    check_model(model)
    sides = pixels_of(model, check_images(images)[:1]).shape[1:3]

    def distances(images):
        seen = forward_pass(model, images)
        between = patch_distances(seen.grid, sides)
        count, found = len(between), []
        for i in range(len(seen.blocks)):
            weights = ops.cast(block_weights(seen, i)[:, :, -count:, -count:], "float32")
            mean = ops.sum(weights * between, axis=-1) / ops.sum(weights, axis=-1)
            found.append(ops.mean(mean, axis=-1))
        return ops.stack(found, axis=1)

    return in_batches(distances, images, batch_size).mean(axis=0)


def patch_distances(grid: tuple[int, int], sides: tuple[int, int]) -> np.ndarray:
    """Returns the distances between the centers of patches, `(patches, patches)`, in pixels.

    Args:
        grid: (rows, columns) of patches.
        sides: (rows, columns) of pixels.
    """
    places = np.stack(np.meshgrid(*(np.arange(n) * (side / n) for n, side in zip(grid, sides)), indexing="ij"), axis=-1).reshape(-1, 2)
    return np.linalg.norm(places[:, None] - places[None], axis=-1).astype("float32")


def attention_distance(model: keras.Model, images: Any, ax: Any = None, batch_size: int = 8) -> Any:
    """Draws the attention distance of each head by block. A dot is a head, and the line is the mean over the heads.

    In a well-trained model, the heads of the first blocks differ: some attend to near patches, like a convolution, others to all. In the
    last blocks all attend to far patches. If the heads of all blocks lie at the dashed line, where attention is uniform, they have learned
    nothing.

    Args:
        model: keras.Model. A `VisionTransformer`, or a model that contains one.
        images: array `(batch, rows, columns, channels)`. Input of the model. A few dozen images are enough.
        ax: matplotlib axes or None. Axes to draw into; None creates a figure. Defaults to None.
        batch_size: int. Number of images of a forward pass. Defaults to 8.

    Returns:
        The matplotlib axes.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if the model contains no `VisionTransformer`, or `images` is not a batch.

    Reference:
        Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, figure 7, right.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 48, 3), 8, 64, 4, 2, 128)
    >>> ax = keras_vit.visualize.attention_distance(model, keras.ops.ones((1, 32, 48, 3)))
    """
    check_model(model)
    ax = axes_of(ax, 6.0, 3.8)
    found = mean_attention_distances(model, images, batch_size)
    sides = pixels_of(model, check_images(images)[:1]).shape[1:3]
    grid = forward_pass(model, ops.convert_to_tensor(check_images(images)[:1])).grid
    uniform = patch_distances(grid, sides).mean()
    ax.scatter(*zip(*((block, distance) for block, heads in enumerate(found) for distance in heads)), s=22, alpha=0.7, color="#1f6fb4")
    ax.plot(range(len(found)), found.mean(axis=1), color="#1f6fb4", linewidth=1.4)
    ax.annotate("mean", (len(found) - 1, found[-1].mean()), (6, 0), textcoords="offset points", va="center", color="#1f6fb4")
    ax.axhline(uniform, color="black", linewidth=1.0, linestyle="--")
    ax.annotate("uniform attention", (0, 1.08 * uniform), va="center")
    top = 1.16 * max(uniform, found.max())
    ax.set(xlabel="Block", ylabel="Mean attention distance (pixels)", ylim=(0, top), title="How far heads look")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, axis="y", color="#e5e5e5")
    ax.set_axisbelow(True)
    return ax
