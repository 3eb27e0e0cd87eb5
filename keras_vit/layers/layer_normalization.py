"""Layer normalization, by fewer kernels than Keras's on TensorFlow's CPU."""

import functools

import keras
from keras import ops

from keras_vit.runtime import kernels


@keras.saving.register_keras_serializable(package="keras_vit")
class LayerNormalization(keras.layers.LayerNormalization):
    """Keras's layer normalization over the last axis, which `predict` and `evaluate` compute in one kernel, and `fit` in two.

    TensorFlow on a processor runs Keras's form as eight kernels, each of which goes through memory; one takes a third of their time
    (docs/performance.md). There is no operation to ask for that kernel: TensorFlow puts it where it finds a batch normalization of tokens
    between two reshapes, with shapes that it cannot fold. Where it does not, the result is the same. What is exported or called is
    Keras's form: other converters read a batch normalization as one of batches.

    Its weights are `gamma` and `beta` (D).

    Args:
        epsilon: float. Added to the variance.

    Input and output shape: `(..., D)`, unchanged.

    Reference:
        Ba et al., "Layer Normalization", 2016.

    Example:
    >>> keras_vit.layers.LayerNormalization()(keras.ops.ones((2, 197, 192))).shape
    (2, 197, 192)
    """

    def __init__(self, epsilon=1e-6, **kwargs):
        super().__init__(epsilon=epsilon, **kwargs)

    def call(self, inputs):
        plain = self.center and self.scale and self.axis == [-1]
        step = kernels.step() if plain else None
        if step == "training":
            return kernels.fused(_normalize(self.epsilon), inputs, ops.convert_to_tensor(self.gamma), ops.convert_to_tensor(self.beta))
        if step is None or len(inputs.shape) > 3 or inputs.dtype not in ("float32", "bfloat16"):
            return super().call(inputs)
        import tensorflow as tf

        width = inputs.shape[-1]
        # What follows must not be folded into a constant, or it is no longer found.
        tokens = tf.reshape(tf.compat.v1.placeholder_with_default(tf.size(inputs) // width, []), [1])
        normalised, *_ = tf.raw_ops.FusedBatchNormV3(
            x=tf.reshape(inputs, tf.concat([[1], tokens, [width, 1]], axis=0)),
            scale=tf.fill(tokens, tf.constant(1.0)),
            offset=tf.fill(tokens, tf.constant(0.0)),
            mean=tf.constant([], "float32"),
            variance=tf.constant([], "float32"),
            epsilon=self.epsilon,
            data_format="NCHW",
            is_training=True,
        )
        gamma, beta = (tf.cast(weight, inputs.dtype) for weight in (self.gamma, self.beta))
        outputs = tf.raw_ops.AddV2(x=beta, y=tf.reshape(normalised, tf.shape(inputs)) * gamma)
        outputs.set_shape(inputs.shape)
        return outputs


@functools.cache
def _normalize(epsilon):
    """Returns what XLA compiles: means over a token's width are products, for which it takes two thirds of the time of its sums."""
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
