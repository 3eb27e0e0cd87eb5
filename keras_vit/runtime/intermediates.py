"""Intermediate values of a forward pass: read, or replaced, from outside the layer that computes them."""

import contextlib
import contextvars

_observer = contextvars.ContextVar("observer", default=None)


@contextlib.contextmanager
def observing(observer):
    """While active, the layers hand their intermediate values to `observer`, and go on with what it returns.

    Without it a model computes what it always does; in particular attention keeps no weights. It applies to calls of a model, which
    run the layers' Python code, and not to functions that are compiled already, such as a second `predict`.

    Args:
        observer: function `(name, value, layer)`, which returns the value or another in its place. `name` is "patches" (the grid of
            `PatchEmbedding`), "tokens" (the input of a `TransformerEncoderBlock` or of `AttentionPooling`), "rotation" (of a block's
            queries and keys) or "weights" (of the attention, `(batch, heads, queries, keys)`; `layer` is then None: it is the one whose
            "tokens" came last).
    """
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


def observe(name, value, layer=None):
    """Returns `value`, or what the active observer puts in its place."""
    observer = _observer.get()
    return value if observer is None else observer(name, value, layer)


def observed():
    """Whether an observer is active."""
    return _observer.get() is not None
