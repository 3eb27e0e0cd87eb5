"""Variables that are made before a step is traced: half the wait for the first step.

TensorFlow traces a function that makes variables twice, the second time without making them. Keras on one device leaves
the variables of optimizer and metrics to the first step, which for a ViT of twelve blocks is thousands of operations.
"""

import keras


def make_variables_of_optimizer(model):
    if model.optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)


def make_variables_of_metrics(model, batch):
    """Makes the variables of a compiled model's metrics, but for metrics that make theirs when they are updated.

    Args:
        model: a compiled model. One without known outputs, that is not functional, is left to its first step.
        batch: arrays or their specifications, as `fit` takes them: `(images, labels)` or `(images, labels, sample_weight)`.
    """
    metrics = model._compile_metrics
    if metrics is None or metrics.built or not hasattr(model, "output"):
        return
    _, labels, _ = keras.utils.unpack_x_y_sample_weight(batch)
    if labels is None or not all(_of_known_rank(value) for value in keras.tree.flatten(labels)):
        return
    metrics.build(keras.tree.map_structure(_symbolic, labels), model.output)


def _of_known_rank(value):
    return hasattr(value, "dtype") and getattr(value.shape, "rank", 0) is not None


def _symbolic(value):
    return keras.KerasTensor(value.shape, keras.backend.standardize_dtype(value.dtype))
