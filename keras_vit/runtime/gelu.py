"""The exact GELU, in a form that is fast on every backend and that every exporter can write."""

import functools

import keras
from keras import ops

from keras_vit.one_dnn import one_dnn
from keras_vit.runtime.fused import fused
from keras_vit.runtime.gpu import half_on_gpu
from keras_vit.runtime.step import step
from keras_vit.runtime.switch import fast_paths


def gelu(x):
    """Returns `x * (1 + erf(x / sqrt(2))) / 2`.

    Keras uses `erfc`, which takes twice the time under XLA, and which tf2onnx exports to a file that onnxruntime refuses. TensorFlow's
    graphs fuse either form with the matrix product and the bias before it (`GeluExact`).
    """
    backend, dtype = keras.backend.backend(), keras.backend.standardize_dtype(x.dtype)
    if not fast_paths() or dtype == "float64" or keras.backend.is_keras_tensor(x):
        return ops.gelu(x, approximate=False)
    if step() == "training" or step() and not one_dnn():
        return fused(_by_erf, x)
    if half_on_gpu(x, ("bfloat16",)):
        return _by_sigmoid()(x)
    if backend == "jax":
        return ops.cast(_on_jax(ops.cast(x, "float32")), dtype)
    # torch has its own kernel. In half precision, which is not fused, `1 + erf` would round small results to zero.
    return _by_erf(x) if backend == "tensorflow" and dtype == "float32" else ops.gelu(x, approximate=False)


def _by_erf(x):
    full = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
    return ops.cast(0.5 * full * (1.0 + ops.erf(full * 0.5**0.5)), x.dtype)


# `x * sigmoid(x * (LINEAR + CUBIC * x * x))` is within 2.8e-4 of the exact GELU, the least by two factors (least squares of the fourth
# power). bfloat16 rounds numbers between 1 and 2 by up to 3.9e-3: the mean error of a result grows by a hundredth.
LINEAR, CUBIC = 1.60009169, 0.0695037


@functools.cache
def _by_sigmoid():
    """Returns the GELU of bfloat16 for XLA on a GPU: four fifths of the time of `erf`. Only the input is kept for the gradient."""
    import jax

    def parts(x):
        x = x.astype("float32")
        return x, jax.nn.sigmoid(x * (LINEAR + CUBIC * x * x))

    @jax.custom_vjp
    def gelu(x):
        full, share = parts(x)
        return (full * share).astype(x.dtype)

    def backward(x, upstream):
        full, share = parts(x)
        slope = share * (1.0 + (1.0 - share) * full * (LINEAR + 3.0 * CUBIC * full * full))
        return ((slope * upstream.astype("float32")).astype(x.dtype),)

    gelu.defvjp(lambda x: (gelu(x), x), backward)
    return gelu


def _on_jax(x):
    return 0.5 * x * (1.0 + _erf()(x * 0.5**0.5))


# The rational approximation of Eigen and XLA, highest powers first. Its error is at most 3e-7.
NUMERATOR = (0.00022905065861350646, 0.0034082910107109506, 0.050955695062380861, 0.18520832239976145, 1.128379143519084)
DENOMINATOR = (
    -1.1791602954361697e-7,
    0.000023547966471313185,
    0.0010179625278914885,
    0.014070470171167667,
    0.11098505178285362,
    0.49746925110067538,
    1.0,
)
ONE = 3.7439211627767994  # from here on erf is 1 in float32


@functools.cache
def _erf():
    """Returns `erf` of float32 for JAX, written out.

    JAX 0.10 exports its own `erf` as an operation that TensorFlow 2.21 does not know. This form is as fast: XLA expands `erf` likewise.
    """
    import jax

    @jax.custom_jvp
    def erf(x):
        x = jax.numpy.clip(x, -ONE, ONE)
        numerator, denominator = (functools.reduce(lambda sum, factor: sum * x * x + factor, each) for each in (NUMERATOR, DENOMINATOR))
        return x * numerator / denominator

    erf.defjvps(lambda tangent, _, x: tangent * (2.0 / jax.numpy.pi**0.5) * jax.numpy.exp(-x * x))
    return erf
