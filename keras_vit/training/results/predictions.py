"""Predicts a data set. Images are not kept, except for the few that a report shows."""

import heapq
import time
from collections.abc import Iterable
from typing import NamedTuple

import keras
import numpy as np


class Predictions(NamedTuple):
    """The result of `predict_dataset`: `labels` `(n,)`, `probabilities` `(n, classes)`, and images to be `shown`, by their row number."""

    labels: np.ndarray
    probabilities: np.ndarray
    shown: dict
    images_per_second: float | None


def predict_dataset(model: keras.Model, batches: Iterable, most_shown: int = 24) -> Predictions:
    """Predicts all images of a data set.

    Args:
        model: a classifier. Logits become probabilities by softmax.
        batches: iterable of `(images, labels)`, such as `data.test`. Labels are class numbers `(batch,)` or one-hot `(batch, classes)`.
        most_shown: int. Number of images to keep: the most confident mistakes, then the least confident correct ones. Defaults to 24.

    Returns:
        `Predictions`. `images_per_second` leaves out the first batch, which traces the model, and is None if there is no other.

    Example:
    >>> data = keras_vit.data.load("digits")
    >>> model = keras_vit.ViTMicro4(num_classes=10, input_shape=data.image_shape)
    >>> found = predict_dataset(model, data.test)
    >>> found.probabilities.shape, len(found.shown)
    ((359, 10), 24)
    """
    forward, is_logits = _forward(model), model.get_config().get("classifier_activation") in (None, "linear")
    labels, probabilities, shown, seconds, count = [], [], [], 0.0, 0
    for number, (images, targets) in enumerate(batches):
        images, targets = np.asarray(images), np.asarray(targets)  # arrays work on every backend
        start = time.perf_counter()
        scores = keras.ops.convert_to_numpy(forward(images))
        seconds += (time.perf_counter() - start) * (number > 0)
        if is_logits:
            scores = keras.ops.convert_to_numpy(keras.ops.softmax(scores))
        truth = targets if targets.ndim == 1 else targets.argmax(axis=-1)
        predicted, confidence = np.argmax(scores, axis=-1), np.max(scores, axis=-1)
        for i in range(len(images)):
            wrong = bool(predicted[i] != truth[i])
            # The largest keys are kept. The row number makes keys unique, so that the heap never compares images.
            key = (wrong, float(confidence[i] if wrong else -confidence[i]), -(count + i))
            if len(shown) < most_shown:
                heapq.heappush(shown, (key, images[i]))
            elif key > shown[0][0]:
                heapq.heapreplace(shown, (key, images[i]))
        labels.append(truth)
        probabilities.append(scores)
        count += len(images)
    timed = count - len(labels[0])
    return Predictions(
        np.concatenate(labels),
        np.concatenate(probabilities),
        {-key[2]: image for key, image in shown},
        timed / seconds if timed else None,
    )


def _forward(model):
    if keras.backend.backend() != "tensorflow":
        return model.predict_on_batch
    import tensorflow as tf

    # Under `tf.distribute`, Keras's `predict_on_batch` would compute the whole batch on every replica.
    return tf.function(lambda images: model(images, training=False), reduce_retracing=True)
