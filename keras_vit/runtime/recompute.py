"""Recomputation of activations in the backward pass (`remat=True`)."""

import keras

from keras_vit.runtime.seeds import given
from keras_vit.runtime.switch import fast_paths


def recomputed(function, generators):
    """Returns `function` with activations that the backward pass recomputes instead of keeping them.

    Args:
        function: takes tensors and returns one.
        generators: list of `SeedGenerator`, those of the random layers that the function calls. Their seeds are drawn once, so that the
            recomputation has the same masks.
    """

    def call(*inputs):
        seeds = [generator.next() for generator in generators]

        def forward(*inputs_and_seeds):
            inputs, seeds = inputs_and_seeds[:count], inputs_and_seeds[count:]
            with given(generators, seeds):
                return function(*inputs)

        count = len(inputs)
        return _remat(forward)(*inputs, *seeds)

    return call


def _remat(function):
    """Returns `keras.remat(function)`, or our own form of it for JAX on a CPU.

    On a CPU, XLA removes the barrier between the two computations, finds them equal, and keeps the activations of the first. So the
    recomputation adds a zero to its first input that depends on the gradient: XLA can neither merge the two nor recompute early.
    """
    if keras.backend.backend() != "jax" or not fast_paths():
        return keras.remat(function)
    import jax

    if jax.default_backend() != "cpu":
        return keras.remat(function)

    def call(*inputs):
        function_of_weights, weights = jax.closure_convert(function, *inputs)
        again = jax.custom_vjp(function_of_weights)

        def backward(kept, upstream):
            first, *others = kept
            first = first + (0.0 * upstream.ravel()[0]).astype(first.dtype)
            return jax.vjp(function_of_weights, first, *others)[1](upstream)

        again.defvjp(lambda *kept: (function_of_weights(*kept), kept), backward)
        return again(*inputs, *weights)

    return call
