"""Pictures of features: a contact sheet of images, and a scatter plot."""

import math

import numpy as np

from keras_vit.features.probes import class_labels, scikit_learn
from keras_vit.layers import checks
from keras_vit.visualize.figures import axes_of

ACROSS = 5
MOST_NAMED = 20  # classes in the legend
THUMBNAIL = 28  # points
NAMES = {"pca": "PCA", "tsne": "t-SNE"}


def contact_sheet(images, titles, heading=None):
    """Draws images row by row, each under its title.

    Args:
        images: sequence of arrays `(rows, columns, 3)` of values from 0 to 255, of any sizes.
        titles: sequence of str, one an image.
        heading: str or None. Title of the figure.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if there is no image, or not one title for each.

    Example:
    >>> figure = contact_sheet([np.full((20, 30, 3), 90), np.full((40, 30, 3), 200)], ["dark", "bright"])
    >>> len(figure.axes)
    2
    """
    if not len(images) or len(images) != len(titles):
        raise ValueError(f"A contact sheet needs images and a title for each. Received: {len(images)} images, {len(titles)} titles")
    across = min(ACROSS, len(images))
    down = math.ceil(len(images) / across)
    figure = axes_of(None, 1.9 * max(across, 2), 2.3 * down + (0.4 if heading else 0.0)).figure
    figure.clear()
    for ax, image, title in zip(figure.subplots(down, across, squeeze=False).flat, images, titles):
        image = np.asarray(image)
        ax.imshow(image.clip(0, 255).astype("uint8"), interpolation="nearest" if len(image) < 100 else "antialiased")
        ax.set_title(title, fontsize=9)
    for ax in figure.axes:
        ax.axis("off")
    for ax in figure.axes[len(images) :]:
        ax.remove()
    figure.suptitle(heading, fontsize=11) if heading else None
    return figure


def scatter(features, labels, class_names, images=None, method="pca", ax=None, thumbnails=60, seed=0):
    """Draws features in two dimensions, a point per image in the color of its class, and some images as thumbnails.

    Points of one class lie together if the features tell classes apart. PCA keeps distances as far as two axes can. t-SNE shows which
    images are neighbors: the sizes of its groups and the distances between them mean nothing.

    Args:
        features: array `(n, width)`.
        labels: int array `(n,)`. Classes from 0.
        class_names: sequence of str.
        images: sequence of n arrays `(rows, columns, 3)` of values from 0 to 255, or a function from a list of row numbers to such images,
            such as `lambda rows: images_of(index, rows)`; or None, for points alone.
        method: "pca" or "tsne".
        ax: matplotlib axes. None: those of a new figure.
        thumbnails: int. The most images to draw; they are spread over the picture and do not overlap each other much.
        seed: int. Seed of t-SNE.

    Returns:
        The matplotlib axes.

    Raises:
        ValueError: if the images are of one class, or fewer than 4, or the method is unknown.
        ImportError: if matplotlib or scikit-learn is not installed.

    Reference:
        van der Maaten and Hinton, "Visualizing Data using t-SNE", 2008.

    Example:
    >>> features, labels = np.random.default_rng(0).standard_normal((40, 8)), np.arange(40) % 2
    >>> scatter(features, labels, ["cat", "dog"]).get_title()
    'PCA of 40 images'
    """
    ax = axes_of(ax, 9.0, 6.5)
    checks.one_of("method", method, ("pca", "tsne"))
    if labels is None:
        raise ValueError("A scatter needs images of two classes or more. Received: labels=None, features of images without classes")
    features, labels = np.asarray(features), class_labels(labels)
    if features.ndim != 2 or len(features) != len(labels) or len(labels) < 4:
        raise ValueError(f"A scatter needs 4 features or more, each with a label. Received: shapes {features.shape} and {labels.shape}")
    classes = np.unique(labels)
    if len(classes) < 2:
        raise ValueError(f"A scatter needs images of two classes or more. Received: {len(labels)} images of {class_names[classes[0]]!r}")
    points = _in_two_dimensions(features, method, seed)
    if method == "pca":
        ax.set_aspect("equal", adjustable="datalim")  # a distance is the same in all directions
    from matplotlib import colormaps

    colors = colormaps["tab20" if len(classes) > 10 else "tab10"]
    for number, label in enumerate(classes):
        mine = points[labels == label]
        ax.scatter(*mine.T, s=9, color=colors(number % colors.N), label=class_names[label] if number < MOST_NAMED else None)
    if images is not None:
        _draw_thumbnails(ax, points, labels, images, thumbnails, {label: colors(i % colors.N) for i, label in enumerate(classes)})
    more = f"the first {MOST_NAMED} of {len(classes)} classes" if len(classes) > MOST_NAMED else None
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, title=more, title_fontsize=8, markerscale=2, frameon=False)
    ax.set(xticks=[], yticks=[], title=f"{NAMES[method]} of {len(labels):,} images")
    return ax


def _in_two_dimensions(features, method, seed):
    if method == "pca":
        return scikit_learn("decomposition").PCA(2, svd_solver="full").fit_transform(features)
    perplexity = min(30.0, (len(features) - 1) / 3.0)
    return scikit_learn("manifold").TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)


def _draw_thumbnails(ax, points, labels, images, most, colors):
    """Draws an image in each cell of a grid that holds a point, the one that is the nearest to its middle."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    side = max(1, math.isqrt(max(most, 1)))
    low, high = points.min(axis=0), points.max(axis=0)
    places = side * (points - low) / np.maximum(high - low, 1e-12)
    cells = np.minimum(places.astype(int), side - 1)
    distances = np.linalg.norm(places - cells - 0.5, axis=-1)
    chosen = {}
    for row in np.argsort(distances):
        chosen.setdefault(tuple(cells[row]), int(row))
    rows = list(chosen.values())
    points_across = 72.0 * min(ax.get_window_extent().size) / ax.figure.dpi
    size = min(THUMBNAIL, 0.5 * points_across / side)  # half a cell, in small axes
    for row, image in zip(rows, images(rows) if callable(images) else [images[row] for row in rows]):
        image = np.asarray(image).clip(0, 255).astype("uint8")
        picture = OffsetImage(image, zoom=size / max(image.shape[:2]), interpolation="antialiased")
        frame = dict(edgecolor=colors[labels[row]], linewidth=1.5, boxstyle="square,pad=0.05")
        ax.add_artist(AnnotationBbox(picture, points[row], frameon=True, pad=0.1, bboxprops=frame))
