import math

import keras
import numpy as np
import pytest
from helpers import to_numpy, value_and_gradients
from keras import ops

from keras_vit.runtime.gelu import gelu


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-6), ("bfloat16", 3e-2), ("float16", 4e-3)])
def test_gelu_is_exact_with_its_gradient(dtype, tolerance):
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
