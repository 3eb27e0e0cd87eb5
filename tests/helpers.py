"""What the tests of layers and models share: one check of a whole layer, gradients on every backend, and a second process."""

import inspect
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from keras_vit.runtime import fast_paths


def requires(backend, name):
    return pytest.mark.skipif(keras.backend.backend() != backend, reason=f"a matter of {name} alone")


requires_tensorflow, requires_jax, requires_torch = requires("tensorflow", "TensorFlow"), requires("jax", "JAX"), requires("torch", "torch")

# What proves that Keras has a fault, for which there is code of ours, runs where the release of Keras is not the one it was last seen in.
new_keras = pytest.mark.skipif(keras.__version__ == "3.15.1", reason="all were seen in this release of Keras")


def all_or(*few):
    """Returns a function that keeps all cases on TensorFlow, and of JAX and torch those named: what differs between backends."""
    return lambda cases, name=str: [case for case in cases if keras.backend.backend() == "tensorflow" or name(case) in few]


def command(*first):
    """Returns a function that runs `keras-vit` with these arguments and more, and returns its exit code, stdout and stderr."""

    def call(capsys, *arguments):
        from keras_vit_cli import main

        with pytest.raises(SystemExit) as ended:
            main([*first, *map(str, arguments)])
        return ended.value.code or 0, *capsys.readouterr()

    return call


# Loads models in a process that imported nothing but `keras_vit`, and calls them: a line of JSON in, a line out.
OTHER_PROCESS = """
import json, sys, keras_vit
import keras, numpy
for line in sys.stdin:
    job = json.loads(line)
    try:
        model = keras.saving.load_model(job["model"], safe_mode=True)
        inputs = [*numpy.load(job["inputs"]).values()]
        outputs = keras.tree.flatten(outputs_of(model, inputs if len(inputs) > 1 else inputs[0]))
        numpy.savez(job["outputs"], *map(keras.ops.convert_to_numpy, outputs))
        print("ANSWER", type(model).__name__, flush=True)
    except Exception as error:
        print("ANSWER", repr(error), flush=True)
"""


class OtherProcess:
    """Starts with the first model to check."""

    def __init__(self, folder):
        self.folder, self.process = folder, None

    def check(self, model, *inputs):
        """Saves a model, and asserts that it gives the same outputs where it is loaded. Returns the name of the class there."""
        if not fast_paths():  # what is saved does not depend on them
            return type(model).__name__
        if self.process is None:
            pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            self.process = subprocess.Popen([sys.executable, "-c", inspect.getsource(outputs_of) + OTHER_PROCESS], **pipes)
        paths = {"model": "model.keras", "inputs": "inputs.npz", "outputs": "outputs.npz"}
        paths = {key: str(self.folder / name) for key, name in paths.items()}
        model.save(paths["model"])
        np.savez(paths["inputs"], *inputs)
        self.process.stdin.write(json.dumps(paths) + "\n")
        self.process.stdin.flush()
        answer = next(line for line in self.process.stdout if line.startswith("ANSWER"))
        assert "Error" not in answer, answer
        outputs = keras.tree.flatten(outputs_of(model, one_or_list(inputs)))
        for theirs, ours in zip(np.load(paths["outputs"]).values(), outputs, strict=True):
            assert_close(theirs, ours, 1e-6)
        return answer.split()[1]

    def close(self):
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()


def outputs_of(model, *inputs):
    """Calls a model or layer. JAX would compile each operation of its own, ten a layer: there, one function is compiled."""
    if keras.backend.backend() != "jax":
        return model(*inputs)
    import jax

    def call(values, inputs):
        with keras.StatelessScope(state_mapping=list(zip(model.variables, values))):
            return model(*inputs)

    return jax.jit(call)([variable.value for variable in model.variables], inputs)


def one_or_list(values):
    return list(values) if len(values) > 1 else values[0]


