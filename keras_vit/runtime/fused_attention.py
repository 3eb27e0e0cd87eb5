"""Attention in one fused kernel: torch's own or, for JAX on GPUs, cuDNN's."""

import functools
import logging

import keras
from keras import ops

log = logging.getLogger("keras_vit")
LONG = 256  # from this many tokens on, torch's kernel is faster on a CPU; below, it takes as long


def exists(query, key, bias=None):
    """Returns whether the backend has a kernel for `(batch, heads, tokens, head_dim)` that is faster than full matrix products.

    With a `bias` of the keys, only torch has.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        return query.device.type != "cpu" or query.shape[2] >= LONG
    if backend != "jax" or bias is not None or keras.distribution.distribution() is not None:
        return False
    import jax

    dtype = keras.backend.standardize_dtype(query.dtype)
    return jax.default_backend() == "gpu" and dtype in ("bfloat16", "float16") and _by_cudnn_works(query.shape[-1], dtype)


def fused_attention(query, key, value, scale=1.0, bias=None):
    """Returns `softmax(scale query key^T + bias) value` for `(batch, heads, tokens, head_dim)`. The scores are never stored."""
    if keras.backend.backend() == "torch":
        import torch

        bias = None if bias is None else bias[:, None, None, :].to(query.dtype)
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, bias, scale=scale)
    return _by_cudnn(query, key, value, scale)


@functools.cache
def _by_cudnn_works(head_dim, dtype):
    """Returns whether this GPU and its cuDNN compute this attention and its gradient, by trying it."""
    import jax

    x = jax.numpy.zeros((1, 1, 3, head_dim), dtype)
    try:
        with jax.ensure_compile_time_eval():
            jax.block_until_ready(jax.grad(lambda x: _by_cudnn(x, x, x, 1.0).sum())(x))
    except (NotImplementedError, RuntimeError, ValueError) as error:
        log.warning("cuDNN has no attention for heads of width %s in %s; a slower form is used: %s", head_dim, dtype, error)
        return False
    return True


def _by_cudnn(query, key, value, scale):
    import jax

    attend = jax.custom_vjp(functools.partial(_cudnn, scale=scale))
    attend.defvjp(
        lambda *inputs: jax.vjp(functools.partial(_cudnn_of_even, scale=scale), *inputs), lambda gradients, upstream: gradients(upstream)
    )
    return attend(query, key, value)


def _cudnn(query, key, value, scale, **lengths):
    import jax

    query, key, value = (ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))
    mixed = jax.nn.dot_product_attention(query, key, value, scale=scale, implementation="cudnn", **lengths)
    return ops.transpose(mixed, (0, 2, 1, 3))


def _cudnn_of_even(query, key, value, scale):
    """Pads tokens to an even number: cuDNN has no gradient for odd ones, and a class token makes them odd."""
    asked, tokens = query.shape[2], key.shape[2]
    query, key, value = (ops.pad(x, ((0, 0), (0, 0), (0, x.shape[2] % 2), (0, 0))) for x in (query, key, value))
    lengths = {"key_value_seq_lengths": ops.full((key.shape[0],), tokens, "int32")} if tokens % 2 else {}
    return _cudnn(query, key, value, scale, **lengths)[:, :, :asked]
