"""Times single blocks and an update of weights in this process, for a calibration."""

import math
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_vit.layers import TransformerEncoderBlock
from keras_vit.runtime.gradients import gradients, no_gradients
from keras_vit.runtime.step import tracing
from keras_vit.runtime.trainer import FunctionalModel
from keras_vit.training.optimizers import AdamW


class Block(NamedTuple):
    """A block of the presets' shape: heads of 64 channels, and a hidden layer of four times the width.

    Args:
        width: int. `hidden_dim`.
        tokens: int. Tokens of an image.
        batch_size: int. Images in a step.
    """

    width: int
    tokens: int
    batch_size: int

    @property
    def macs(self) -> int:
        """Multiply-adds, except those of attention scores."""
        return 12 * self.batch_size * self.tokens * self.width**2

    @property
    def scores(self) -> int:
        """Attention scores."""
        return self.batch_size * self.heads * self.tokens**2

    @property
    def heads(self) -> int:
        """Attention heads."""
        return max(1, self.width // 64)

    def step(self, training: bool, precision: str) -> Callable:
        """Returns a function that computes the block's output or, in training, the gradients of its weights and inputs."""
        block = TransformerEncoderBlock(self.heads, 4 * self.width, dtype=precision, name="block")
        shape = self.batch_size, self.tokens, self.width
        with keras.StatelessScope(initialize_variables=False):
            block.build(shape)

        def output(tensors):
            return block.stateless_call(tensors[:-1], [], tensors[-1], training=training)[0]

        def loss(tensors):
            return ops.sum(ops.square(ops.cast(output(tensors), "float32"))), []

        generator = np.random.default_rng(0)
        arrays = [(v.shape, v.dtype) for v in block.variables] + [(shape, block.compute_dtype)]
        tensors = [ops.convert_to_tensor(0.02 * generator.standard_normal(shape, "float32"), dtype) for shape, dtype in arrays]
        compute = _compiled(lambda *tensors: gradients(loss, list(tensors))[0] if training else output(tensors), tensors, training)
        return lambda: ops.convert_to_numpy(keras.tree.flatten(compute(*tensors))[-1])


class Update(NamedTuple):
    """An update of weights by AdamW.

    Args:
        width: int. Inputs and outputs of a dense layer.
    """

    width: int

    @property
    def weights(self) -> int:
        """Number of updated weights."""
        return self.width * (self.width + 1)

    def step(self, training: bool, precision: str) -> Callable:
        """Returns a function that runs a training step of the layer, for one row of inputs."""
        inputs = keras.Input((self.width,), name="inputs")
        model = FunctionalModel(inputs, keras.layers.Dense(self.width, kernel_initializer="zeros", dtype=precision, name="dense")(inputs))
        model.compile(AdamW(1e-4, weight_decay=0.05, name="adamw"), "mse")
        x = np.ones((1, self.width), "float32")
        return lambda: model.train_on_batch(x, x)


Probe = Block | Update


def timed(probes: Sequence[Probe], training: bool, precision: str, seconds: float = 0.2, least: int = 6, turns: int = 3) -> list[float]:
    """Returns the seconds of a step of each probe: the lower quartile, because other programs make steps longer, never shorter.

    All probes are compiled before the first is timed, by two threads of their own: these share no names of layers, scopes and distributions
    of Keras with this one. Then the probes take turns, so that a moment in which other programs are busy does not affect a single one.

    Args:
        probes: sequence of `Block` and `Update`.
        training: bool. Whether to measure training steps, or inference.
        precision: str. Name of the dtype policy.
        seconds: float. How long the steps of a probe are timed. Defaults to 0.2.
        least: int. Minimum number of timed steps. Defaults to 6.
        turns: int. How often the probes take turns. Defaults to 3.
    """

    def compiled(probe):
        step = probe.step(training, precision)
        for _ in range(2):  # the first step traces and compiles
            step()
        return step

    drawn = random.getstate()  # initializers draw their seeds from this
    with ThreadPoolExecutor(2) as pool:
        steps = list(pool.map(compiled, probes))
    random.setstate(drawn)
    found: list[list[float]] = [[] for _ in probes]
    for turn in range(1, turns + 1):
        for step, times in zip(steps, found):
            step()  # not timed: the other probes have replaced its data in the processor's cache
            begun = time.perf_counter()
            while len(times) < math.ceil(least * turn / turns) or time.perf_counter() - begun < seconds / turns:
                start = time.perf_counter()
                step()
                times.append(time.perf_counter() - start)
    return [float(np.quantile(each, 0.25)) for each in found]


def _compiled(function: Callable, tensors: list, training: bool) -> Callable:
    """Returns the function, compiled for tensors of these shapes as Keras's `fit` and `predict` compile a step."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.jit(function)
    if backend == "tensorflow":
        import tensorflow as tf

        def traced(*tensors):
            with tracing("training" if training else "inference"):
                return function(*tensors)

        return tf.function(traced, autograph=False).get_concrete_function(*tensors)

    def eager(*tensors):
        with no_gradients():
            return function(*tensors)

    return function if training else eager
