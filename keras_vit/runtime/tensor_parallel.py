"""The projection to queries, keys and values with heads sharded over devices (tensor parallelism on JAX)."""

import keras
from keras import ops


def project_heads(tokens, kernel, bias, num_heads, start, stop, mesh):
    """Returns the projection of tokens. Each device computes its own heads.

    The columns of a sharded kernel may lie on another device than their head, so the kernel is first laid out by heads.

    Args:
        tokens: `(rows, D)`.
        kernel: `(D, 3D)`: queries, keys and values.
        bias: `(3D,)` or None.
        num_heads: int.
        start, stop: int from 0 to 3. Which of queries, keys and values.
        mesh: `keras.distribution.DeviceMesh` with an axis "model".

    Returns:
        `(rows, stop - start, num_heads, head_dim)`.
    """

    def divided(weight):
        weight = ops.cast(ops.reshape(weight, (*weight.shape[:-1], 3, num_heads, -1)), tokens.dtype)
        axes = (None,) * (len(weight.shape) - 2) + ("model", None)
        return keras.distribution.distribute_tensor(weight, keras.distribution.TensorLayout(axes, mesh))

    product = ops.tensordot(tokens, divided(kernel)[:, start:stop], axes=1)
    return product if bias is None else product + divided(bias)[start:stop]
