"""Layer normalization with fewer kernels on TensorFlow's CPU, and the kinds of normalization by name."""

from typing import Any

import keras
from keras import ops

from keras_vit.runtime import normalization


@keras.saving.register_keras_serializable(package="keras_vit")
class LayerNormalization(keras.layers.LayerNormalization):
    """Normalizes over the last axis, as `keras.layers.LayerNormalization` does, with one kernel in `predict` and two in `fit`.

    On a CPU, TensorFlow runs Keras's form as eight kernels, and each goes through memory. One kernel takes a third of their time
    (docs/performance.md). No operation asks for that kernel: TensorFlow uses it where it finds a batch normalization of tokens between
    two reshapes whose shapes it cannot fold. Elsewhere the result is the same. An exported model and a direct call use Keras's form,
    because other converters take a batch normalization literally.

    Its weights are `gamma` and `beta` (D).

    Args:
        epsilon: float. Added to the variance. Defaults to 1e-6.

    Input and output shape: `(..., D)`, unchanged.

    Reference:
        Ba et al., "Layer Normalization", 2016.

    Example:
    >>> keras_vit.layers.LayerNormalization()(keras.ops.ones((2, 197, 192))).shape
    (2, 197, 192)
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs: Any):
        super().__init__(epsilon=epsilon, **kwargs)

    def call(self, inputs: Any) -> Any:
        plain = self.center and self.scale and self.axis == [-1]
        outputs = normalization.layer_normalization(inputs, self.gamma, self.beta, self.epsilon) if plain else None
        return super().call(inputs) if outputs is None else ops.cast(outputs, self.compute_dtype)


NORMS = {"layer": LayerNormalization, "rms": keras.layers.RMSNormalization}