def to_numpy(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def assert_close(actual, expected, tolerance=1e-5):
    """Compares relative to the largest expected value."""
    actual, expected = to_numpy(actual), to_numpy(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1e-3, np.abs(expected).max()))


def randomize(model, seed=0, scale=0.3):
    """Gives every weight a value that takes part, also those that start at zero; variances stay positive. Returns the model."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        value = scale * random.standard_normal(variable.shape)
        variable.assign(np.abs(value) + 0.5 if "variance" in variable.name else value)
    return model


def random_inputs(*shapes, seed=0):
    return [np.random.default_rng(seed).standard_normal(shape).astype("float32") for shape in shapes]


def mean_square(y_true, y_pred):
    return ops.mean(ops.square(ops.cast(y_pred, "float32") - 1.0))


def loss_and_gradients(model, inputs, loss=lambda outputs: mean_square(None, outputs)):
    """Returns the loss of a training step and a list of arrays, the gradient of each trainable weight, on any backend."""
    backend, weights = keras.backend.backend(), model.trainable_weights
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss(model(inputs, training=True))
        gradients = tape.gradient(value, [weight.value for weight in weights])
    elif backend == "jax":
        import jax

        def forward(trainable):
            outputs, non_trainable = model.stateless_call(trainable, model.non_trainable_variables, inputs, training=True)
            return loss(outputs), non_trainable

        forward = jax.jit(jax.value_and_grad(forward, has_aux=True))  # operation by operation it would be slow
        (value, non_trainable), gradients = forward([weight.value for weight in weights])
        for variable, new in zip(model.non_trainable_variables, non_trainable):
            variable.assign(new)
    else:
        model.zero_grad()
        value = loss(model(inputs, training=True))
        if weights:
            value.backward()
        gradients = [weight.value.grad for weight in weights]
    assert all(gradient is not None for gradient in gradients), [w.path for w, g in zip(weights, gradients) if g is None]
    return to_numpy(value), [to_numpy(gradient) for gradient in gradients]


def value_and_gradients(function, *inputs):
    """Returns what a function of tensors gives, and the gradients of its sum of cubes with respect to its inputs, on any backend."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function
        def both(*inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = function(*inputs)
                loss = tf.reduce_sum(tf.cast(outputs, "float32") ** 3)
            return outputs, tape.gradient(loss, inputs)

        return both(*inputs)
    if backend == "jax":
        import jax

        every = tuple(range(len(inputs)))
        gradients = jax.grad(lambda *inputs: (function(*inputs).astype("float32") ** 3).sum(), argnums=every)
        return jax.jit(lambda *inputs: (function(*inputs), gradients(*inputs)))(*inputs)
    import torch

    inputs = [x.detach().requires_grad_() for x in inputs]
    outputs = function(*inputs)
    return outputs, torch.autograd.grad((outputs.float() ** 3).sum(), inputs)


def attention_by_definition(query, key, value):
    return ops.matmul(ops.softmax(ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))), value)


