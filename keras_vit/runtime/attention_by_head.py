"""Attention of long sequences, head by head: the scores of all heads are never in memory at the same time."""

import keras
from keras import ops

LONG = 1024  # from this many tokens on, head by head takes no longer than all heads at once (`python benchmarks/kernels.py`)
ROWS = 640  # queries whose scores are in memory at a time


def pays(query, key):
    """Returns whether `attention_by_head` is as fast as full matrix products for `(batch, heads, tokens, head_dim)`."""
    tokens = query.shape[2]
    if tokens is None or tokens < LONG or key.shape[2] != tokens or keras.backend.backend() == "torch":
        return False
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "cpu" and keras.distribution.distribution() is None
    import tensorflow as tf

    return not tf.config.list_logical_devices("GPU")  # a GPU is fast only with many heads at once


def attention_by_head(query, key, value):
    """Returns the exact `softmax(query key^T) value` in memory that grows linearly with the number of tokens.

    At any time, the scores of at most `ROWS` queries of one head of one image are in memory. The backward pass recomputes them in the
    same way. For TensorFlow and JAX.

    Args:
        query, key, value: `(batch, heads, tokens, head_dim)` with a static number of tokens.

    Returns:
        A tensor of the shape of `query`.
    """
    heads = [ops.reshape(x, (-1, *x.shape[2:])) for x in (query, key, value)]
    over_heads = _on_jax if keras.backend.backend() == "jax" else _on_tensorflow
    return ops.reshape(over_heads(*heads), ops.shape(query))


def _attend(query, key, value):
    return ops.concatenate([ops.matmul(ops.cast(_weights(rows, key), rows.dtype), value) for rows in _in_rows(query)], axis=0)


def _weights(query, key):
    return ops.softmax(_full(ops.matmul(query, ops.transpose(key))))


def _full(x):
    return ops.cast(x, keras.backend.result_type(x.dtype, "float32"))


def _in_rows(x):
    parts = -(-x.shape[0] // ROWS)
    bounds = [part * x.shape[0] // parts for part in range(parts + 1)]
    return [x[start:stop] for start, stop in zip(bounds, bounds[1:])]


def _gradients(query, key, value, output, upstream):
    queries, keys, values = [], 0, 0
    # The mean gradient of a query's weights: a sum over the head's width is shorter than one over all keys.
    means = ops.sum(_full(output) * _full(upstream), axis=-1, keepdims=True)
    for rows, outer, mean in zip(*map(_in_rows, (query, upstream, means))):
        weights = _weights(rows, key)
        scores = ops.cast(weights * (_full(ops.matmul(outer, ops.transpose(value))) - mean), rows.dtype)
        queries.append(ops.matmul(scores, key))
        keys += ops.matmul(ops.transpose(scores), rows)
        values += ops.matmul(ops.transpose(ops.cast(weights, rows.dtype)), outer)
    return ops.concatenate(queries, axis=0), keys, values


def _on_tensorflow(query, key, value):
    import tensorflow as tf

    def over_heads(function, tensors, results):
        specs = tuple(tf.TensorSpec(x.shape[1:], x.dtype) for x in tensors[:results])
        return tf.map_fn(
            lambda head: function(*head), tensors, parallel_iterations=1, fn_output_signature=specs if results > 1 else specs[0]
        )

    # A gradient of our own, because TensorFlow's gradient of a loop keeps the results of every iteration.
    @tf.custom_gradient
    def attend(*tensors):
        output = over_heads(_attend, tensors, 1)
        return output, lambda upstream: over_heads(_gradients, (*tensors, output, upstream), 3)

    return attend(query, key, value)


def _on_jax(query, key, value):
    import jax

    return jax.lax.map(jax.checkpoint(lambda head: _attend(*head)), (query, key, value))
