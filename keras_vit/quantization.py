"""Quantizes the weights of a Keras model: int8, int4 and half precision."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import keras
from keras.quantizers import Int4QuantizationConfig, Int8QuantizationConfig

from keras_vit.layers import checks
from keras_vit.vision_transformer import VisionTransformer


class Mode(NamedTuple):
    """A mode: the dtype policy of all layers or None, a function that returns Keras's quantization config or None, and a summary."""

    dtype: str | None
    config: Callable | None
    summary: str


MODES = {
    "int8": Mode(None, Int8QuantizationConfig, "kernels in 8 bits, and their inputs, too, for each image; products in integers"),
    "int8_weights": Mode(None, lambda: Int8QuantizationConfig(activation_quantizer=None), "kernels in 8 bits, a scale for each column"),
    "int4": Mode(None, Int4QuantizationConfig, "kernels in 4 bits, a scale for 128 rows of each column"),
    "bfloat16": Mode("bfloat16", None, "weights and computation in bfloat16"),
    "float16": Mode("float16", None, "weights and computation in float16"),
}


def quantize(model: VisionTransformer, mode: str = "int8_weights") -> VisionTransformer:
    """Returns a model with smaller weights. No data and no training are needed.

    The integer modes are those of `keras.Model.quantize`. They quantize the kernels of dense layers, which are nearly all weights of a
    Vision Transformer; the embedding, normalizations and biases stay as they are. The model can be saved, loaded and used for prediction
    on every backend. The integer modes save memory and disk space. Whether they also save time depends on the backend and the processor.

    Args:
        model: `VisionTransformer`. It is not changed.
        mode: str. "int8": kernels and activations in 8 bits. "int8_weights": kernels in 8 bits, activations as they are. "int4": kernels
            in 4 bits. "bfloat16" or "float16": all weights and the computation in half precision. Defaults to "int8_weights".

    Returns:
        A `VisionTransformer`, not compiled.

    Raises:
        ValueError: if `model` is not a `VisionTransformer` or is already quantized, or `mode` is unknown.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 32, 3), 8, 64, 2, 4, 128, num_classes=10)
    >>> keras_vit.quantize(model, "int8").get_layer("block_0").mlp.fc1.kernel.dtype
    'int8'
    """
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"`model` must be a VisionTransformer. Received: a {type(model).__name__}")
    checks.one_of("mode", mode, MODES)
    if before := next((layer.quantization_mode for layer in model._flatten_layers() if layer.quantization_mode), None):
        raise ValueError(f"The model is already quantized, in {before!r}: start from the original model. Received: mode={mode!r}")
    chosen = MODES[mode]
    smaller = model.adapt(**({"dtype": chosen.dtype} if chosen.dtype else {}))
    if chosen.config is not None:
        config = chosen.config()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Layer .* does not have a `quantize` method", UserWarning)
            smaller.quantize(config.mode, config=config)
    return smaller


def weight_bytes(model: keras.Model) -> int:
    """Returns the bytes of a model's weights in memory."""
    return sum(int(keras.ops.size(v)) * BYTES[keras.backend.standardize_dtype(v.dtype)] for v in model.weights)


BYTES = {"float64": 8, "float32": 4, "int32": 4, "uint32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1}
