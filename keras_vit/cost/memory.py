"""Estimates the memory of a step by formula: weights, gradients, the optimizer's state, and the activations of a batch at their peak."""

import math
from typing import Any, NamedTuple

import keras

from keras_vit.config import ViTConfig
from keras_vit.cost.counts import cost_by_part, known_sizes
from keras_vit.names import Table
from keras_vit.runtime import attention_by_head, fused_attention, updates_on_torch

COPIES = Table("optimizer", {"AdamW": 2, "Lamb": 2, "Muon": 2, "SGD": 1})  # arrays of the optimizer's state, each as large as the weights


class Memory(NamedTuple):
    """The peak memory of a step, in bytes.

    Args:
        weights: int. The weights, and their moving average if there is one.
        optimizer: int. The state of the optimizer.
        gradients: int. Gradients, and temporary memory to apply them, at the peak.
        activations: int. Activations of the batch at the peak, except attention scores.
        scores: int. Attention scores, which grow with the square of the number of tokens.
        batch: int. The images.
    """

    weights: int
    optimizer: int
    gradients: int
    activations: int
    scores: int
    batch: int

    @property
    def total(self) -> int:
        """The sum."""
        return sum(self)


class Peak(NamedTuple):
    """Factors of a backend: its peak memory, relative to the activations that the backward pass needs by the formula of `cost`.

    The formula has three kinds of values: tokens, the hidden layer of width `mlp_dim`, and attention scores. A backend keeps copies of some
    of them and recomputes others. While activations are freed, gradients are allocated: the peak is either that of all activations with
    the first gradients, or that of all gradients.

    Args:
        tokens, hidden, scores: float. Factors for every block.
        last_tokens, last_scores: float. Factors for the block that is being computed.
        others: float. Factor for the layers before and after the blocks.
        weights: float. Factor of the trained weights, added to the activations. Defaults to 0.0.
        alone: float. Factor of the trained weights, if there are few activations. Defaults to 0.0.
        again: float. With remat, the share of one block's values that is held while it is recomputed. Defaults to 1.0.
    """

    tokens: float
    hidden: float
    scores: float
    last_tokens: float
    last_scores: float
    others: float
    weights: float = 0.0
    alone: float = 0.0
    again: float = 1.0


# By backend and bytes of an activation. Fitted to steps of 12 to 23 models of different widths, depths and numbers of tokens in float32,
# and 4 to 6 in half precision; docs/cost.md has the error on others. On torch, gradients are kept until the next backward pass.
TRAINING = {
    ("tensorflow", 4): Peak(1.15, 0.81, 1.15, 0.43, 0.9, 0.0, 0.32, 1.11, 1.4),
    ("tensorflow", 2): Peak(0.91, 0.91, 2.29, 0.79, 1.43, 1.09, 1.0, 1.0, 1.4),
    ("jax", 4): Peak(1.25, 1.76, 2.61, 2.35, 0.0, 0.14, 0.2, 0.3, 0.75),
    ("jax", 2): Peak(3.20, 3.20, 3.19, 2.62, 2.13, 1.75, 0.97, 1.0, 0.75),
    ("torch", 4): Peak(0.93, 1.03, 1.04, 1.32, 0.59, 0.02, 1.0, 1.23, 0.4),
    ("torch", 2): Peak(1.19, 1.19, 2.67, 0.34, 1.39, 0.0, 1.31, 1.64, 0.4),
}
# TensorFlow's loop over the heads of long sequences keeps its result, and a copy, in its own layout. Its backward pass has four arrays of
# the scores of some queries of one head.
LOOP_COPIES, LOOP_SCORES = 2, 4
INFERENCE = {
    ("tensorflow", 4): Peak(0.0, 0.0, 0.0, 0.75, 1.0, 1.5),
    ("tensorflow", 2): Peak(0.0, 0.0, 0.0, 0.75, 3.0, 3.0, 0.5),
    ("jax", 4): Peak(0.0, 0.0, 0.0, 1.0, 0.0, 1.3),
    ("jax", 2): Peak(0.0, 0.0, 0.0, 1.25, 0.0, 1.3, 1.0),
    ("torch", 4): Peak(0.0, 0.0, 0.0, 1.5, 2.0, 3.0),
    ("torch", 2): Peak(0.0, 0.0, 0.0, 2.0, 3.0, 3.0, 0.1),
}


