"""The projection of patches: one function that chooses the form."""

from keras import ops


def project_patches(images, kernel, patch_size):
    """Returns the projection of each patch, a convolution whose stride is the size of its kernel.

    On a processor a matrix product of reshaped patches takes as long.

    Args:
        images: `(batch, height, width, channels)`.
        kernel: variable `(rows, columns, channels, D)`.
        patch_size: (rows, columns).

    Returns:
        `(batch, height // rows, width // columns, D)`.
    """
    return ops.conv(images, kernel, strides=patch_size, padding="valid", data_format="channels_last")
