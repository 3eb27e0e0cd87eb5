"""The patch embedding: an image becomes patches, and each patch a token."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.layers import checks
from keras_vit.layers.resampling import check_method, resample_patch_kernel
from keras_vit.runtime.intermediates import observe
from keras_vit.runtime.patches import project_patches


@keras.saving.register_keras_serializable(package="keras_vit")
class PatchEmbedding(keras.layers.Layer):
    """Projects each patch of an image to a vector, and keeps the grid.

    It is a convolution with a stride of its kernel's size. Its weights are `kernel` (rows, columns, channels, hidden_dim) and `bias`
    (hidden_dim). Loaded weights of another patch size are resampled by FlexiViT's pseudo-inverse. If RGB weights are loaded for another
    number of channels, one channel gets the sum over the colors, and n channels get the colors in turn, scaled by 3 / n.

    Args:
        hidden_dim: int. Width of a token.
        patch_size: int or pair of ints. Rows and columns of a patch, in pixels. Defaults to 16.
        use_bias: bool. Whether the projection has a bias; CLIP has none. Defaults to True.
        dynamic_padding: bool. If True, an image that the patch does not divide is padded with zeros at its bottom and right. Defaults to
            False.
        resample: str. How a loaded kernel of another patch size is resampled: a key of `layers.resampling.METHODS`. Defaults to
            "bilinear".

    Input shape: `(batch, height, width, channels)`, or patches that are cut already, `(batch, patches, patch rows * patch columns *
    channels)`, each by row, column and channel.

    Output shape: `(batch, height / patch rows, width / patch columns, hidden_dim)`, or `(batch, patches, hidden_dim)`.

    Raises:
        ValueError: if an argument is out of range, or the patch does not divide the image and `dynamic_padding` is False.

    Reference:
        Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, equation 1.

    Example:
    >>> keras_vit.layers.PatchEmbedding(192, patch_size=16)(keras.ops.ones((2, 224, 224, 3))).shape
    (2, 14, 14, 192)
    """

    def __init__(
        self,
        hidden_dim: int,
        patch_size: int | tuple[int, int] = 16,
        use_bias: bool = True,
        dynamic_padding: bool = False,
        resample: str = "bilinear",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.hidden_dim = checks.integer("hidden_dim", hidden_dim)
        self.patch_size = checks.positive_pair("patch_size", patch_size)
        self.use_bias = use_bias
        self.dynamic_padding = dynamic_padding
        self.resample = check_method(resample)

    def build(self, input_shape: tuple) -> None:
        rank, values = len(input_shape), input_shape[-1]
        channels = values if rank == 4 else self._channels(values)
        if rank == 4:
            self._grid(input_shape)
        self.input_spec = keras.layers.InputSpec(ndim=rank, axes={-1: values})
        shape = (*self.patch_size, channels, self.hidden_dim)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer="lecun_normal")
        self.bias = self.add_weight(name="bias", shape=(self.hidden_dim,), initializer="zeros") if self.use_bias else None

    def call(self, images: Any) -> Any:
        if len(images.shape) == 3:
            batch, _, values = ops.shape(images)
            flat = ops.matmul(ops.reshape(images, (-1, values)), ops.reshape(self.kernel, (-1, self.hidden_dim)))
            flat = flat if self.bias is None else ops.add(flat, self.bias)
            return observe("patches", ops.reshape(flat, (batch, -1, self.hidden_dim)), self)
        if self.dynamic_padding:
            images = self._padded(images)
        self._grid(images.shape)  # again, because the size may be unknown when the layer is built
        patches = project_patches(images, self.kernel, self.patch_size)
        return observe("patches", patches if self.bias is None else ops.add(patches, self.bias), self)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return (input_shape[0], *(self._grid(input_shape) if len(input_shape) == 4 else input_shape[1:2]), self.hidden_dim)

    def _channels(self, values):
        rows, columns = self.patch_size
        if values % (rows * columns):
            raise ValueError(
                "Patches that are cut already must have patch rows * patch columns * channels values. "
                f"Received: {values} values, patch_size={self.patch_size}"
            )
        return values // (rows * columns)

    def _grid(self, input_shape):
        grid = []
        for size, patch in zip(input_shape[1:3], self.patch_size):
            # An unknown size is None or, while JAX exports, a symbol.
            if isinstance(size, int) and not self.dynamic_padding and (size % patch or size < patch):
                raise ValueError(
                    "The patch must divide the image or the stem's feature map. "
                    f"Received: patch_size={self.patch_size} for {input_shape[1]} x {input_shape[2]} pixels. "
                    "Choose another `input_shape` or `patch_size`, or set `dynamic_padding=True`"
                )
            grid.append(None if size is None else -(-size // patch))
        return grid

    def _padded(self, images):
        bottom, right = (-size % patch for size, patch in zip(ops.shape(images)[1:3], self.patch_size))
        return ops.pad(images, [[0, 0], [0, bottom], [0, right], [0, 0]])

    def load_own_variables(self, store: Any) -> None:
        kernel = np.asarray(store["0"])
        if kernel.ndim == 4 and kernel.shape != tuple(self.kernel.shape):
            kernel = fit_kernel(kernel, self.kernel.shape, self.resample)
        super().load_own_variables({"0": kernel, **({"1": store["1"]} if "1" in store else {})})

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "patch_size": self.patch_size,
            "use_bias": self.use_bias,
            "dynamic_padding": self.dynamic_padding,
            "resample": self.resample,
        }


def fit_kernel(kernel: np.ndarray, shape: tuple[int, ...], resample: str) -> np.ndarray:
    """Returns a patch kernel resampled to another patch size and number of channels. The caller refuses other differences.

    Args:
        kernel: array of shape `(rows, columns, channels, D)`.
        shape: tuple of 4 ints. The wanted shape.
        resample: str. A key of `layers.resampling.METHODS`.
    """
    channels, wanted = kernel.shape[2], shape[2]
    if channels == 3 and wanted != 3:
        colors = kernel.sum(axis=2, keepdims=True) if wanted == 1 else np.take(kernel, np.arange(wanted) % 3, axis=2) * (3.0 / wanted)
        kernel = colors.astype("float32")
    if kernel.shape[:2] != tuple(shape[:2]):
        kernel = resample_patch_kernel(kernel, (shape[0], shape[1]), resample)
    return kernel
