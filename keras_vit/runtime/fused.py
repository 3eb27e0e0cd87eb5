"""Functions that XLA compiles to one pass through memory, within a step of TensorFlow's CPU."""

import functools

from keras_vit.runtime.step import step


def fused_in_training(function, *inputs):
    """Returns `function(*inputs)`, compiled by `fused` in a training step."""
    return fused(function, *inputs) if step() == "training" else function(*inputs)


def fused_in_steps(function, *inputs):
    """Returns `function(*inputs)`, compiled by `fused` in a training or an inference step."""
    return fused(function, *inputs) if step() else function(*inputs)


def fused(function, *inputs):
    """Returns `function(*inputs)`, compiled by XLA to one pass through memory, and its gradient to another.

    The backward pass keeps the inputs alone and computes the rest again.

    Args:
        function: takes and returns float tensors. It must be made once, because its compiled form is cached, and use no variables.
        *inputs: its arguments.
    """
    return _fused(function)(*inputs)


@functools.cache
def _fused(function):
    import tensorflow as tf

    forward = tf.function(function, jit_compile=True, autograph=False)

    @tf.function(jit_compile=True, autograph=False)
    def backward(upstream, *inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = function(*inputs)
        return tape.gradient(outputs, inputs, upstream)

    @tf.custom_gradient
    def call(*inputs):
        return forward(*inputs), lambda upstream: backward(upstream, *inputs)

    return call
