"""Normalization with fewer kernels than Keras's on TensorFlow's CPU."""

import functools

import keras
from keras import ops

from keras_vit.one_dnn import one_dnn
from keras_vit.runtime import openvino
from keras_vit.runtime.devices import replicas
from keras_vit.runtime.fused import fused, fused_in_steps
from keras_vit.runtime.gpu import half_on_gpu
from keras_vit.runtime.step import step
from keras_vit.runtime.switch import fast_paths


def layer_normalization(inputs, gamma, beta, epsilon):
    """Returns the layer normalization over the last axis, or None where Keras's own form is the fastest.

    TensorFlow's CPU runs Keras's form as eight kernels, each a pass through memory. Here a training step runs two kernels of XLA, and an
    inference step one of oneDNN in a third of the time (docs/performance.md). torch has its own kernel. In half precision on JAX's GPUs
    both means are computed in one pass, as in flax.

    Args:
        inputs: float tensor `(..., D)`.
        gamma, beta: variables `(D,)`.
        epsilon: float. Added to the variance.
    """
    if keras.backend.backend() == "torch" and fast_paths():
        return _by_torch(inputs, gamma, beta, epsilon)
    if openvino.compiling():
        return openvino.layer_normalization(inputs, gamma, beta, epsilon)
    if half_on_gpu(inputs):
        return _in_one_pass(inputs, gamma, beta, epsilon)
    if step() == "training" or step() and not one_dnn():
        return fused(_by_products(epsilon), inputs, ops.convert_to_tensor(gamma), ops.convert_to_tensor(beta))
    if step() is None or len(inputs.shape) > 3 or inputs.dtype not in ("float32", "bfloat16"):
        return None
    return _by_one_dnn(inputs, gamma, beta, epsilon)


def _by_torch(inputs, gamma, beta, epsilon):
    """Computes the means in float32, with the weights in the dtype of the inputs."""
    import torch

    gamma, beta = (ops.cast(weight, inputs.dtype) for weight in (gamma, beta))
    return torch.nn.functional.layer_norm(inputs, inputs.shape[-1:], gamma, beta, epsilon)


def _in_one_pass(inputs, gamma, beta, epsilon):
    """Computes the variance, in float32, as the mean square less the squared mean."""
    x = ops.cast(inputs, "float32")
    mean = ops.mean(x, axis=-1, keepdims=True)
    variance = ops.maximum(ops.mean(ops.square(x), axis=-1, keepdims=True) - ops.square(mean), 0.0)
    normalized = (x - mean) * ops.rsqrt(variance + epsilon)
    return ops.cast(normalized * ops.cast(gamma, "float32") + ops.cast(beta, "float32"), inputs.dtype)


