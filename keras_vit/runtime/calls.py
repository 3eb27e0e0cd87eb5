"""How a layer calls its sublayers."""

import functools

import keras

from keras_vit.runtime.switch import fast_paths


def bare(layer):
    """Returns `layer.call` on torch, which skips the overhead of `Layer.__call__`; on other backends the layer itself.

    The layer must be built, and its inputs must have its compute dtype. On torch the overhead of every call takes longer than a small
    sublayer's own work. Other backends trace a graph once.
    """
    if keras.backend.backend() != "torch" or not fast_paths():
        return layer
    if layer.quantization_mode is not None or layer._forward_hooks or layer._forward_pre_hooks:
        return layer
    linear = isinstance(layer, keras.layers.Dense) and type(layer).call is keras.layers.Dense.call
    if linear and layer.use_bias and layer.activation is keras.activations.linear:
        return functools.partial(_with_bias, layer)
    return layer.call


def _with_bias(layer, x):
    """Returns the output of a dense layer, computed by one kernel. Keras uses a second kernel for the bias."""
    import torch

    kernel, bias = (weight.value if isinstance(weight, keras.Variable) else weight for weight in (layer.kernel, layer.bias))
    if not x.dtype == kernel.dtype == bias.dtype:
        return layer.call(x)
    return torch.nn.functional.linear(x, kernel.T, bias)
