"""How a layer calls its sublayers."""

import keras

from keras_vit.runtime.switch import fast_paths


def bare(layer):
    """Returns `layer.call` on torch, which skips the overhead of `Layer.__call__`; on other backends the layer itself.

    The layer must be built and its inputs of its compute type. On torch that overhead takes longer than a small sublayer's own work;
    elsewhere a graph is traced once.
    """
    if keras.backend.backend() != "torch" or not fast_paths():
        return layer
    if layer.quantization_mode is not None or layer._forward_hooks or layer._forward_pre_hooks:
        return layer
    return layer.call
