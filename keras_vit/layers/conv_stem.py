"""The convolutional stem of ViT_C, which replaces large patches."""

import math
from typing import Any

import keras
from keras import ops

from keras_vit.layers import checks
from keras_vit.layers.sublayers import KeepsSublayers
from keras_vit.runtime.normalization import batch_normalization


@keras.saving.register_keras_serializable(package="keras_vit")
class ConvStem(KeepsSublayers, keras.layers.Layer):
    """Applies a stack of 3x3 convolutions, each followed by batch normalization and ReLU.

    A PatchEmbedding of patch size 1 follows: it is the 1x1 convolution that ends the stem, and turns the feature map into tokens. The
    sublayers are `conv_0`, `norm_0`, `conv_1` and so on.

    Args:
        filters: tuple of ints. Output channels of each convolution.
        strides: tuple of ints, as long as `filters`. Their product is the side in pixels of the area that becomes one token.
        norm_epsilon: float. What batch normalization adds to the variance. Defaults to 1e-5.

    Input shape: `(batch, height, width, channels)`.

    Output shape: `(batch, height / product of strides, width / product of strides, filters[-1])`, rounded up.

    Raises:
        ValueError: if `filters` and `strides` differ in length or hold anything but positive ints.

    Reference:
        Xiao et al., "Early Convolutions Help Transformers See Better", 2021, table 1.

    Example:
    >>> keras_vit.layers.ConvStem((24, 48, 96, 192), (2, 2, 2, 2))(keras.ops.ones((2, 224, 224, 3))).shape
    (2, 14, 14, 192)
    """

    def __init__(self, filters: tuple[int, ...], strides: tuple[int, ...], norm_epsilon: float = 1e-5, **kwargs: Any):
        super().__init__(**kwargs)
        self.filters, self.strides = self.check(filters, strides)
        self.norm_epsilon = norm_epsilon

    @staticmethod
    def check(filters: Any, strides: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns both as tuples of ints, or raises ValueError."""
        filters, strides = checks.integers("filters", filters), checks.integers("strides", strides)
        if not filters or len(filters) != len(strides):
            raise ValueError(
                f"The length of `filters` and of `strides` must be the same, at least 1. Received: filters={filters}, strides={strides}"
            )
        return filters, strides

    @property
    def stride(self) -> int:
        """Side in pixels of the area that becomes one token."""
        return math.prod(self.strides)

    def build(self, input_shape: tuple) -> None:
        policy = dict(dtype=self.dtype_policy)
        self.stages = []
        for i, (filters, stride) in enumerate(zip(self.filters, self.strides)):
            fan_out = keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="untruncated_normal")
            conv = keras.layers.Conv2D(
                filters,
                3,
                stride,
                use_bias=False,
                kernel_initializer=fan_out,
                data_format="channels_last",
                name=f"conv_{i}",
                **policy,
            )
            norm = batch_normalization(axis=-1, momentum=0.9, epsilon=self.norm_epsilon, name=f"norm_{i}", **policy)
            conv.build(input_shape)
            input_shape = (*input_shape[:3], filters)
            norm.build(input_shape)
            self.stages.append((conv, norm))
            setattr(self, f"conv_{i}", conv)
            setattr(self, f"norm_{i}", norm)
        self.sublayers_built()

    def call(self, images: Any, training: bool = False) -> Any:
        x = images
        for conv, norm in self.stages:
            # One pixel on every side, as in torch: "same" pads an even image only at its bottom and right.
            x = conv(ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]))
            x = ops.relu(norm(x, training=training))
        return x

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, height, width, _ = input_shape
        for stride in self.strides:
            height, width = (None if size is None else -(-size // stride) for size in (height, width))
        return (batch, height, width, self.filters[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "filters": self.filters, "strides": self.strides, "norm_epsilon": self.norm_epsilon}
