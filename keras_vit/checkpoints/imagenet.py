"""The classes of ImageNet-1k: numbers to names."""

import functools
import pathlib

import numpy as np
from keras import ops

from keras_vit.layers import checks


@functools.cache
def imagenet_classes():
    """Returns the 1000 pairs `(wordnet id, label)` in the order of the models' outputs: that of the ids, as in ILSVRC 2012.

    Reference:
        Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", 2015. The labels are WordNet 3.0's.
    """
    lines = pathlib.Path(__file__).with_name("imagenet.txt").read_text("utf-8").splitlines()
    return tuple(tuple(line.split(" ", 1)) for line in lines)


def decode_predictions(predictions, top=5):
    """Turns the output of an ImageNet-1k classifier into names.

    Args:
        predictions: array or tensor `(batch, 1000)`.
        top: int. Classes named for each image.

    Returns:
        For each image a list of `top` tuples `(wordnet id, label, score)`, the best first.

    Raises:
        ValueError: if the shape is another, or `top` is no positive int.

    Example:
    >>> keras_vit.decode_predictions(keras.ops.one_hot([207], 1000), top=1)
    [[('n02099601', 'golden retriever', 1.0)]]
    """
    predictions = ops.convert_to_numpy(predictions)
    classes = imagenet_classes()
    if predictions.ndim != 2 or predictions.shape[1] != len(classes):
        raise ValueError(f"`predictions` must be of shape (batch, {len(classes)}). Received: shape {predictions.shape}")
    return [[(*classes[i], float(scores[i])) for i in best(scores, top)] for scores in predictions]


def best(scores, top):
    """Returns the indexes of the `top` highest scores, the highest first; of equal ones the first."""
    return np.argsort(-scores, kind="stable")[: checks.integer("top", top)]
