"""The losses and the accuracy of recipes. They accept both class numbers and one-hot labels, so that training images may be mixed."""

from typing import Any

import keras
from keras import ops


def one_hot(labels: Any, classes: int) -> Any:
    """Returns labels as `(batch, classes)`: class numbers become one-hot, anything else stays as it is.

    Args:
        labels: tensor `(batch,)` or `(batch, 1)` of class numbers, or `(batch, classes)`.
        classes: int. Number of classes.
    """
    labels = ops.convert_to_tensor(labels)
    if classes == 1 or (len(labels.shape) == 2 and labels.shape[-1] != 1):
        return labels
    return ops.one_hot(ops.cast(ops.reshape(labels, (-1,)), "int32"), classes, dtype=keras.config.floatx())


@keras.saving.register_keras_serializable(package="keras_vit")
class CategoricalCrossentropy(keras.losses.CategoricalCrossentropy):
    """Keras's `CategoricalCrossentropy`, for class numbers `(batch,)` as well as for labels `(batch, classes)`.

    Args:
        **kwargs: as in `keras.losses.CategoricalCrossentropy`, such as `label_smoothing`.

    Example:
    >>> loss = keras_vit.training.losses.CategoricalCrossentropy(label_smoothing=0.1)
    >>> probabilities = keras.ops.convert_to_tensor([[0.8, 0.2], [0.4, 0.6]])
    >>> float(loss([0, 1], probabilities)) == float(loss([[1.0, 0.0], [0.0, 1.0]], probabilities))
    True
    """

    def __call__(self, y_true, y_pred, sample_weight=None):
        return super().__call__(one_hot(y_true, y_pred.shape[-1]), y_pred, sample_weight)


@keras.saving.register_keras_serializable(package="keras_vit")
class BinaryCrossentropy(keras.losses.BinaryCrossentropy):
    """Keras's `BinaryCrossentropy`, for class numbers `(batch,)` as well as for labels `(batch, classes)` with any number of ones.

    Args:
        **kwargs: as in `keras.losses.BinaryCrossentropy`, such as `label_smoothing`.
    """

    def __call__(self, y_true, y_pred, sample_weight=None):
        return super().__call__(one_hot(y_true, y_pred.shape[-1]), y_pred, sample_weight)


def _accuracy(y_true, y_pred):
    return keras.metrics.categorical_accuracy(one_hot(y_true, y_pred.shape[-1]), y_pred)


@keras.saving.register_keras_serializable(package="keras_vit")
class Accuracy(keras.metrics.MeanMetricWrapper):
    """Computes the accuracy for class numbers `(batch,)` and for labels `(batch, classes)`.

    Keras's metric decides for one form in the first batch, which fails if training images are mixed and validation images are not.

    Args:
        name: str. Name of the metric. Defaults to "accuracy".
        dtype: str or None. Dtype of the result. None means Keras's default. Defaults to None.

    Example:
    >>> accuracy = keras_vit.training.losses.Accuracy()
    >>> accuracy.update_state([1, 0], keras.ops.convert_to_tensor([[0.2, 0.8], [0.4, 0.6]]))
    >>> float(accuracy.result())
    0.5
    """

    def __init__(self, name: str = "accuracy", dtype: Any = None):
        super().__init__(_accuracy, name=name, dtype=dtype)
        self._direction = "up"  # larger is better: EarlyStopping and other callbacks read this

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype}