def check_layer(layer_class, config, *shapes, output_shape, other_process, random=False, half_tolerance=0.03):
    """Checks everything that Keras expects of a layer.

    Args:
        layer_class: class.
        config: dict of arguments.
        *shapes: shape of each input, with the batch.
        output_shape: tuple.
        other_process: `OtherProcess`.
        random: bool. Whether a call with `training=True` differs from another.
        half_tolerance: float. How far from float32's the result may lie in bfloat16, relative to the largest value.

    Returns:
        The layer, with random weights.
    """
    inputs = random_inputs(*shapes)
    symbolic = [keras.KerasTensor(shape) for shape in shapes]
    keras.utils.set_random_seed(1)
    layer = layer_class(**config)

    # The configuration goes through JSON and back.
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(saved)
    assert type(again) is layer_class and again.get_config() == layer.get_config()
    assert set(config) <= set(layer.get_config())

    # Shapes: symbolic, eager, computed, and with an open batch.
    assert tuple(layer(*symbolic).shape) == output_shape
    outputs = layer(*inputs)
    assert tuple(outputs.shape) == output_shape
    assert tuple(layer.compute_output_shape(*shapes)) == output_shape
    sources = [keras.Input(shape[1:]) for shape in shapes]
    model = keras.Model(one_or_list(sources), layer(*sources))
    assert model.output_shape == (None, *output_shape[1:])

    # The same seed makes the same weights, another one others; `training` draws anew each time.
    keras.utils.set_random_seed(1)
    assert_close(layer_class(**config)(*inputs), outputs, 0)
    if random:
        first, second, third = layer_class(**config, seed=3), layer_class(**config, seed=3), layer_class(**config, seed=4)
        drawn = [to_numpy(drawing(*inputs, training=True)) for drawing in (first, second, third, first)]
        np.testing.assert_array_equal(drawn[0], drawn[1])
        assert not np.array_equal(drawn[0], drawn[2]) and not np.array_equal(drawn[0], drawn[3])

    # Saved here and loaded elsewhere. On the other backends whole models are.
    randomize(layer)
    if keras.backend.backend() == "tensorflow":
        assert other_process.check(model, *inputs) == "Functional"

    # Every weight has a gradient, and a step of `fit` makes the loss smaller.
    _, gradients = loss_and_gradients(model, one_or_list(inputs))
    # A constant added to all keys changes no softmax.
    still = [w.path for w, g in zip(model.trainable_weights, gradients) if not np.any(g) and not w.path.endswith("key_norm/beta")]
    assert not still and all(np.isfinite(gradient).all() for gradient in gradients), still
    if gradients and keras.backend.backend() == "tensorflow":  # whole models are fitted on the others
        weights = model.get_weights()
        step = 1e-2 / float(max(1 + np.abs(gradient).max() for gradient in gradients))
        model.compile(keras.optimizers.SGD(step), mean_square, jit_compile=False)
        losses = [model.train_on_batch(one_or_list(inputs), np.zeros((shapes[0][0], 1))) for _ in range(2)]
        assert np.isfinite(losses).all() and losses[1] < losses[0], losses
        model.set_weights(weights)

    # Half precision: of sublayers too, with weights and result as they should be.
    expected = to_numpy(layer(*inputs))
    halves = {"mixed_bfloat16": half_tolerance, "mixed_float16": half_tolerance / 4}
    for policy, tolerance in list(halves.items())[: 1 if keras.backend.backend() == "jax" else 2]:  # to compile takes a second there
        half = layer_class(**config, dtype=policy)
        half.build(*shapes)
        half.set_weights(layer.get_weights())
        assert {sublayer.dtype_policy.name for sublayer in half._flatten_layers()} == {policy}
        assert {weight.dtype for weight in half.weights if "seed" not in weight.name} <= {"float32"}
        result = outputs_of(half, *inputs)
        assert keras.backend.standardize_dtype(result.dtype) == policy.removeprefix("mixed_")
        assert_close(result, expected, tolerance)
    return layer


TINY = {
    "input_shape": (16, 24, 3),
    "patch_size": 8,
    "hidden_dim": 16,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_dim": 32,
    "num_classes": 5,
}
CONV_STEM = {"kind": "conv", "filters": (4, 8), "strides": (2, 2)}
RESNET_STEM = {"kind": "resnet", "block_counts": (1, 1), "width": 4, "num_groups": 2}

