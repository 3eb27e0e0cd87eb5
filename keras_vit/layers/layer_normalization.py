"""Layer normalization, by fewer kernels than Keras's on TensorFlow's CPU."""

import keras
from keras import ops

from keras_vit.runtime import normalization


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
        outputs = normalization.layer_normalization(inputs, self.gamma, self.beta, self.epsilon) if plain else None
        return super().call(inputs) if outputs is None else ops.cast(outputs, self.compute_dtype)
