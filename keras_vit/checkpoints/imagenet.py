"""Class names of ImageNet-1k, and predictions as class names."""

import functools
import pathlib
from typing import Any

import numpy as np
from keras import ops

from keras_vit.layers import checks

NUM_CLASSES = 1000


@functools.cache
def imagenet_classes() -> tuple[tuple[str, str], ...]:
    """Returns the 1000 pairs `(wordnet id, label)` in the order of the models' outputs, which is that of the ids, as in ILSVRC 2012.

    Reference:
        Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", 2015. The labels are WordNet 3.0's.
    """
    lines = pathlib.Path(__file__).with_name("imagenet.txt").read_text("utf-8").splitlines()
    return tuple((line.partition(" ")[0], line.partition(" ")[2]) for line in lines)


def imagenet_labels() -> tuple[str, ...]:
    """Returns the 1000 labels, for the `class_names` of a model with the classes of ImageNet-1k."""
    return tuple(label for _, label in imagenet_classes())


def decode_predictions(predictions: Any, top: int = 5, class_names: Any = None) -> list[list[tuple]]:
    """Returns the class names and scores of the best predictions.

    Args:
        predictions: array or tensor of shape `(batch, classes)`. Scores of a classifier.
        top: int. Number of classes for each image. Defaults to 5.
        class_names: sequence of str, such as `model.class_names`, or a model that has them. None means the names of ImageNet-1k. Defaults
            to None.

    Returns:
        List with a list of `top` tuples for each image, the best first: `(wordnet id, label, score)` for ImageNet-1k, else
        `(class number, label, score)`.

    Raises:
        ValueError: if the number of names differs from the number of columns, or `top` is not a positive int.

    Example:
    >>> keras_vit.decode_predictions(keras.ops.one_hot([207], 1000), top=1)
    [[('n02099601', 'golden retriever', 1.0)]]
    >>> keras_vit.decode_predictions([[0.2, 0.8]], top=1, class_names=["cat", "dog"])
    [[(1, 'dog', 0.8)]]
    """
    predictions = np.asarray(ops.convert_to_numpy(predictions))
    names = getattr(class_names, "class_names", class_names) if class_names is not None else imagenet_labels()
    if names is None:
        raise ValueError(f"The model must have `class_names`. Received: class_names={class_names}, which has none")
    if predictions.ndim != 2 or predictions.shape[1] != len(names):
        raise ValueError(f"`predictions` must be of shape (batch, {len(names)}). Received: shape {predictions.shape}")
    ids = [wordnet_id for wordnet_id, _ in imagenet_classes()] if tuple(names) == imagenet_labels() else range(len(names))
    return [[(ids[i], names[i], float(scores[i])) for i in best(scores, top)] for scores in predictions]


def best(scores: np.ndarray, top: int) -> np.ndarray:
    """Returns the indices of the `top` highest scores, in descending order; equal scores keep their order."""
    return np.argsort(-scores, kind="stable")[: checks.integer("top", top)]
