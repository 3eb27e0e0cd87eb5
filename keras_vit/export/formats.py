"""The export formats: how each is written, and the backends and packages that it needs."""

import contextlib
import dataclasses
import functools
import importlib
import pathlib
import tempfile
import warnings
from collections.abc import Callable

import keras
import numpy as np

from keras_vit.export import quantization
from keras_vit.extras import install


@dataclasses.dataclass(frozen=True)
class Format:
    """An export format.

    Attributes:
        file: str. Name of the model's file in the exported folder.
        backends: tuple of str. Keras backends that can write it. The command uses the first.
        output: str. Name of the model's output in the file.
        packages: dict from packages that write or run the file to the extras that install them.
        write: function `(model, path, spec, precision, images)` that writes the file.
    """

    file: str
    backends: tuple[str, ...]
    output: str
    packages: dict[str, str]
    write: Callable

    def require(self, name: str, precision: str):
        """Raises an error if the backend cannot write this format, or a package is missing."""
        packages = self.packages | quantization.PACKAGES.get((name, precision), {})
        for package, extra in packages.items():
            try:
                importlib.import_module(package)
            except ModuleNotFoundError as error:
                if error.name != package.split(".")[0]:
                    raise
                raise ImportError(f"The format {name!r} needs {package}, which is not installed: {install(extra)}") from None
        backend = keras.backend.backend()
        if backend not in self.backends:
            able = " or ".join(self.backends)
            raise ValueError(f"The format {name!r} needs the backend {able}: set KERAS_BACKEND. Received: KERAS_BACKEND={backend}")


def _saved_model(model, path, spec, precision, images):
    model = _in_keras(model, precision)
    if keras.backend.backend() != "tensorflow":
        model.export(str(path), format="tf_saved_model", input_signature=[spec], verbose=False)
        return
    import tensorflow as tf

    # Keras's own export writes each weight twice: Keras's variable, and TensorFlow's in it.
    module = tf.Module()
    module.tracked = [variable.value for variable in model.variables]
    function = functools.partial(tf.function, autograph=False, input_signature=[tf.TensorSpec(spec.shape, spec.dtype, spec.name)])

    @function
    def serve(images):
        return model(images, training=False)

    @function
    def named(images):
        return {FORMATS["saved_model"].output: serve(images)}

    module.serve = serve  # the endpoint that `keras.layers.TFSMLayer` calls
    tf.saved_model.save(module, str(path), signatures=named)


def _torch(model, path, spec, precision, images):
    import torch

    if None in spec.shape[1:]:
        raise ValueError(
            "The format 'torch' needs a fixed image size: torch.export fixes the grid of patches. Received: `dynamic_size=True`"
        )
    model = _in_keras(model, precision)

    class Network(torch.nn.Module):
        """The model as a function of its weights. Of a Keras model torch.export writes each weight twice: as parameter and as constant."""

        def __init__(self):
            super().__init__()
            self.weights = torch.nn.ParameterList(_frozen(model.trainable_variables) + _frozen(model.non_trainable_variables))

        def forward(self, images):
            weights, count = list(self.weights), len(model.trainable_variables)
            return model.stateless_call(weights[:count], weights[count:], images, training=False)[0]

    def _frozen(variables):
        return [torch.nn.Parameter(variable.value.detach(), requires_grad=False) for variable in variables]

    dynamic = {"dynamic_shapes": [{0: torch.export.Dim.AUTO}]} if spec.shape[0] is None else {}
    sample = np.concatenate([images, images])[: 2 if dynamic else 1]  # a batch of one would be taken for a constant
    program = torch.export.export(Network().eval(), (torch.from_numpy(sample.copy()),), strict=False, **dynamic)
    torch.export.save(program, path)


def _in_keras(model, precision):
    """Returns the model in a precision of Keras: as it is, in bfloat16, or quantized to int8."""
    if precision == "half":
        return model.adapt(dtype="bfloat16")
    if precision == "int8":
        model = model.adapt()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have a `quantize` method")  # layers without products
            model.quantize("int8")
    return model


def _onnx(model, path, spec, precision, images):
    with _temporary_files_in(path.parent), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "In the future `np.object`", FutureWarning)  # Keras's own, when it imports tf2onnx
        model.export(str(path), format="onnx", input_signature=[spec], verbose=False)
        _name_output(path)
        if precision != "float32":
            quantization.ONNX[precision](path)


def _name_output(path):
    """Renames the output of an ONNX file, which has the name of an internal tensor of TensorFlow."""
    import onnx

    file = onnx.load(path)
    (output,) = file.graph.output
    for node in file.graph.node:
        for names in (node.input, node.output):
            names[:] = ["outputs" if name == output.name else name for name in names]
    output.name = "outputs"
    onnx.save(file, path)


def _litert(model, path, spec, precision, images):
    import tensorflow as tf

    options = {"float32": {}, "half": {"target_spec": {"supported_types": [tf.float16]}}, "int8": {}}[precision]
    if precision != "float32":
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    model.export(str(path), format="litert", input_signature=[spec], verbose=False, **options)


def _openvino(model, path, spec, precision, images):
    import openvino

    if keras.backend.backend() == "openvino":
        from keras_vit.runtime.openvino import graph

        network, _ = graph(model, spec)
    else:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            file = pathlib.Path(folder, path.name)
            model.export(str(file), format="openvino", input_signature=[spec], verbose=False)
            network = openvino.Core().read_model(file)
            network.validate_nodes_and_infer_types()
    network.output(0).tensor.set_names({"outputs"})
    if precision == "int8":
        network = quantization.openvino(network, images, heads=(1 + model.config.distillation_token) * model.config.include_top)
    openvino.save_model(network, path, compress_to_fp16=precision == "half")


@contextlib.contextmanager
def _temporary_files_in(folder):
    """Puts temporary files into a folder that is removed afterwards, because tf2onnx does not remove its own."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(dir=folder) as tempfile.tempdir:
        try:
            yield
        finally:
            tempfile.tempdir = before


FORMATS = {
    # TensorFlow Serving looks for folders whose names are versions.
    "saved_model": Format("1", ("tensorflow", "jax"), "output_0", {"tensorflow": "tensorflow"}, _saved_model),
    "onnx": Format("model.onnx", ("tensorflow",), "outputs", {"onnx": "export", "onnxruntime": "export", "tf2onnx": "export"}, _onnx),
    "openvino": Format("model.xml", ("openvino", "tensorflow"), "outputs", {"openvino": "openvino"}, _openvino),
    "litert": Format("model.tflite", ("tensorflow",), "output_0", {"ai_edge_litert": "litert"}, _litert),
    "torch": Format("model.pt2", ("torch",), "output", {"torch": "torch"}, _torch),
}
