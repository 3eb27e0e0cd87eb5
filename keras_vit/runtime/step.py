"""The kind of step being traced. Fast kernels for TensorFlow's CPU are used only in the steps of `fit`, `evaluate` and `predict`.

A plain call of a model may be exported, or differentiated in another way, and XLA fuses a step that it compiles as a whole. Both keep
Keras's operations, and so do other backends and GPUs.
"""

import contextlib
import contextvars

import keras

from keras_vit.runtime.switch import fast_paths

_kind = contextvars.ContextVar("step", default=None)


@contextlib.contextmanager
def tracing(kind):
    """While active, the graph being traced belongs to a "training" or an "inference" step or, with None, to neither."""
    token = _kind.set(kind)
    try:
        yield
    finally:
        _kind.reset(token)


def step():
    """Returns "training" or "inference" while such a step is traced for TensorFlow's CPU, else None."""
    # The backend comes first: `torch.compile` cannot trace a `ContextVar`.
    if keras.backend.backend() != "tensorflow" or _kind.get() is None or not fast_paths():
        return None
    import tensorflow as tf

    return None if tf.executing_eagerly() or tf.config.list_logical_devices("GPU") else _kind.get()
