"""Stochastic depth: training drops residual branches of single images."""

from typing import Any

import keras
from keras import ops

from keras_vit.layers import checks
from keras_vit.runtime.seeds import SeedGenerator


@keras.saving.register_keras_serializable(package="keras_vit")
class DropPath(keras.layers.Layer):
    """Drops whole residual branches per sample (stochastic depth).

    In training, each sample's branch is set to zero with probability `rate` and scaled by `1 / (1 - rate)` otherwise, so that
    its expectation is unchanged. At inference, the layer is the identity.

    Args:
        rate: float in [0, 1). Probability that a sample's branch is dropped. Defaults to 0.0.
        seed: int or None. Seed of the layer's random generator; None takes a random one. Defaults to None.

    Input and output shape: `(batch, ...)`, unchanged.

    Raises:
        ValueError: if `rate` lies outside [0, 1).

    Reference:
        Huang et al., "Deep Networks with Stochastic Depth", 2016, section 3.

    Example:
    >>> branch = keras_vit.layers.DropPath(0.1)
    >>> branch(keras.ops.ones((2, 197, 768)), training=False).shape
    (2, 197, 768)
    """

    def __init__(self, rate: float = 0.0, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.rate = checks.rate("rate", rate)
        self.seed = seed
        self.seed_generator = SeedGenerator(seed) if rate > 0.0 else None
        self.built = True  # even if it is never called: until all layers are built, Keras retraces a model in each `train_on_batch`

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training or self.rate == 0.0:
            return inputs
        keep = 1.0 - self.rate
        per_sample = (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
        # The floor makes this 0 or 1: KerasHub's DropPath lacks it and never drops.
        kept = ops.floor(keras.random.uniform(per_sample, seed=self.seed_generator) + keep)
        return inputs * ops.cast(kept / keep, inputs.dtype)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
