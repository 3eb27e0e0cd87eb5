"""Measures the speed and memory of models, with the columns of timm's benchmark tables."""

from typing import Any

import keras
import numpy as np

from keras_vit.checkpoints.catalogue import TIMM
from keras_vit.config import ViTConfig
from keras_vit.cost import cost
from keras_vit.cost.device import this_device
from keras_vit.profiling.steps import Job, measure


def benchmark(
    name: str,
    batch_size: int = 8,
    training: bool = False,
    optimizer: str = "AdamW",
    precision: str = "float32",
    seconds: float = 5.0,
    **overrides: Any,
) -> dict[str, Any]:
    """Measures a preset in a new process, on the current backend.

    The first columns are those of timm's tables (`benchmark.py`, `results/benchmark-*.csv`), so that the tables can be joined by `model`.

    Args:
        name: str. Name of a preset.
        batch_size: int. Images in a step. Defaults to 8.
        training: bool. Whether to measure training steps, or inference. Defaults to False.
        optimizer: str. Optimizer of training steps. Defaults to "AdamW".
        precision: str. Name of a dtype policy, such as "mixed_bfloat16". Defaults to "float32".
        seconds: float. How long steps are timed after the warm-up; at least ten steps are timed. Defaults to 5.
        **overrides: arguments of `VisionTransformer`, such as `input_shape`.

    Returns:
        dict. `model` is timm's name of the preset, if there is one, and `param_count` is in millions. Columns with the prefix "infer_" or
        "train_" are `samples_per_sec`, `step_time` (mean, ms), `batch_size`, `img_size` and, for inference, `gmacs` and `macts` (millions
        of outputs of convolutions and matrix products). Columns that timm's tables lack are `preset`, `latency_p50` and `latency_p99` of a
        step (ms), `peak_memory_mb` (of the process or, on a GPU, of the framework's allocations), `backend`, `dtype` and `device`.

    Raises:
        ValueError: if the preset or an argument is unknown.
        RuntimeError: if the process fails, for example for lack of memory.

    Example:
    >>> keras_vit.profiling.benchmark("ViTTi16", batch_size=1)["infer_gmacs"]  # doctest: +SKIP
    1.25
    """
    config = ViTConfig.of(name, **overrides, dtype=precision)
    counts = cost(config)
    arguments = config.to_dict()
    (steps,) = measure([Job(arguments, batch_size, training, optimizer, seconds)])
    side = config.image_size[0]
    mean = float(np.mean(steps.seconds))
    measured = {
        "samples_per_sec": round(batch_size / mean, 2),
        "step_time": round(1e3 * mean, 3),
        "batch_size": batch_size,
        "img_size": side,
    }
    if not training:
        measured |= {"gmacs": round(counts.macs / 1e9, 2), "macts": round(counts.outputs / 1e6, 2)}
    p50, p99 = np.percentile(steps.seconds, (50, 99))
    return {
        "model": timm_name(name, side),
        **{f"{'train' if training else 'infer'}_{key}": value for key, value in measured.items()},
        "param_count": round(counts.parameters / 1e6, 2),
        "preset": name,
        "latency_p50": round(1e3 * float(p50), 3),
        "latency_p99": round(1e3 * float(p99), 3),
        "peak_memory_mb": round(steps.peak_bytes / 1e6),
        "backend": keras.backend.backend(),
        "dtype": precision,
        "device": this_device().name,
    }


def timm_name(preset: str, side: int | None) -> str:
    """Returns timm's name of a preset for images of this side, or the preset's own name if timm has none.

    Example:
    >>> timm_name("ViTB16", 384), timm_name("ViTMicro4", 32)
    ('vit_base_patch16_384', 'ViTMicro4')
    """
    return next((row[1].partition(".")[0] for row in TIMM if row[0] == preset and row[2] == side), preset)
