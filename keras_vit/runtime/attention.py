"""Scaled dot-product attention: one function that chooses the implementation."""

import keras
from keras import ops

from keras_vit.one_dnn import one_dnn
from keras_vit.runtime import attention_by_head, fused_attention
from keras_vit.runtime.fused import fused
from keras_vit.runtime.intermediates import observe, observed
from keras_vit.runtime.step import step
from keras_vit.runtime.switch import fast_paths


def scaled_dot_product_attention(query, key, value, dropout=None, bias=None):
    """Returns `softmax(query key^T / sqrt(head_dim)) value`, all of shape `(batch, heads, tokens, head_dim)`.

    The first that applies:

    - full matrix products if the weights are needed, for dropout or for an observer;
    - one fused kernel (torch's own, cuDNN's for JAX on GPUs) where `fused_attention` has one;
    - head by head for long sequences on a CPU;
    - else full matrix products in this layout: 5 % faster than `ops.dot_product_attention` on TensorFlow, 9 % on JAX's CPU; by XLA in
      steps on TensorFlow without oneDNN.

    Args:
        query, key, value: float tensors.
        dropout: function `(weights, training=True)` for attention weights, or None.
        bias: float tensor `(batch, tokens)` that is added to the scores of the keys, or None.
    """
    if dropout is None and not observed() and fast_paths():
        if fused_attention.exists(query, key, bias):
            return fused_attention.fused_attention(query, key, value, query.shape[-1] ** -0.5, bias)
        if bias is None and attention_by_head.pays(query, key):
            return attention_by_head.attention_by_head(_scaled(query), key, value)
    weights = observe("weights", attention_weights(query, key, bias))
    return _product(weights if dropout is None else dropout(weights, training=True), value)


def attention_weights(query, key, bias=None):
    """Returns `softmax(query key^T / sqrt(head_dim) + bias)`, `(batch, heads, queries, keys)`. The softmax is computed in float32."""
    scores = _product(_scaled(query), ops.transpose(key, (0, 1, 3, 2)))
    full = ops.cast(scores, keras.backend.result_type(scores.dtype, "float32"))
    full = full if bias is None else full + bias[:, None, None, :]
    return ops.cast(ops.softmax(full), scores.dtype)


def _product(left, right):
    """Returns the products of many small matrices. Without oneDNN, TensorFlow's own take twice the time of XLA's."""
    return fused(ops.matmul, left, right) if step() and not one_dnn() else ops.matmul(left, right)


def _scaled(query):
    return query * (query.shape[-1] ** -0.5)
