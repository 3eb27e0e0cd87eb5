"""Layer normalization, by fewer kernels than Keras's on TensorFlow's CPU."""

import functools

import keras
from keras import ops

from keras_vit import kernels


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
    return lambda inputs, gamma, beta: ops.layer_normalization(inputs, gamma, beta, -1, epsilon)