def step_memory(
    model: Any,
    batch_size: int = 1,
    training: bool = True,
    optimizer: str = "AdamW",
    ema: bool = False,
    backend: str | None = None,
    **overrides: Any,
) -> Memory:
    """Estimates the peak memory of a step, without building the model.

    Args:
        model: a `VisionTransformer`, the name of a preset, a `ViTConfig`, or a dict of arguments of `VisionTransformer`. If it is a model,
            its frozen weights have no gradients and no optimizer state.
        batch_size: int. Number of images of a batch. Defaults to 1.
        training: bool. Whether it is a training step, or inference. Defaults to True.
        optimizer: str. "AdamW", "Lamb", "Muon" or "SGD" with momentum. Defaults to "AdamW".
        ema: bool. Whether a moving average of the weights is kept. Defaults to False.
        backend: str or None. "tensorflow", "jax" or "torch". Defaults to None, Keras's backend.
        **overrides: arguments of `VisionTransformer`, such as `input_shape`, `remat` or `dtype`.

    Returns:
        A `Memory`.

    Raises:
        ValueError: if the preset, the optimizer or the backend is unknown, or the input size is open.

    Example:
    >>> memory = step_memory("ViTB16", batch_size=8, backend="tensorflow")
    >>> memory.weights, memory.optimizer
    (346270624, 692541248)
    """
    c = ViTConfig.of(model, **overrides)
    backend = _known(backend or keras.backend.backend())
    values, weights = bytes_of(c)
    n, _, height, width = known_sizes(c)
    parts = cost_by_part(c.replace(remat=False))
    parameters = sum(part.parameters for part in parts.values())
    trained = parameters
    if not overrides and isinstance(model, keras.Model):
        trained = sum(math.prod(v.shape) for v in model.trainable_variables)
    tokens, hidden, scores = kept_by_block(c, backend)
    loops = backend == "tensorflow" and training and attention_is_long(c, backend)
    copies, row_scores = (LOOP_COPIES * n * c.hidden_dim, LOOP_SCORES * n * min(n, attention_by_head.ROWS)) if loops else (0, 0)
    factors = (TRAINING if training else INFERENCE)[backend, values]
    # With class-token pooling, the last block computes little more than keys and values.
    whole = c.num_layers - (c.pooling == "token")
    others = sum(part.activation_bytes for name, part in parts.items() if name not in ("blocks", "stem")) // 4
    stem = parts["stem"].activation_bytes // 4 if "stem" in parts else 0  # uses the factor of tokens: no models with stems were fitted
    kept, kept_scores = factors.tokens * tokens + factors.hidden * hidden + copies, factors.scores * scores
    blocks, inputs = (factors.again, whole * n * c.hidden_dim) if c.remat and training else (whole, 0)
    numbers, others = blocks * kept + inputs + factors.last_tokens * tokens, factors.others * others
    # In inference, the image's pixels are freed before the blocks are computed; training keeps them.
    numbers = numbers + others + factors.tokens * stem if training else max(numbers, others - factors.last_scores * scores)
    activations = batch_size * values * numbers
    held = batch_size * values * (blocks * kept_scores + factors.last_scores * scores) + values * row_scores
    alone = 4 * trained * factors.alone
    if backend == "torch" and optimizer == "AdamW":  # gradients, and three temporary arrays of the weights that it updates at once
        alone = weights * (trained + 3 * min(trained, updates_on_torch.LARGEST))
    gradients = max(4 * trained * factors.weights, alone - activations - held)
    return Memory(
        weights * (parameters + (trained if ema and training else 0)),
        weights * (COPIES[optimizer] * trained if training else 0),
        int(gradients),
        int(activations),
        int(held),
        4 * batch_size * c.channels * height * width,
    )


def bytes_of(c: ViTConfig) -> tuple[int, int]:
    """Returns the bytes of an activation and of a weight, by the configuration's dtype policy or, without one, Keras's."""
    policy = keras.dtype_policies.get(c.dtype or keras.config.dtype_policy())
    values, weights = (2 if each in ("float16", "bfloat16") else 4 for each in (policy.compute_dtype, policy.variable_dtype))
    return values, weights


def kept_by_block(c: ViTConfig, backend: str) -> tuple[int, int, int]:
    """Returns how many values the backward pass needs from a block for one image: (of width D, of width mlp_dim, attention scores)."""
    block = cost_by_part(c.replace(remat=False))["blocks"].activation_bytes // (4 * c.num_layers)
    n, *_ = known_sizes(c)
    scores = c.num_heads * n * n
    hidden = (2 if c.mlp == "mlp" else 3) * n * c.mlp_dim
    return block - scores - hidden, hidden, 0 if attention_is_long(c, backend) else scores


def attention_is_long(c: ViTConfig, backend: str) -> bool:
    """Returns whether `runtime` computes attention on a CPU without holding all scores at once."""
    return known_sizes(c)[0] >= long_from(backend)


def long_from(backend: str) -> int:
    """Returns the number of tokens from which attention is long."""
    return fused_attention.LONG if backend == "torch" else attention_by_head.LONG


def _known(backend: Any) -> str:
    if backend not in ("tensorflow", "jax", "torch"):
        raise ValueError(f"Memory is estimated for tensorflow, jax and torch. Received: backend={backend!r}")
    return backend
