"""The cost of a step: counts, memory and, on a calibrated machine, time."""

import bisect
from typing import Any, NamedTuple

import keras

from keras_vit.config import ViTConfig
from keras_vit.cost.counts import cost, known_sizes
from keras_vit.cost.memory import Memory, step_memory
from keras_vit.cost.seconds import Machine, Seconds, step_seconds
from keras_vit.layers import checks


class Step(NamedTuple):
    """The estimate of a step.

    Args:
        config: `ViTConfig`. The model.
        batch_size: int. Images in the step.
        parameters: int. Number of weights, exact.
        macs: int. Multiply-adds of a forward pass of the batch, exact.
        attention_macs: int. The part of `macs` that grows with the square of the number of tokens.
        memory: `Memory`. Peak memory of the step, without that of the framework itself.
        seconds: `Seconds` or None. The time, if a machine was given.
    """

    config: ViTConfig
    batch_size: int
    parameters: int
    macs: int
    attention_macs: int
    memory: Memory
    seconds: Seconds | None

    def epoch_seconds(self, images: int) -> float:
        """Returns the time of the steps of an epoch in seconds, without validation and without waiting for data.

        Args:
            images: int. Number of images in an epoch.

        Raises:
            ValueError: if the estimate was made without a machine.
        """
        if self.seconds is None:
            raise ValueError("The time needs a calibrated machine: pass `machine=keras_vit.profiling.calibrate()` to `estimate_step`")
        return -(-images // self.batch_size) * self.seconds.total


def estimate_step(
    model: Any,
    batch_size: int = 1,
    training: bool = True,
    optimizer: str = "AdamW",
    machine: Machine | None = None,
    ema: bool = False,
    **overrides: Any,
) -> Step:
    """Estimates the memory and time of a step, without building the model.

    Parameters and multiply-adds are exact. Memory is that of the current backend on a CPU.

    Args:
        model: a `VisionTransformer`, the name of a preset, a `ViTConfig`, or a dict of arguments of `VisionTransformer`. If it is a model,
            its frozen weights have no gradients and no optimizer state.
        batch_size: int. Number of images of a batch. Defaults to 1.
        training: bool. Whether it is a training step, or inference. Defaults to True.
        optimizer: str. "AdamW", "Lamb", "Muon" or "SGD" with momentum. Defaults to "AdamW".
        machine: `keras_vit.cost.Machine` or None. Result of `keras_vit.profiling.calibrate`. Defaults to None: the time is not estimated.
        ema: bool. Whether training keeps a moving average of the weights. Defaults to False.
        **overrides: arguments of `VisionTransformer`, such as `input_shape`, `patch_size`, `remat` or `dtype`.

    Returns:
        A `Step`.

    Raises:
        ValueError: if the preset or the optimizer is unknown, the input size is open, `batch_size` is less than 1, or the machine was
            calibrated for another backend or kind of step.

    Example:
    >>> step = keras_vit.estimate_step("ViTB16", batch_size=64, input_shape=(384, 384, 3))
    >>> step.parameters, step.memory.optimizer
    (86859496, 694875968)
    """
    checks.integer("batch_size", batch_size)
    c = ViTConfig.of(model, **overrides)
    counts = cost(c, batch_size)
    n, *_ = known_sizes(c)
    attention = batch_size * 2 * c.num_layers * n * n * c.hidden_dim
    if machine is not None:
        _check_machine(machine, training)
    return Step(
        c,
        batch_size,
        counts.parameters,
        counts.macs,
        attention,
        step_memory(model, batch_size, training, optimizer, ema, **overrides),
        None if machine is None else step_seconds(c, batch_size, machine, optimizer),
    )


def largest_batch(available: float, model: Any, training: bool = True, **more: Any) -> int:
    """Returns the largest batch size whose step fits into `available` bytes; 0 if a single image does not fit.

    Args:
        available: float. Bytes.
        model, training, **more: as in `estimate_step`.
    """

    def fits(count):
        return estimate_step(model, count, training, **more).memory.total <= available

    most = 1
    while most < 2**24 and fits(most):
        most *= 2
    return bisect.bisect_left(range(1, most + 1), True, key=lambda count: not fits(count))


def _check_machine(machine, training):
    now = keras.backend.backend()
    if machine.backend != now or machine.training != training:
        kind = "training" if machine.training else "inference"
        raise ValueError(
            f"The machine must be calibrated for these steps. Received: a calibration of {kind} on {machine.backend}, "
            f"for {'training' if training else 'inference'} on {now}. Call `keras_vit.profiling.calibrate(training={training})`"
        )
