"""Intermediate values of a forward pass, which callers can read or replace."""

import contextlib
import contextvars

_observer = contextvars.ContextVar("observer", default=None)
_active = []  # the observers of all threads: `torch.compile` cannot trace a `ContextVar`, which is read only if there are any


@contextlib.contextmanager
def observing(observer):
    """While active, layers pass their intermediate values to `observer` and continue with what it returns.

    It applies to calls that run the layers' Python code, such as `model(images)`, and not to functions that are compiled already, such
    as a second `predict`. Without an observer a model computes as usual, and attention keeps no weights.

    Args:
        observer: function `(name, value, layer)`, which returns the value or another in its place. `name` is "patches" (the grid of
            `PatchEmbedding`), "tokens" (the input of a `TransformerEncoderBlock` or of `AttentionPooling`), "rotation" (of a block's
            queries and keys) or "weights" (of the attention, `(batch, heads, queries, keys)`; `layer` is then None: it is the one whose
            "tokens" came last).
    """
    token = _observer.set(observer)
    _active.append(token)
    try:
        yield
    finally:
        _active.remove(token)
        _observer.reset(token)


def observe(name, value, layer=None):
    """Returns `value`, or what the active observer puts in its place."""
    return _observer.get()(name, value, layer) if observed() else value


def observed():
    """Whether an observer is active."""
    return bool(_active) and _observer.get() is not None
