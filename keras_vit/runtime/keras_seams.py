"""The one file that touches what Keras keeps to itself, where Keras 3.15 leaves no other way.

Each function names the fault. `tests/runtime/test_keras_seams.py` fails once a release of Keras makes it unnecessary.
"""


def create_with(variable, make):
    """Sets what an uncreated variable is created with.

    The fault: a variable's first values come from the initializer that its layer chose, and `assign` needs a variable that exists. So
    weights that a checkpoint holds would be drawn at random first, which takes longer than to read them and twice the memory.

    Args:
        variable: `keras.Variable` made within `keras.StatelessScope(initialize_variables=False)`. Keras creates it when the next scope
            ends.
        make: function `(shape, dtype)` that returns the values, such as a `keras.initializers.Initializer`.
    """
    variable._initializer = make


def begin_fit_at(model, epoch):
    """Makes the running `fit` begin at an epoch, or, with None, leaves that to its `initial_epoch` again.

    The fault: `fit` asks its callbacks nothing before it chooses its first epoch. Keras's own `BackupAndRestore` sets this attribute, too.

    Args:
        model: `keras.Model` whose `fit` has called `on_train_begin`.
        epoch: int from 0, or None.
    """
    model._initial_epoch = epoch
