"""The projection of patches: one function that chooses the implementation."""

from keras import ops

from keras_vit.runtime.gpu import on_gpu
from keras_vit.runtime.openvino import compiling


def project_patches(images, kernel, patch_size):
    """Returns the projection of each patch, a convolution whose stride is the size of its kernel.

    On a GPU it is a matrix product of reshaped patches: cuDNN's convolution pads three channels to eight and takes eight times as long.
    On a CPU both take the same time, but OpenVINO first transposes the images of a convolution, and then transposes them back.

    Args:
        images: `(batch, height, width, channels)`.
        kernel: variable `(rows, columns, channels, D)`.
        patch_size: (rows, columns).

    Returns:
        `(batch, height // rows, width // columns, D)`.
    """
    if on_gpu(images) or compiling():
        return _by_product(images, kernel, patch_size)
    return ops.conv(images, kernel, strides=patch_size, padding="valid", data_format="channels_last")


def _by_product(images, kernel, patch_size):
    (rows, columns), (_, height, width, channels) = patch_size, ops.shape(images)
    grid = (height // rows, width // columns)
    cut = ops.transpose(ops.reshape(images, (-1, grid[0], rows, grid[1], columns * channels)), (0, 1, 3, 2, 4))
    flat = ops.reshape(cut, (-1, rows * columns * channels))
    return ops.reshape(ops.matmul(flat, ops.reshape(kernel, (-1, kernel.shape[-1]))), (-1, *grid, kernel.shape[-1]))
