"""Checks that a batch fits into memory, by the cost model's estimate of a training step."""

from typing import Any

import keras

from keras_vit.config import ViTConfig
from keras_vit.cost import cost_by_part, step_memory
from keras_vit.cost.device import accelerated, available_bytes
from keras_vit.cost.memory import COPIES

PEAK = 2.0  # activations at the peak of a step on one of several devices, over those that are kept for the backward pass


def training_bytes(model: keras.Model, batch_size: int, optimizer: str = "AdamW", ema: bool = False) -> int:
    """Estimates the memory of training in bytes: weights, gradients, the optimizer's state, and the activations of a batch.

    Args:
        model: VisionTransformer. The model to train.
        batch_size: int. Number of images of a batch or micro-batch.
        optimizer: str. Name of an optimizer of `keras_vit.training`. Defaults to "AdamW".
        ema: bool. Whether a moving average of the weights is kept. Defaults to False.
    """
    return step_memory(model, batch_size, True, optimizer, ema).total


def device_bytes(
    model: Any, batch_size: int, devices: int, strategy: str = "fsdp", optimizer: str = "AdamW", bytes_per_value: int = 4
) -> tuple[int, int, int]:
    """Estimates the memory of training on each of several devices, without building the model.

    Args:
        model: VisionTransformer, str, dict or ViTConfig. As in `keras_vit.cost`.
        batch_size: int. Images of a step on all devices together.
        devices: int. Number of devices.
        strategy: str. "mirrored", "fsdp" or "tensor_parallel", as in `keras_vit.training.strategy`. Defaults to "fsdp".
        optimizer: str. Name of an optimizer of `keras_vit.training`. Defaults to "AdamW".
        bytes_per_value: int. Bytes of an activation: 4, or 2 in half precision. Defaults to 4.

    Returns:
        (state, gradients, activations) in bytes. `state` holds the weights and the optimizer's state, `gradients` also the weights of the
        block that FSDP gathers, and `activations` is the peak of those that the backward pass needs.

    Example:
    >>> [round(part / 2**30, 1) for part in device_bytes("ViTH14", 64, 8)]
    [0.9, 0.4, 12.1]
    """
    parts, config = cost_by_part(model, bytes_per_value), ViTConfig.of(model)
    parameters, block = sum(part.parameters for part in parts.values()), parts["blocks"].parameters / config.num_layers
    activations = batch_size * sum(part.activation_bytes for part in parts.values())
    if strategy == "tensor_parallel":
        # The inputs of both norms, and of the first product of both branches, are whole on every device.
        whole = 0 if config.remat else batch_size * bytes_per_value * config.num_layers * 4 * config.num_tokens * config.hidden_dim
        activations = whole + (activations - whole) / devices
        held = parts["blocks"].parameters / devices + parameters - parts["blocks"].parameters
    else:
        activations /= devices
        held = parameters / devices if strategy == "fsdp" else parameters
    gathered = {"fsdp": 2 * block, "tensor_parallel": 3 * config.hidden_dim**2}.get(strategy, 0)
    return int(4 * held * (1 + COPIES[optimizer])), int(4 * (held + gathered)), int(PEAK * activations)


def check_memory(model: keras.Model, batch_size: int, optimizer: str = "AdamW", ema: bool = False, available: float | None = None) -> None:
    """Raises a ValueError for a batch that does not fit into memory. The error names a number of micro-batches that do.

    On an accelerator nothing is checked: the framework reports when its memory is exhausted.

    Args:
        model: VisionTransformer. The model to train.
        batch_size: int. Number of images of a batch or micro-batch.
        optimizer: str. As in `training_bytes`. Defaults to "AdamW".
        ema: bool. As in `training_bytes`. Defaults to False.
        available: float or None. Available bytes. None means the free memory of this machine. Defaults to None.

    Raises:
        ValueError: if the estimate exceeds the available memory.

    Example:
    >>> keras_vit.training.check_memory(keras_vit.ViTMicro4(num_classes=10), batch_size=32)
    """
    if available is None:
        if accelerated():
            return
        available = available_bytes()
    needed = training_bytes(model, batch_size, optimizer, ema)
    if needed <= available:
        return
    for steps in (n for n in range(2, batch_size + 1) if batch_size % n == 0):
        less = training_bytes(model, batch_size // steps, optimizer, ema)
        if less <= available:
            advice = (
                f"`accumulation_steps={steps}` computes the same steps in micro-batches of {batch_size // steps} images, which need "
                f"{_gib(less)}"
            )
            break
    else:
        advice = f"A single image needs {_gib(training_bytes(model, 1, optimizer, ema))}: take a smaller model, or `remat=True`"
    raise ValueError(
        f"A step must fit into memory: {batch_size} images need about {_gib(needed)}, and {_gib(available)} are available. {advice}. "
        f"Received: batch_size={batch_size}"
    )


def memory_error(error, images: int, parts: int = 1):
    """Returns an error that tells the user what to do if `error` reports that a device's memory is exhausted, else None.

    Args:
        error: Exception.
        images: int. Images of a batch on one device.
        parts: int. Number of micro-batches that it is split into. Defaults to 1.
    """
    if "RESOURCE_EXHAUSTED" not in str(error) and type(error).__name__ != "ResourceExhaustedError":
        return None
    return ValueError(
        f"The device's memory does not hold {-(-images // parts)} images at once: split each batch by `accumulation_steps={2 * parts}`, "
        "which computes the same steps, or compute in half precision by `mixed_precision=True`"
    )


def _gib(count):
    return f"{count / 2**30:.1f} GiB"
