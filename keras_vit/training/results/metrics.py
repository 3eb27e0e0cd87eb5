"""Metrics of predictions: accuracy, calibration, the confusion matrix, and precision and recall of each class."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def evaluate_predictions(probabilities: Any, labels: Any, class_names: Sequence[str] | None = None, bins: int = 15) -> dict:
    """Computes metrics of predictions.

    Args:
        probabilities: array `(n, classes)`.
        labels: int array `(n,)`. The true classes.
        class_names: sequence of str. Names of the classes. Defaults to None, their numbers.
        bins: int. Number of bins of equal width for the calibration error. Defaults to 15.

    Returns:
        dict that JSON can hold: `images`; `accuracy`; `top5_accuracy` (None with 5 classes or fewer); `log_loss` in nats;
        `calibration_error`, the mean distance between confidence and accuracy over the bins; `confusion_matrix`, counts by true class
        (row) and predicted class (column); `classes`, a list with a dict for each class: `name`, `images`, `precision`, `recall` and
        `f1`. A ratio over no images is None.

    Raises:
        ValueError: if the shapes do not fit.

    Reference:
        Guo et al., "On Calibration of Modern Neural Networks", 2017, equation 3.

    Example:
    >>> result = evaluate_predictions(np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]), np.array([0, 1, 1]))
    >>> round(result["accuracy"], 3), round(result["calibration_error"], 3), result["confusion_matrix"]
    (0.667, 0.3, [[1, 0], [1, 1]])
    """
    probabilities, labels = np.asarray(probabilities, "float64"), np.asarray(labels)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or len(labels) == 0:
        raise ValueError(
            "`probabilities` must be (n, classes) and `labels` (n,), n at least 1. "
            f"Received: shapes {probabilities.shape} and {labels.shape}"
        )
    count, classes = probabilities.shape
    names = [str(i) for i in range(classes)] if class_names is None else list(class_names)
    if len(names) != classes:
        raise ValueError(f"`class_names` must name every class. Received: {len(names)} names, {classes} classes")
    order = np.argsort(-probabilities, axis=-1, kind="stable")
    predicted, confidence = order[:, 0], probabilities.max(axis=-1)
    right = predicted == labels
    matrix = np.zeros((classes, classes), int)
    np.add.at(matrix, (labels, predicted), 1)
    # A bin holds (low, high], as in the paper.
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = [abs(right[bin_of == i].sum() - confidence[bin_of == i].sum()) for i in range(bins)]

    def of_class(i):
        hits, truly, said = int(matrix[i, i]), int(matrix[i].sum()), int(matrix[:, i].sum())
        precision, recall = (hits / total if total else None for total in (said, truly))
        f1 = 2 * hits / (truly + said) if truly else None
        return {"name": names[i], "images": truly, "precision": precision, "recall": recall, "f1": f1}

    return {
        "images": count,
        "accuracy": float(right.mean()),
        "top5_accuracy": float((order[:, :5] == labels[:, None]).any(axis=-1).mean()) if classes > 5 else None,
        "log_loss": float(-np.log(np.maximum(probabilities[np.arange(count), labels], 1e-15)).mean()),
        "calibration_error": float(sum(gaps) / count),
        "confusion_matrix": matrix.tolist(),
        "classes": [of_class(i) for i in range(classes)],
    }
