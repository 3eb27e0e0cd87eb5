"""Gradient-weighted relevance: how much each patch supports a class."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.runtime.gradients import gradients, no_gradients
from keras_vit.visualize.attention_rollout import map_of_query
from keras_vit.visualize.inside import check_images, check_model, forward_pass, query_tokens, read_by_head, to_array
from keras_vit.visualize.targets import class_scores, targets


def relevance(model: keras.Model, images: Any, target: Any = None, batch_size: int = 4) -> np.ndarray:
    """Computes how much each patch supports a class, from attention weights and their gradients.

    In each block, the attention weights are multiplied by the gradient of the class's score with respect to them. The positive part is
    averaged over the heads and added to the identity, which stands for the residual connection. The matrices of all blocks are multiplied.
    With `pooling="gap"`, the result is the mean over the patches, without the constant that residual connections alone contribute.

    Args:
        model: keras.Model. A `VisionTransformer` with a head, or a classifier that contains a VisionTransformer.
        images: array `(batch, rows, columns, channels)`. Input of the model.
        target: int, or str if the model has `class_names`; or a sequence of them, one per image. Defaults to None: the class that the
            model predicts for each image.
        batch_size: int. Number of images of a forward and backward pass, which keeps the attention weights of all blocks. Defaults to 4.

    Returns:
        A float32 array `(batch, rows, columns)`, at least 0. Its scale depends on the model: compare patches, not models.

    Raises:
        ValueError: if the model contains no `VisionTransformer` or has no head, `images` is not a batch, or the class does not exist.

    Reference:
        Chefer, Gur and Wolf, "Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder Transformers", 2021,
        section 3.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 48, 3), 8, 64, 4, 2, 128, num_classes=10)
    >>> keras_vit.visualize.relevance(model, keras.ops.ones((1, 32, 48, 3)), target=3).shape
    (1, 4, 6)
    """
    check_model(model)
    images = check_images(images)
    scores, read = class_scores(model, images), read_by_head(model)

    def relevance_of(images, target):
        with no_gradients():
            seen = forward_pass(scores, images)
        classes = targets(model, to_array(seen.output), target)

        # The gradient with respect to the weights equals that with respect to zeros that are added to them.
        def score(added):
            again = forward_pass(scores, images, lambda name, i, value: value + added[i] if name == "weights" else value)
            return score_of(again.output, classes), again.weights

        slopes, weights = gradients(score, [ops.zeros_like(x) for x in seen.weights])
        matrices = [ops.mean(ops.relu(ops.cast(slope * x, "float32")), axis=1) for slope, x in zip(slopes, weights)]
        pooling = matrices.pop() if seen.pooling else None
        matrices = [matrix + ops.eye(*matrix.shape[1:], dtype="float32") for matrix in matrices]
        found = map_of_query(model, read, seen.grid, matrices, pooling)
        if pooling is None:
            # If the head reads patches, each contributes to itself through the residual connections: a constant, which is subtracted.
            equal = query_tokens(model, read, seen.grid)[-seen.grid[0] * seen.grid[1] :].reshape(seen.grid)
            found = ops.subtract(found, ops.convert_to_tensor(equal))
        return found

    return in_batches_of_targets(relevance_of, images, target, batch_size)


def score_of(scores: Any, classes: Any) -> Any:
    """Returns the sum of the scores of all images for their classes, a float32 scalar."""
    chosen = ops.one_hot(classes, scores.shape[-1], dtype="float32")
    return ops.sum(ops.cast(scores, "float32") * chosen)


def in_batches_of_targets(function: Callable, images: Any, target: Any, batch_size: int) -> np.ndarray:
    """Applies `function` to all images and their targets, batch by batch, and returns an array."""
    several = isinstance(target, (list, tuple, np.ndarray))
    if several and len(target) != len(images):
        raise ValueError(f"`target` must be one class, or one for each of the {len(images)} images. Received: {len(target)}")
    found = []
    for start in range(0, len(images), batch_size):
        batch = slice(start, start + batch_size)
        found.append(to_array(function(ops.convert_to_tensor(images[batch]), target[batch] if several else target)))
    return np.concatenate(found)
