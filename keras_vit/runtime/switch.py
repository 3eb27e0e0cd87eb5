"""The switch that turns every fast path off, to find out whether one of them is at fault."""

import os

import keras

VARIABLE = "KERAS_VIT_FAST_PATHS"


class _Switch:
    def __init__(self):
        value = os.environ.get(VARIABLE, "1")
        if value not in ("0", "1"):
            raise ValueError(f"`{VARIABLE}` must be 0 or 1. Received: {VARIABLE}={value}")
        self.on = value == "1"


_switch = _Switch()


def use_fast_paths(on):
    """Turns every fast path of the package on or off, in this process.

    A fast path computes what Keras's own operations compute, to rounding, in less time or memory. With all of them off, models,
    layers and training use only Keras's operations: a fault that remains has another cause. Models that were compiled or called before
    are traced again.

    The environment variable `KERAS_VIT_FAST_PATHS=0` turns them off from the start.

    Args:
        on: bool. False turns them off.

    Raises:
        ValueError: if `on` is not a bool.

    Example:
    >>> keras_vit.runtime.use_fast_paths(False)
    >>> keras_vit.runtime.fast_paths()
    False
    >>> keras_vit.runtime.use_fast_paths(True)
    """
    if not isinstance(on, bool):
        raise ValueError(f"`on` must be a bool. Received: on={on!r}")
    if on != _switch.on and keras.backend.backend() == "jax":
        import jax

        jax.clear_caches()  # else JAX would reuse what it has traced for the same method
    _switch.on = on


def fast_paths():
    """Returns whether fast paths are in use, see `use_fast_paths`."""
    return _switch.on
