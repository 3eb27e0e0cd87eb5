"""Post-training quantization of exported files to half precision or 8 bits, by the quantizer of each runtime."""

import logging
import pathlib

PACKAGES = {("openvino", "int8"): {"nncf": "openvino-int8"}}  # (format, precision) -> packages that it also needs, with their extra


def _onnx_half(path):
    """Converts an ONNX file to float16. Inputs and outputs stay float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), path)


def _onnx_int8(path):
    """Quantizes the matrix products of an ONNX file to 8 bits: weights per column, and inputs dynamically in each call."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    full = pathlib.Path(path).with_suffix(".full")
    path.replace(full)
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it recommends a step for convolutions
    try:
        quantize_dynamic(full, path, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8)
    finally:
        logging.disable(before)
    full.unlink()


ONNX = {"half": _onnx_half, "int8": _onnx_int8}


def openvino(network, images):
    """Returns an OpenVINO model with 8-bit weights and activations. The ranges of activations are measured on real images."""
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    data = nncf.Dataset([image[None] for image in images])
    return nncf.quantize(network, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(images))
