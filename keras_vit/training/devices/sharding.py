"""Shards weights over several devices on JAX: fully (FSDP), or by heads and hidden units (tensor parallelism)."""

import functools
from typing import Any

import keras

from keras_vit.config import ViTConfig
from keras_vit.layers import checks
from keras_vit.messages import counted, say

SHARDED = ("fsdp", "tensor_parallel")

# The sharded axes of weights, by regular expressions of their paths, for Keras's LayoutMap. All other weights are replicated.
TENSOR_PARALLEL = {  # over "model": each device computes its own heads and hidden units, and a branch ends with one sum over the devices
    r".*attention/qkv/kernel": (None, "model"),
    r".*attention/projection/kernel": ("model", None),
    r".*mlp/fc1/kernel": (None, "model"),
    r".*mlp/fc1/bias": ("model",),
    r".*mlp/fc2/kernel": ("model", None),
}
FSDP = {  # over "batch", as the images: a weight is gathered where it is used
    r".*(qkv|projection|fc1|fc2|pre_logits|head)/kernel": ("batch", None),
    r".*patch_embedding/kernel": (None, None, None, "batch"),
    r".*position_embedding/table": (None, None, "batch"),
}


def layout_map(model: keras.Model | str | dict, mesh: keras.distribution.DeviceMesh) -> keras.distribution.LayoutMap:
    """Returns the layout of a Vision Transformer's weights and optimizer state on a mesh of devices. It needs JAX.

    Args:
        model: a `VisionTransformer`, the name of a preset, or a dict of arguments. It is only used to check that the mesh fits.
        mesh: a `keras.distribution.DeviceMesh`. If it has an axis "model", heads and hidden units are sharded over this axis (tensor
            parallelism). Otherwise all weights are sharded over the axis "batch" (FSDP).

    Returns:
        A `keras.distribution.LayoutMap` for `keras.distribution.ModelParallel`.

    Raises:
        ValueError: if the mesh has neither axis, its size does not divide the model's, or the backend is not JAX.

    Reference:
        Shoeybi et al., "Megatron-LM", 2019, section 3; Rajbhandari et al., "ZeRO", 2020, stage 3.

    Example:
    >>> mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"), devices)  # doctest: +SKIP
    >>> parallel = keras.distribution.ModelParallel(  # doctest: +SKIP
    ...     layout_map=keras_vit.training.layout_map("ViTH14", mesh), batch_dim_name="batch"
    ... )
    """
    check_backend("layout_map")
    sizes = dict(zip(mesh.axis_names, mesh.shape))
    config = ViTConfig.of(model)
    if "model" in sizes:
        for name in ("num_heads", "mlp_dim"):
            value = getattr(config, name)
            if value % sizes["model"]:
                raise ValueError(f'The axis "model" must divide `{name}`. Received: {sizes["model"]} devices, {name}={value}')
    elif "batch" not in sizes or config.hidden_dim % sizes["batch"]:
        raise ValueError(
            'The mesh must have an axis "model", or an axis "batch" that divides `hidden_dim`. '
            f"Received: axes {sizes}, hidden_dim={config.hidden_dim}"
        )
    return _layout_map(mesh)


def _layout_map(mesh):
    layouts = keras.distribution.LayoutMap(mesh)
    for path, axes in (TENSOR_PARALLEL if "model" in mesh.axis_names else FSDP).items():
        layouts[path] = axes
    return layouts


@functools.cache
def distribution(name: str) -> Any:
    """Returns the `keras.distribution.Distribution` of a name, as in `keras_vit.training.strategy`."""
    checks.one_of("strategy", name, ("auto", "one_device", "mirrored", "multi_worker", *SHARDED))
    devices = keras.distribution.list_devices()
    devices = [device for device in devices if not device.startswith("cpu")] or devices
    devices = devices[:1] if name == "one_device" else devices
    count = len(devices)
    if name in SHARDED:
        shape, axes = ((count,), ("batch",)) if name == "fsdp" else ((1, count), ("batch", "model"))
        mesh = keras.distribution.DeviceMesh(shape, axes, devices)
        made = keras.distribution.ModelParallel(layout_map=_layout_map(mesh), batch_dim_name="batch")
        how = "weights sharded over all" if name == "fsdp" else "heads and hidden units sharded over all"
    else:
        made = keras.distribution.DataParallel(devices=devices)
        how = "weights on each"
    say(f"training on {counted(count, 'JAX device')}, {how}")
    return made


def check_backend(what: str) -> None:
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"Sharding weights needs JAX: set KERAS_BACKEND=jax. (On {keras.backend.backend()} `keras.distribution` does nothing.) "
            f"Received: {what}"
        )
