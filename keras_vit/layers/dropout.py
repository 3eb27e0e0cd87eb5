"""Dropout with a different mask in each replica."""

from typing import Any

import keras

from keras_vit.layers import checks
from keras_vit.runtime.seeds import SeedGenerator


@keras.saving.register_keras_serializable(package="keras_vit")
class Dropout(keras.layers.Layer):
    """Sets random units to zero in training, and scales the others by `1 / (1 - rate)`.

    Unlike in `keras.layers.Dropout`, replicas of `tf.distribute` drop different units.

    Args:
        rate: float in [0, 1). Probability that a unit is dropped.
        seed: int or None. Seed of the layer's random generator; None takes a random one. Defaults to None.

    Input and output shape: `(...)`, unchanged.

    Raises:
        ValueError: if `rate` lies outside [0, 1).

    Reference:
        Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014.

    Example:
    >>> keras_vit.layers.Dropout(0.1)(keras.ops.ones((2, 197, 192)), training=True).shape
    (2, 197, 192)
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.rate = checks.rate("rate", rate)
        self.seed = seed
        self.seed_generator = SeedGenerator(seed) if rate > 0.0 else None
        self.supports_masking = True
        self.built = True

    def call(self, inputs: Any, training: bool = False) -> Any:
        return keras.random.dropout(inputs, self.rate, seed=self.seed_generator) if training and self.rate else inputs

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
