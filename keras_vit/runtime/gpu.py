"""Whether a tensor is computed on a GPU. Some implementations are faster only there."""

import keras

from keras_vit.runtime.switch import fast_paths


def on_gpu(x):
    """Returns whether JAX or torch computes `x` on a GPU, and fast paths are on. No implementation depends on it on TensorFlow."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.default_backend() == "gpu" and fast_paths()
    return keras.backend.backend() == "torch" and x.device.type == "cuda" and fast_paths()


def half_on_gpu(x, dtypes=("bfloat16", "float16")):
    """Returns whether JAX computes `x`, which has one of these dtypes, on a GPU."""
    return keras.backend.backend() == "jax" and keras.backend.standardize_dtype(x.dtype) in dtypes and on_gpu(x)
