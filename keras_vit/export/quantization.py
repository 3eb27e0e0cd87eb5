"""Post-training quantization of exported files to half precision or 8 bits, by the quantizer of each runtime."""

import logging
import pathlib

PACKAGES = {("openvino", "int8"): {"nncf": "openvino-int8"}}  # (format, precision) -> packages that it also needs, with their extra
CALIBRATED = {("openvino", "int8")}  # the ranges of activations are measured on the images of the check


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


def openvino(network, images, heads):
    """Returns an OpenVINO model with 8-bit weights and activations. The ranges of activations are measured on real images.

    Args:
        network: `openvino.Model`.
        images: array of inputs.
        heads: int. Number of products that return the outputs of a classifier, or 0.
    """
    import nncf
    from openvino.passes import ConstantFolding, Manager

    logging.getLogger("nncf").setLevel(logging.ERROR)
    network = network.clone()  # without what its operations also feed but no output reads, on which NNCF fails
    folding = Manager()
    folding.register_pass(ConstantFolding())  # NNCF leaves a transposed constant, such as Keras's kernel of a convolution, in float32
    folding.run_passes(network)
    data = nncf.Dataset([image[None] for image in images])
    kept = nncf.IgnoredScope(names=ends(network, heads))
    return nncf.quantize(network, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(images), ignored_scope=kept)


def ends(network, heads):
    """Returns the names of the first product, which reads pixels, and of the heads. In 8 bits they cost the most accuracy."""
    products = [node.get_friendly_name() for node in network.get_ordered_ops() if node.get_type_name() in ("Convolution", "MatMul")]
    return [products[0], *products[len(products) - heads :]]
