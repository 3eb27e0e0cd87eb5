"""Gradients with respect to tensors, on every backend."""

import contextlib

import keras
from keras import ops

from keras_vit.runtime.openvino import check_training


def gradients(function, inputs):
    """Returns the gradients of a scalar with respect to tensors, and the further results of the function.

    Args:
        function: takes a list of tensors, returns a scalar tensor and a list of further tensors.
        inputs: list of float tensors.

    Returns:
        A pair of lists: the gradient of the scalar for each of `inputs` (zeros where it does not depend on it), and the further tensors.
    """
    check_training()
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.grad(function, has_aux=True)(inputs)
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            value, more = function(inputs)
        return tape.gradient(value, inputs, unconnected_gradients=tf.UnconnectedGradients.ZERO), more
    import torch

    inputs = [x.detach().requires_grad_() for x in inputs]
    value, more = function(inputs)
    found = torch.autograd.grad(value, inputs, allow_unused=True)
    return [ops.zeros_like(x) if gradient is None else gradient for x, gradient in zip(inputs, found)], more


def no_gradients():
    """Returns a context in which torch records nothing for a backward pass. Other backends need none."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()
