import math

import keras
import numpy as np
import pytest
from helpers import requires_jax, to_numpy, value_and_gradients
from keras import ops

from keras_vit.runtime import gelu as runtime_gelu
from keras_vit.runtime.gelu import gelu


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-6), ("bfloat16", 3e-2), ("float16", 4e-3)])
def test_gelu_is_exact_with_its_gradient(dtype, tolerance):
    check_exact(dtype, tolerance)


@requires_jax
def test_the_short_form_of_gpus_is_as_exact_in_bfloat16(monkeypatch):
    monkeypatch.setattr(runtime_gelu, "half_on_gpu", lambda x, dtypes: True)
    check_exact("bfloat16", 3e-2)
    x = ops.linspace(-12.0, 12.0, 4001)
    short = x * ops.sigmoid(x * (runtime_gelu.LINEAR + runtime_gelu.CUBIC * x * x))
    assert 2e-4 < np.abs(to_numpy(short) - to_numpy(ops.gelu(x, approximate=False))).max() < 2.9e-4


def check_exact(dtype, tolerance):
    x = ops.cast(np.concatenate([np.linspace(-9.0, 9.0, 181), [-30.0, 30.0]]), dtype)
    full = to_numpy(ops.cast(x, "float32")).astype("float64")
    cumulative = np.array([0.5 * math.erfc(-value / 2**0.5) for value in full])
    wanted, slope = full * cumulative, cumulative + full * np.exp(-(full**2) / 2) / (2 * np.pi) ** 0.5
    value, (gradient,) = value_and_gradients(gelu, x)
    assert keras.backend.standardize_dtype(value.dtype) == keras.backend.standardize_dtype(gradient.dtype) == dtype
    np.testing.assert_allclose(to_numpy(ops.cast(value, "float32")), wanted, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(to_numpy(ops.cast(gradient, "float32")), 3.0 * wanted**2 * slope, rtol=4 * tolerance, atol=4 * tolerance)


def test_gelu_of_a_symbolic_tensor():
    assert gelu(keras.KerasTensor((2, 3))).shape == (2, 3)
