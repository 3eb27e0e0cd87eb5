"""What a step of `fit`, `evaluate` or `predict` may run on TensorFlow's CPU in place of Keras's chains of operations.

Only while the graph of such a step is traced: a call of a model, which may be exported or differentiated in other ways, and what XLA
compiles as a whole keep to Keras's forms, and so do other backends and GPUs.
"""

import contextlib
import contextvars
import functools
import pathlib

import keras

_step = contextvars.ContextVar("step", default=None)
WORTH_COMPILING = 1_000_000  # weights; the step of an optimizer of fewer takes less time than XLA to compile it


@contextlib.contextmanager
def graph_of(step):
    """While active, what is traced is the graph of a "training" or an "inference" step, or, if None, neither."""
    token = _step.set(step)
    try:
        yield
    finally:
        _step.reset(token)


def step():
    """Returns what the graph that TensorFlow traces for a processor is of: "training", "inference", or None."""
    if _step.get() is None or keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    return None if tf.executing_eagerly() or tf.config.list_logical_devices("GPU") else _step.get()


def fused(function, *inputs):
    """Returns `function(*inputs)`, which XLA compiles to one pass through memory, and its gradient to another.

    Of what the gradient needs only the inputs are kept; the rest is computed again.

    Args:
        function: of float tensors, made once: what is compiled is kept for it. It closes over no variables.
        *inputs: its arguments.
    """
    return _fused(function)(*inputs)


@functools.cache
def _fused(function):
    import tensorflow as tf

    forward = tf.function(function, jit_compile=True, autograph=False)

    @tf.function(jit_compile=True, autograph=False)
    def backward(upstream, *inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = function(*inputs)
        return tape.gradient(outputs, inputs, upstream)

    @tf.custom_gradient
    def call(*inputs):
        return forward(*inputs), lambda upstream: backward(upstream, *inputs)

    return call


class _InFloat32(keras.DTypePolicy):
    """A policy of bfloat16 that computes in float32, as XLA's compiler does on a processor."""

    compute_dtype = "float32"


@contextlib.contextmanager
def faster_precision(layers):
    """While active, in the graph of a step, layers that compute in bfloat16 do so in float32 if the processor multiplies that faster.

    Weights stay what they are. Not in the scope of a strategy, whose replicas may be traced side by side.
    """
    policies = []
    if step() and not _multiplies_bfloat16():
        import tensorflow as tf

        if not tf.distribute.has_strategy():
            plain = [(layer, layer.dtype_policy) for layer in layers if type(layer.dtype_policy) is keras.DTypePolicy]
            policies = [(layer, policy) for layer, policy in plain if policy.compute_dtype == "bfloat16"]
    try:
        for layer, policy in policies:
            layer.dtype_policy = _InFloat32(policy.name)
        yield
    finally:
        for layer, policy in policies:
            layer.dtype_policy = policy


@functools.cache
def _multiplies_bfloat16():
    """Whether the processor multiplies bfloat16 faster than float32: Intel's by AMX alone, AMD's by AVX-512."""
    try:
        words = set(pathlib.Path("/proc/cpuinfo").read_text().split())
    except OSError:  # not Linux: nothing is known, and what was asked for is done
        return True
    return bool({"amx_bf16", "bf16"} & words) or {"AuthenticAMD", "avx512_bf16"} <= words


@contextlib.contextmanager
def fused_updates(optimizer):
    """While active, in the graph of a training step, XLA compiles all that the optimizer does with the gradients, if that is much.

    Not in the scope of a strategy, whose sums XLA does not compile, and not an optimizer of the user's own, which may do anything.
    """
    if step() != "training" or not _compiles(optimizer):
        yield
        return
    import tensorflow as tf

    apply = optimizer.apply

    def apply_compiled(gradients, variables=None):
        @tf.function(jit_compile=True, autograph=False)
        def update(*gradients):
            apply(gradients, variables)

        update(*gradients)

    optimizer.apply = apply_compiled
    try:
        yield
    finally:
        del optimizer.apply


def _compiles(optimizer):
    import tensorflow as tf

    known = type(optimizer).__module__.partition(".")[0] in ("keras", "keras_vit")
    alone = not tf.distribute.has_strategy()
    return known and alone and sum(variable.shape.num_elements() for variable in optimizer.variables) >= WORTH_COMPILING
