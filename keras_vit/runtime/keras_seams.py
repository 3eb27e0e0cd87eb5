"""What Keras 3.15 offers no other way for. No other file sets private attributes of Keras.

Each function names the fault that it works around. `tests/runtime/test_keras_seams.py` fails once a release of Keras makes it unnecessary.
"""

import contextlib
import gc


def create_with(variable, make):
    """Sets the initial values of a variable that does not exist yet.

    The fault: a variable's initial values come from the initializer of its layer, and `assign` needs a variable that exists. So weights
    of a checkpoint would first be drawn at random, which takes longer than reading them, and twice the memory.

    Args:
        variable: `keras.Variable` made within `keras.StatelessScope(initialize_variables=False)`. Keras creates it when the next scope
            ends.
        make: function `(shape, dtype)` that returns the values, such as a `keras.initializers.Initializer`.
    """
    variable._initializer = make


def begin_fit_at(model, epoch):
    """Makes the running `fit` begin at an epoch or, with None, at its `initial_epoch` again.

    The fault: callbacks have no say in the first epoch of `fit`. Keras's own `BackupAndRestore` sets this attribute, too.

    Args:
        model: `keras.Model` whose `fit` has called `on_train_begin`.
        epoch: int from 0, or None.
    """
    model._initial_epoch = epoch


@contextlib.contextmanager
def quick_deletion():
    """Hides what exists from Python's collector, while layers are quantized.

    The fault: for each kernel that is replaced, `keras.Layer.__delattr__` collects all garbage of the process. With TensorFlow imported
    that is a fifth of a second, ten seconds for a model of twelve blocks, both when it is quantized and whenever it is loaded.
    Objects that the caller has frozen are no longer so afterwards: to count them, Python would go through all of them.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
