"""Patch dropout: training on a random subset of the patch tokens."""

from typing import Any

import keras
from keras import ops

from keras_vit.layers import checks
from keras_vit.runtime.rotation import as_tensor, unrounded
from keras_vit.runtime.seeds import SeedGenerator


@keras.saving.register_keras_serializable(package="keras_vit")
class PatchDropout(keras.layers.Layer):
    """Drops random patch tokens of each sample in training, which makes training faster.

    Prefix tokens are always kept, and patch tokens stay in order. A rotary position embedding loses the same tokens, so that those kept
    keep their angles. At inference, the layer is the identity.

    Args:
        rate: float in [0, 1). Fraction of the patch tokens to drop; at least one token is kept. Defaults to 0.0.
        num_prefix_tokens: int. Number of tokens in front that are not patches, such as the class token. Defaults to 0.
        seed: int or None. Seed of the layer's random generator; None takes a random one. Defaults to None.

    Call arguments:
        tokens: tensor of shape `(batch, num_prefix_tokens + patches, D)`.
        rotations: list of outputs of `RotaryPositionEmbedding` for these tokens. Defaults to none.
        training: bool. Whether tokens are dropped. Defaults to False.

    Output shape: `(batch, num_prefix_tokens + kept patches, D)`. With `rotations`, a pair: this and the list of rotations, each of shape
        `(2, batch, num_heads or 1, num_prefix_tokens + kept patches, head_dim)` in training.

    Raises:
        ValueError: if `rate` lies outside [0, 1) or `num_prefix_tokens` is negative.

    Reference:
        Liu et al., "PatchDropout: Economizing Vision Transformers Using Patch Dropout", 2022.

    Example:
    >>> keras_vit.layers.PatchDropout(0.5, num_prefix_tokens=1)(keras.ops.ones((2, 197, 8)), training=True).shape
    (2, 99, 8)
    """

    def __init__(self, rate: float = 0.0, num_prefix_tokens: int = 0, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.rate = checks.rate("rate", rate)
        self.num_prefix_tokens = checks.integer("num_prefix_tokens", num_prefix_tokens, least=0)
        self.seed = seed
        self.seed_generator = SeedGenerator(seed) if rate > 0.0 else None
        self.built = True

    def __call__(self, *args: Any, rotations: Any = (), **kwargs: Any) -> Any:
        return super().__call__(*args, rotations=[unrounded(rotation) for rotation in rotations], **kwargs)

    def call(self, tokens: Any, rotations: Any = (), training: bool = False) -> Any:
        rotations = [as_tensor(rotation) for rotation in rotations]
        if training and self.rate:
            tokens, rotations = self._drop(tokens, rotations)
        return (tokens, rotations) if rotations else tokens

    def _drop(self, tokens, rotations):
        prefix, patches = tokens[:, : self.num_prefix_tokens], tokens[:, self.num_prefix_tokens :]
        batch, count, _ = ops.shape(patches)
        # 1e-3 more than the product, so that rounding does not turn 0.9999 patches into none; the same if the count is a tensor.
        if isinstance(count, int):
            kept = max(1, int(count * (1.0 - self.rate) + 1e-3))
        else:
            kept = ops.maximum(1, ops.cast(ops.cast(count, "float32") * (1.0 - self.rate) + 1e-3, "int32"))
        order = ops.argsort(keras.random.uniform((batch, count), seed=self.seed_generator), axis=1)
        chosen = ops.sort(order[:, :kept], axis=1)
        tokens = ops.concatenate([prefix, ops.take_along_axis(patches, chosen[:, :, None], axis=1)], axis=1)
        first = ops.broadcast_to(ops.arange(self.num_prefix_tokens, dtype=chosen.dtype), (batch, self.num_prefix_tokens))
        places = ops.concatenate([first, chosen + self.num_prefix_tokens], axis=1)
        return tokens, [self._at(rotation, places) for rotation in rotations]

    def _at(self, rotation, places):
        """Returns the rotation of the tokens that each sample keeps."""
        rotation = rotation if len(rotation.shape) == 4 else rotation[:, None]
        return ops.transpose(ops.take(rotation, places, axis=2), (0, 2, 1, 3, 4))

    def compute_output_spec(self, tokens: Any, rotations: Any = (), training: bool = False) -> Any:
        tokens = keras.KerasTensor(tokens.shape, dtype=self.compute_dtype)
        return (tokens, [keras.KerasTensor(rotation.shape, dtype=rotation.dtype) for rotation in rotations]) if rotations else tokens

    def compute_output_shape(self, tokens_shape: tuple) -> tuple:
        return tokens_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "num_prefix_tokens": self.num_prefix_tokens, "seed": self.seed}