def _by_one_dnn(inputs, gamma, beta, epsilon):
    """Writes a batch normalization of tokens between two reshapes.

    TensorFlow has no operation for oneDNN's layer normalization. Its graph optimizer replaces this pattern by that kernel if it cannot
    fold the shapes. Otherwise the pattern itself computes the same result.
    """
    import tensorflow as tf

    width = inputs.shape[-1]
    # A placeholder, because TensorFlow no longer finds the pattern once this is folded into a constant.
    tokens = tf.reshape(tf.compat.v1.placeholder_with_default(tf.size(inputs) // width, []), [1])
    normalized, *_ = tf.raw_ops.FusedBatchNormV3(
        x=tf.reshape(inputs, tf.concat([[1], tokens, [width, 1]], axis=0)),
        scale=tf.fill(tokens, tf.constant(1.0)),
        offset=tf.fill(tokens, tf.constant(0.0)),
        mean=tf.constant([], "float32"),
        variance=tf.constant([], "float32"),
        epsilon=epsilon,
        data_format="NCHW",
        is_training=True,
    )
    gamma, beta = (tf.cast(weight, inputs.dtype) for weight in (gamma, beta))
    outputs = tf.raw_ops.AddV2(x=beta, y=tf.reshape(normalized, tf.shape(inputs)) * gamma)
    outputs.set_shape(inputs.shape)
    return outputs


@functools.cache
def _by_products(epsilon):
    """Returns the normalization for XLA. Means over the width are matrix products, which take two thirds of the time of sums."""
    import tensorflow as tf

    def mean(x):
        return tf.matmul(x, tf.fill((x.shape[-1], 1), tf.constant(1.0 / x.shape[-1], x.dtype)))

    def rows(x):
        full = tf.cast(x, keras.backend.result_type(x.dtype, "float32"))
        return tf.reshape(full, (-1, x.shape[-1]))

    @tf.custom_gradient
    def normalize(inputs, gamma, beta):
        x = rows(inputs)
        x -= mean(x)
        scale = tf.math.rsqrt(mean(tf.square(x)) + epsilon)
        x *= scale
        factors, offsets = tf.cast(gamma, x.dtype), tf.cast(beta, x.dtype)

        def gradient(upstream):
            outer = rows(upstream)
            scaled = outer * factors
            inner = scale * (scaled - mean(scaled) - x * mean(scaled * x))
            over_tokens = tf.reduce_sum(outer * x, axis=0), tf.reduce_sum(outer, axis=0)
            return tf.cast(tf.reshape(inner, tf.shape(inputs)), inputs.dtype), *(tf.cast(total, gamma.dtype) for total in over_tokens)

        return tf.cast(tf.reshape(x * factors + offsets, tf.shape(inputs)), inputs.dtype), gradient

    return normalize


def group_normalization(inputs, gamma, beta, groups, epsilon, shortcut=None, relu=False):
    """Returns `relu(shortcut + group_normalization(inputs))` in a few passes through memory.

    Args:
        inputs: float tensor `(batch, rows, columns, channels)`.
        gamma, beta: variables `(channels,)`.
        groups: int.
        epsilon: float. Added to the variance.
        shortcut: tensor of the shape of `inputs`, or None.
        relu: bool. Whether a ReLU follows.
    """
    weights = ops.convert_to_tensor(gamma), ops.convert_to_tensor(beta)
    function = _by_groups(groups, epsilon, relu, compiled=bool(step()))
    return fused_in_steps(function, inputs, *weights, *(() if shortcut is None else (shortcut,)))


@functools.cache
def _by_groups(groups, epsilon, relu, compiled):
    """Returns the normalization: means over pixels, then over a group's channels. If compiled, the first are products, which is faster."""

    def normalize(inputs, gamma, beta, shortcut=None):
        batch, height, width, channels = ops.shape(inputs)
        full = keras.backend.result_type(inputs.dtype, "float32")

        def mean(x):
            """Returns each channel's mean over the pixels and channels of its group, `(batch, 1, channels)`."""
            if compiled:
                over_pixels = ops.matmul(ops.ones((batch, 1, height * width), full), x) / ops.cast(height * width, full)
            else:
                over_pixels = ops.mean(x, axis=1)
            grouped = ops.reshape(over_pixels, (-1, groups, channels // groups))
            return ops.reshape(ops.repeat(ops.mean(grouped, axis=-1), channels // groups, axis=-1), (-1, 1, channels))

        x = ops.reshape(ops.cast(inputs, full), (batch, height * width, channels))
        x = x - mean(x)
        scale = ops.rsqrt(mean(ops.square(x)) + epsilon) * ops.cast(gamma, full)
        x = ops.cast(ops.reshape(x * scale + ops.cast(beta, full), ops.shape(inputs)), inputs.dtype)
        x = x if shortcut is None else shortcut + x
        return ops.relu(x) if relu else x

    return normalize


def standardize(kernel, by, epsilon):
    """Returns a kernel standardized over all but its last axis.

    Args:
        kernel: variable `(rows, columns, channels, filters)`.
        by: "std" divides by `std + epsilon`, "variance" by `sqrt(variance + epsilon)`.
        epsilon: float.
    """
    return fused_in_steps(_standardize(by, epsilon), ops.convert_to_tensor(kernel))


@functools.cache
def _standardize(by, epsilon):
    def standardized(kernel):
        centered = kernel - ops.mean(kernel, axis=(0, 1, 2), keepdims=True)
        variance = ops.mean(ops.square(centered), axis=(0, 1, 2), keepdims=True)
        return centered / (ops.sqrt(variance) + epsilon if by == "std" else ops.sqrt(variance + epsilon))

    return standardized


def batch_normalization(**arguments):
    """Returns Keras's layer. Under `tf.distribute` its statistics are those of the whole batch, over all replicas."""
    return keras.layers.BatchNormalization(**arguments, **({"synchronized": True} if replicas() > 1 else {}))
