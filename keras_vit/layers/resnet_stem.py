"""The ResNet stem of the paper's hybrid models, with weight standardization and group normalization."""

from typing import Any

import keras
from keras import ops

from keras_vit.layers import checks
from keras_vit.layers.sublayers import KeepsSublayers
from keras_vit.runtime.normalization import group_normalization, standardize

STANDARDIZATIONS = ("std", "variance")


@keras.saving.register_keras_serializable(package="keras_vit")
class ResNetStem(KeepsSublayers, keras.layers.Layer):
    """Applies the first stages of a ResNet with weight standardization and group normalization (BiT), post-activation.

    A root (7x7 convolution of stride 2, normalization, ReLU, 3x3 max pooling of stride 2) precedes stages of bottleneck units. A
    PatchEmbedding turns the feature map into tokens. The sublayers are `root`, `root_norm`, and `stage_{s}_unit_{u}` with
    `conv1`, `norm1`, `conv2`, `norm2`, `conv3`, `norm3` and, if a unit changes size or width, `shortcut` and `shortcut_norm`.

    Args:
        block_counts: tuple of ints. Units in each stage: (3, 4, 9) for R50 at stride 16, (2, 2, 2, 2) for R26, () for only the root.
        width: int. Channels of the root; stage s has `4 * width * 2**s` channels. Defaults to 64.
        num_groups: int. Groups of each normalization; it must divide `width`. Defaults to 32.
        norm_epsilon: float. What group normalization adds to the variance: 1e-6 in vit_jax, 1e-5 in timm and Hugging Face. Defaults to
            1e-6.
        standardization: str. "std" divides a kernel by `std + epsilon` (vit_jax), "variance" by `sqrt(variance + epsilon)` (timm).
            Defaults to "std".
        standardization_epsilon: float. Epsilon of the standardization: 1e-5 in vit_jax, 1e-8 in timm and Hugging Face. Defaults to 1e-5.

    Input shape: `(batch, height, width, channels)`.

    Output shape: `(batch, rows, columns, channels)` at stride 4 for the root and the first stage, doubled by each further stage.

    Raises:
        ValueError: if a count or width is not positive, the groups do not divide the width, or `standardization` is unknown.

    Reference:
        Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, section 3.1 and appendix B.1; `models_resnet.py` of vit_jax.

    Example:
    >>> keras_vit.layers.ResNetStem((2, 2))(keras.ops.ones((1, 64, 64, 3))).shape
    (1, 8, 8, 512)
    """

    def __init__(
        self,
        block_counts: tuple[int, ...],
        width: int = 64,
        num_groups: int = 32,
        norm_epsilon: float = 1e-6,
        standardization: str = "std",
        standardization_epsilon: float = 1e-5,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        checked = self.check(block_counts, width, num_groups, standardization)
        self.block_counts, self.width, self.num_groups, self.standardization = checked
        self.norm_epsilon = norm_epsilon
        self.standardization_epsilon = standardization_epsilon

    @staticmethod
    def check(block_counts: Any, width: Any, num_groups: Any, standardization: Any) -> tuple[tuple[int, ...], int, int, str]:
        """Returns the arguments as plain Python types, or raises ValueError."""
        block_counts, width = checks.integers("block_counts", block_counts), checks.integer("width", width)
        num_groups = checks.divides("num_groups", checks.integer("num_groups", num_groups), "width", width)
        return block_counts, width, num_groups, checks.one_of("standardization", standardization, STANDARDIZATIONS)

    @property
    def stride(self) -> int:
        """Side in pixels of the area that becomes one position of the feature map."""
        return 4 * 2 ** max(0, len(self.block_counts) - 1)

    def build(self, input_shape: tuple) -> None:
        conv: dict[str, Any] = dict(
            standardization=self.standardization,
            epsilon=self.standardization_epsilon,
            dtype=self.dtype_policy,
        )
        norm: dict[str, Any] = dict(groups=self.num_groups, epsilon=self.norm_epsilon, dtype=self.dtype_policy)
        self.root = StandardizedConv2D(self.width, 7, 2, name="root", **conv)
        self.root_norm = GroupNormalization(name="root_norm", **norm)
        self.root.build(input_shape)
        self.root_norm.build((*input_shape[:3], self.width))
        self.units = []
        shape = (*input_shape[:3], self.width)
        for stage, count in enumerate(self.block_counts):
            for unit in range(count):
                stride = 2 if stage > 0 and unit == 0 else 1
                layer = BottleneckUnit(self.width * 2**stage, stride, conv=conv, norm=norm, name=f"stage_{stage}_unit_{unit}")
                layer.build(shape)
                shape = layer.compute_output_shape(shape)
                setattr(self, layer.name, layer)
                self.units.append(layer)
        self.sublayers_built()

    def call(self, images: Any) -> Any:
        x = self.root_norm(self.root(images), relu=True)
        x = ops.max_pool(x, 3, 2, padding="same", data_format="channels_last")
        for unit in self.units:
            x = unit(x)
        return x

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, height, width, _ = input_shape
        channels = self.width if not self.block_counts else 4 * self.width * 2 ** (len(self.block_counts) - 1)
        halvings = 2 + max(0, len(self.block_counts) - 1)
        for _ in range(halvings):
            height, width = (None if size is None else -(-size // 2) for size in (height, width))
        return (batch, height, width, channels)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "block_counts": self.block_counts,
            "width": self.width,
            "num_groups": self.num_groups,
            "norm_epsilon": self.norm_epsilon,
            "standardization": self.standardization,
            "standardization_epsilon": self.standardization_epsilon,
        }


class BottleneckUnit(KeepsSublayers, keras.layers.Layer):
    """Applies a residual unit of 1x1, 3x3 and 1x1 convolutions; the last is four times as wide. Only ResNetStem builds it."""

    def __init__(self, width: int, stride: int, conv: dict[str, Any], norm: dict[str, Any], **kwargs: Any):
        super().__init__(**{"dtype": conv["dtype"], **kwargs})
        self.width = width
        self.stride = stride
        self.conv = conv
        self.norm = norm

    def build(self, input_shape: tuple) -> None:
        shape = input_shape
        for i, (filters, kernel, stride) in enumerate(((self.width, 1, 1), (self.width, 3, self.stride), (4 * self.width, 1, 1)), start=1):
            # The last gamma starts at zero, so that a new unit is the identity.
            gamma = "zeros" if i == 3 else "ones"
            self._add(f"conv{i}", f"norm{i}", shape, filters, kernel, stride, gamma)
            shape = (*shape[:3], filters)
        self.projects = self.stride != 1 or input_shape[-1] != 4 * self.width
        if self.projects:
            self._add("shortcut", "shortcut_norm", input_shape, 4 * self.width, 1, self.stride, "ones")
        self.sublayers_built()

    def _add(self, conv_name, norm_name, input_shape, filters, kernel, stride, gamma):
        conv = StandardizedConv2D(filters, kernel, stride, name=conv_name, **self.conv)
        norm = GroupNormalization(gamma_initializer=gamma, name=norm_name, **self.norm)
        conv.build(input_shape)
        norm.build((*input_shape[:3], filters))
        setattr(self, conv_name, conv)
        setattr(self, norm_name, norm)

    def call(self, x: Any) -> Any:
        shortcut = self.shortcut_norm(self.shortcut(x)) if self.projects else x
        y = self.norm1(self.conv1(x), relu=True)
        y = self.norm2(self.conv2(y), relu=True)
        return self.norm3(self.conv3(y), shortcut, relu=True)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        batch, height, width, _ = input_shape
        height, width = (None if size is None else -(-size // self.stride) for size in (height, width))
        return (batch, height, width, 4 * self.width)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width, "stride": self.stride}


class GroupNormalization(keras.layers.GroupNormalization):
    """Normalizes groups of channels, then adds the shortcut and applies ReLU, in a few passes through memory.

    Only ResNetStem builds it.
    """

    def call(self, inputs: Any, shortcut: Any = None, relu: bool = False) -> Any:
        return group_normalization(inputs, self.gamma, self.beta, self.groups, self.epsilon, shortcut, relu)


class StandardizedConv2D(keras.layers.Layer):
    """Convolves with a kernel standardized over all but its last axis, with "same" padding and without bias.

    Only ResNetStem builds it.
    """

    def __init__(self, filters: int, kernel_size: int, stride: int, standardization: str, epsilon: float, **kwargs: Any):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.stride = stride
        self.standardization = standardization
        self.epsilon = epsilon

    def build(self, input_shape: tuple) -> None:
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: input_shape[-1]})
        shape = (self.kernel_size, self.kernel_size, input_shape[-1], self.filters)
        # Not cast to half precision before use: its statistics would be too coarse.
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer="lecun_normal", autocast=False)

    def call(self, inputs: Any) -> Any:
        kernel = standardize(self.kernel, self.standardization, self.epsilon)
        return ops.conv(inputs, ops.cast(kernel, inputs.dtype), self.stride, padding="same", data_format="channels_last")

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "stride": self.stride,
            "standardization": self.standardization,
            "epsilon": self.epsilon,
        }
