"""Recomputation of activations in the backward pass (`remat=True`)."""

import keras

from keras_vit.runtime.seeds import given
from keras_vit.runtime.switch import fast_paths


def recomputed(function, generators):
    """Returns `function`, whose activations the backward pass computes again instead of keeping them.

    Args:
        function: takes tensors and returns one.
        generators: list of `SeedGenerator`, of the random layers that the function calls. Their seeds are drawn before, so that the
            second pass sees the masks of the first.
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
    """Returns `keras.remat(function)` but, for JAX on a processor, a form of our own.

    There XLA drops the barrier between what is computed again and what was computed before, finds both equal, and keeps everything.
    So the second time the first input gets a zero that only the backward pass has: for this reason, too, it is not computed before.
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
