"""Functions that XLA fuses to one pass through memory, within a step on TensorFlow's CPU."""

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

    Only the inputs are kept for the backward pass, which recomputes the rest.

    Args:
        function: maps float tensors to float tensors, without variables. Pass the same object at each call: its compiled form is cached.
        *inputs: float tensors.
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
