"""How a layer of ours calls its sublayers."""

import keras


def bare(layer):
    """Returns what calls a sublayer that is built, with tensors of its type: on torch its `call` alone.

    What Keras does around that takes longer on torch, call by call, than a small sublayer's own work. Elsewhere a graph is traced once.
    """
    if keras.backend.backend() != "torch" or layer.quantization_mode is not None or layer._forward_hooks or layer._forward_pre_hooks:
        return layer
    return layer.call