# One way in which published models differ from each other a line.
VARIANTS = {
    "plain": {},
    "feature": {"include_top": False},
    "sequence": {"include_top": False, "pooling": None},
    "gap": {"pooling": "gap"},
    "map": {"pooling": "map", "num_register_tokens": 1},
    "token_gap": {"pooling": "token_gap", "num_register_tokens": 2},
    "distilled": {"distillation_token": True},
    "distilled_feature": {"distillation_token": True, "include_top": False},
    "registers": {"num_register_tokens": 3, "prefix_positions": False},
    "deit3": {"prefix_positions": False, "layer_scale_init": 0.1, "drop_path_rate": 0.2, "drop_path_schedule": "constant"},
    "simple": {"class_token": False, "pooling": "gap", "position_embedding": "sincos2d", "activation": "gelu_tanh"},
    "mae": {"position_embedding": "sincos2d_mae", "pooling": "gap", "norm_after_pooling": True},
    "no_positions": {"position_embedding": "none"},
    "rotary": {"rotary": {"coordinates": "normalized", "base": 100.0, "rescale": 2.0}, "position_embedding": "none"},
    "rotary_mixed": {"rotary": {"axes": "xy", "base": 10.0, "frequencies": "learned"}},
    "position_grid": {"position_grid": (4, 4), "position_resample": "bilinear"},
    "pre_logits": {"representation_size": 7, "classifier_activation": None},
    "dinov2_g": {"mlp": "swiglu", "layer_scale_init": 1e-5, "include_top": False},
    "qk_norm": {"qk_norm": True, "qkv_bias": False},
    "eva02_clip": {
        "qkv_bias": "query_value",
        "mlp": "swiglu",
        "mlp_norm": True,
        "attention_norm": True,
        "include_top": False,
        "representation_size": 7,
        "representation_activation": None,
        "representation_bias": False,
    },
    "pe": {"pooling": "map", "pooling_num_heads": 4, "pooling_mlp_dim": 12, "pooling_prefix_tokens": True},
    "eva02_e": {"norm_first": False, "norm_branches": True, "final_norm": False},
    "post_norm": {"norm_first": False, "norm_epsilon": 1e-12},
    "clip": {"norm_embeddings": True, "patch_bias": False, "activation": "quick_gelu", "norm_epsilon": 1e-5, "include_top": False},
    "aimv2": {
        "class_token": False,
        "pooling": "gap",
        "mlp": "swiglu",
        "qkv_bias": False,
        "projection_bias": False,
        "norm": "rms",
        "norm_embeddings": "patches",
    },
    "sbb": {"class_token": False, "num_register_tokens": 2, "pooling": "gap", "norm_after_pooling": True, "prefix_positions": False},
    "norm_after_token": {"norm_after_pooling": True},
    "conv_stem": {"stem": CONV_STEM, "patch_size": (2, 1)},
    "resnet_stem": {"stem": RESNET_STEM, "patch_size": 1},
    "channels_first": {"input_shape": (3, 16, 24), "data_format": "channels_first"},
    "gray": {"input_shape": (16, 24, 1), "patch_size": (8, 4), "include_preprocessing": False},
    "padded": {"input_shape": (15, 18, 3), "dynamic_padding": True},
    "random": {"dropout_rate": 0.1, "attention_dropout_rate": 0.1, "drop_path_rate": 0.3, "patch_dropout_rate": 0.4, "remat": True},
}


def tiny(seed=0, scale=0.3, **more):
    """Returns a small VisionTransformer with random weights."""
    import keras_vit

    return randomize(keras_vit.VisionTransformer(**{**TINY, **more}), seed, scale)


def random_images(model, batch=2, sides=(16, 24)):
    """Returns images with pixels between 0 and 255; `sides` are those where the model's are open."""
    shape = [side or sides[i] for i, side in enumerate(model.input_shape[1:])]
    return np.random.default_rng(0).uniform(0, 255, (batch, *shape)).astype("float32")


def run_and_operations(function, *inputs):
    """Returns the result of a TensorFlow function, and the names of the operations that it runs after TensorFlow's optimization."""
    from tensorflow.python.eager import context

    context.context().enable_graph_collection()
    try:
        result = function(*inputs)
        graphs = context.context().export_run_metadata().function_graphs
    finally:
        context.context().disable_graph_collection()
    nodes = [node for each in graphs for node in each.post_optimization_graph.node]
    nodes += [node for each in graphs for function in each.post_optimization_graph.library.function for node in function.node_def]
    return result, {node.op for node in nodes}
