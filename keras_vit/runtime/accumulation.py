"""The gradients of a batch, as a whole or in micro-batches (gradient accumulation), on TensorFlow."""

from keras_vit.runtime import batch
from keras_vit.runtime.devices import replicas


def gradients(model, x, y, sample_weight, images, weight=None):
    """Returns the gradients of a batch or micro-batch, and updates the model's metrics.

    Args:
        model: a compiled model.
        x, y, sample_weight: the batch.
        images: `x`, or the result of `batch.never_empty(x)`.
        weight: float or scalar tensor that the loss is multiplied by, or None.
    """
    import tensorflow as tf

    count, size = replicas(), batch.rows(x)
    training = {"training": True} if model._call_has_training_arg else {}
    with tf.GradientTape() as tape:
        y_pred = model(images, **training)
        if images is not x:
            y_pred = batch.map_tensors(lambda value: value[:size], y_pred)
        loss = model._compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)
        model._loss_tracker.update_state(loss * count if count > 1 else loss, sample_weight=size)
        loss = model.optimizer.scale_loss(loss if weight is None else loss * tf.cast(weight, loss.dtype))
    found = tape.gradient(loss, model.trainable_weights)
    model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
    return found


def accumulated(gradients_of, data, steps, variables, weight=None):
    """Returns the gradients of a batch, computed micro-batch by micro-batch in a loop, in the memory of one micro-batch.

    Args:
        gradients_of: as `gradients` without `model`.
        data: tuple `(x, y, sample_weight)`.
        steps: int. Number of micro-batches.
        variables: list of variables.
        weight: as in `gradients`.
    """
    import tensorflow as tf

    images = batch.rows(data)

    def add(start, sums, size):
        def micro_batch(start, *sums):
            x, y, sample_weight = batch.cut(data, start, size)
            share = tf.cast(size, "float32") / tf.cast(images, "float32")
            found = gradients_of(x, y, sample_weight, images=x, weight=share if weight is None else weight * share)
            return start + size, *(total + gradient for total, gradient in zip(sums, found))

        more = tf.while_loop(lambda start, *_: tf.logical_and(size > 0, start + size <= images), micro_batch, [start, *sums])
        return more[0], more[1:]

    start, sums = add(tf.constant(0), [tf.zeros_like(variable) for variable in variables], images // steps)
    return add(start, sums, images - start)[1]  # the remaining images, if `steps` does not divide the batch
