"""bfloat16 on CPUs that multiply float32 faster."""

import functools
import pathlib

import keras

from keras_vit.runtime.step import step


@keras.saving.register_keras_serializable(package="keras_vit")
class BFloat16Policy(keras.DTypePolicy):
    """A bfloat16 policy that computes in float32 within a step on TensorFlow's CPU, if the CPU multiplies float32 faster.

    Variables keep their dtype. Within the scope of a strategy it behaves as Keras's own policy.
    """

    @property
    def compute_dtype(self):
        return "float32" if step() and _widens() else super().compute_dtype

    def __eq__(self, other):
        return isinstance(other, keras.DTypePolicy) and self.name == other.name

    __hash__ = object.__hash__


def policy(given):
    """Returns the policy of a model's layers: a `BFloat16Policy` for a plain policy of bfloat16, else what is given."""
    plain = type(given) is keras.DTypePolicy and given.compute_dtype == "bfloat16"
    return BFloat16Policy(given.name) if plain else given


def full(policy):
    """Returns the type of a policy's computations, at least float32."""
    return keras.backend.result_type(policy.compute_dtype, "float32")


def _widens():
    import tensorflow as tf

    return not tf.distribute.has_strategy() and not _multiplies_bfloat16()


@functools.cache
def _multiplies_bfloat16():
    """Returns whether the CPU multiplies bfloat16 faster than float32: Intel's only with AMX, AMD's with AVX-512."""
    try:
        words = set(pathlib.Path("/proc/cpuinfo").read_text().split())
    except OSError:  # not Linux: the CPU is unknown, so bfloat16 stays as the user asked
        return True
    return bool({"amx_bf16", "bf16"} & words) or {"AuthenticAMD", "avx512_bf16"} <= words
