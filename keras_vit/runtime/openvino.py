"""Inference on OpenVINO: operations that its compiler joins, and one compiled model for all calls."""

import contextvars

import keras
import numpy as np
from keras import ops

from keras_vit.runtime.intermediates import observed
from keras_vit.runtime.switch import fast_paths

_compiling = contextvars.ContextVar("compiling", default=False)


def compiling():
    """Returns whether the graph of a compiled model is being built."""
    return keras.backend.backend() == "openvino" and _compiling.get() and fast_paths()  # torch.compile reads no context variable


def token_shape(batch, width):
    """Returns the shape of tokens within a block.

    `(batch * tokens, D)`: of two axes TensorFlow fuses a product with what follows. In a compiled model it is `(batch, tokens, D)`, whose
    products OpenVINO computes faster: by 10 % where GELU follows, by 4 % otherwise (ViT-Ti/16, 8 images).
    """
    return (batch, -1, width) if compiling() else (-1, width)


def check_training():
    """Raises a ValueError on OpenVINO, which cannot train."""
    if keras.backend.backend() == "openvino":
        raise ValueError(
            "OpenVINO computes predictions and has no gradients: train with the backend tensorflow, jax or torch. "
            "Received: KERAS_BACKEND=openvino"
        )


def layer_normalization(inputs, gamma, beta, epsilon):
    """Returns the layer normalization over the last axis as OpenVINO's own operation. Of Keras's nine it makes as many kernels."""
    from openvino import opset16 as opset

    x, gamma, beta = (ops.convert_to_tensor(tensor) for tensor in (inputs, gamma, beta))
    normalized = ops.convert_to_tensor(opset.mvn(x.output, [-1], True, epsilon, "inside_sqrt").output(0))
    return normalized * ops.cast(gamma, x.dtype) + ops.cast(beta, x.dtype)


class Inference:
    """Mixin of a model: all calls share one compiled model, of the model's present weights and in its precision.

    Keras's own keeps the weights of the first call, and computes a model of float32 in bfloat16 where the processor is faster at that.
    """

    _compiled_form = _compiled_weights = None

    def __call__(self, inputs, *args, **kwargs):
        """Calls the compiled model. Keras's own call computes a graph of constants: slowly, and OpenVINO crashes on some."""
        constant = getattr(getattr(inputs, "output", None), "get_node", None)
        if constant and constant().get_type_name() == "Constant":
            inputs = ops.convert_to_numpy(inputs)
        if not isinstance(inputs, np.ndarray) or observed() or kwargs.get("training"):
            return super().__call__(inputs, *args, **kwargs)
        return ops.convert_to_tensor(self.predict_on_batch(inputs.astype("float32", copy=False)))

    def fit(self, *args, **kwargs):
        check_training()

    def train_on_batch(self, *args, **kwargs):
        check_training()

    def export(self, filepath, format="tf_saved_model", verbose=None, input_signature=None, **kwargs):
        """Exports the model, see `keras.Model.export`. In OpenVINO's format Keras's own would fix the batch to one image."""
        if format != "openvino":
            return super().export(filepath, format, verbose, input_signature, **kwargs)
        import openvino

        spec = input_signature[0] if input_signature else keras.InputSpec(shape=self.input_shape, dtype="float32")
        return openvino.serialize(graph(self, spec)[0], filepath)

    def _get_compiled_model(self, data):
        form = fast_paths(), [(array.shape[1:], array.dtype) for array in keras.tree.flatten(data)]
        weights = [variable.value for variable in self.variables]
        if form != self._compiled_form or any(now is not then for now, then in zip(weights, self._compiled_weights)):
            self.ov_compiled_model = self._compile(data)
            self._compiled_form, self._compiled_weights = form, weights
        return self.ov_compiled_model

    def _compile(self, data):
        import openvino

        (images,) = keras.tree.flatten(data)
        network, self.struct_outputs = graph(self, keras.InputSpec(shape=(None, *images.shape[1:]), dtype=images.dtype))
        self._n_main_outputs, self._output_mask_indices = len(network.outputs), {}
        full = all(layer.compute_dtype == "float32" for layer in self._flatten_layers(include_self=False))
        return openvino.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"} if full else {})


def graph(model, spec):
    """Returns an `openvino.Model` of a model, and its outputs as Keras's tensors.

    Keras's own export fixes the batch that it traces with.

    Args:
        model: a model with one input.
        spec: `keras.InputSpec`. Shape, with None for what is open, and dtype of the input.
    """
    import openvino
    from openvino import opset16 as opset

    entry = opset.parameter([-1 if size is None else size for size in spec.shape], np.dtype(spec.dtype), "images")
    entry.output(0).set_names({"images"})
    token = _compiling.set(True)
    try:
        outputs = model(ops.convert_to_tensor(entry.output(0)), training=False)
    finally:
        _compiling.reset(token)
    return openvino.Model([tensor.output for tensor in keras.tree.flatten(outputs)], [entry], model.name), outputs
