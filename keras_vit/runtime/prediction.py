"""`predict` for one batch in memory, without a `tf.data` pipeline."""

import keras
import numpy as np


def is_one_batch(x, batch_size):
    """Returns whether `x` is a NumPy array of images that `predict` takes as one batch."""
    return isinstance(x, np.ndarray) and x.dtype.kind in "fiu" and x.ndim > 0 and 0 < len(x) <= (batch_size or 32)


def predict_one_batch(model, x, verbose):
    """Returns what `model.predict(x)` returns. Keras would build a pipeline, which takes longer than a small model."""
    bar = keras.callbacks.CallbackList(add_progbar=verbose != 0, verbose=verbose, epochs=1, steps=1, model=model)
    model.stop_predicting = False
    bar.on_predict_begin()
    bar.on_predict_batch_begin(0)
    # In the dtype that the pipeline would give, for which the function may already be traced.
    outputs = model.predict_on_batch(x.astype(keras.config.floatx(), copy=False) if x.dtype.kind == "f" else x)
    bar.on_predict_batch_end(0, {"outputs": outputs})
    bar.on_predict_end()
    return outputs
