"""The optimizer's update of a training step."""

from keras_vit.runtime.step import step

WORTH_COMPILING = 1_000_000  # weights; for fewer, compiling the update takes longer than it saves


def apply_updates(optimizer, gradients, variables):
    """Updates the variables. In a training step on TensorFlow's CPU, XLA compiles a large update as a whole.

    Args:
        optimizer: a Keras optimizer.
        gradients: list of tensors, one per variable.
        variables: list of variables.
    """
    if step() != "training" or not _compiles(optimizer):
        optimizer.apply(gradients, variables)
        return
    import tensorflow as tf

    @tf.function(jit_compile=True, autograph=False)
    def update(*gradients):
        optimizer.apply(gradients, variables)

    update(*gradients)


def _compiles(optimizer):
    """Returns whether to compile: not under a strategy, whose communication XLA cannot compile, nor for a user's own optimizer."""
    import tensorflow as tf

    known = type(optimizer).__module__.partition(".")[0] in ("keras", "keras_vit")
    alone = not tf.distribute.has_strategy()
    return known and alone and sum(variable.shape.num_elements() for variable in optimizer.variables) >= WORTH_COMPILING
