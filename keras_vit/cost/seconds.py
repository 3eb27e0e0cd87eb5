"""Predicts the time of a step on a calibrated machine, by kind of computation."""

import math
from typing import Any, NamedTuple

from keras_vit.config import ViTConfig
from keras_vit.cost.counts import cost_by_part, known_sizes
from keras_vit.cost.memory import COPIES, attention_is_long, step_memory

# Additional time of a training step with recomputation, as a fraction of the dense part (docs/performance.md).
REMAT = {"tensorflow": 0.20, "jax": 0.10, "torch": 0.33}
MAPPED = 2**25  # bytes of temporary memory from which on glibc maps it anew for each step


class Machine(NamedTuple):
    """The speed of one backend on one device, as `keras_vit.profiling.calibrate` measures it.

    Args:
        backend: str. Keras's backend.
        device: str. Name of the processor or GPU.
        threads: int. Threads of the processor.
        precision: str. Name of the dtype policy.
        training: bool. Whether the times are of training steps or of inference.
        overhead: float. Seconds of overhead per block. The rest of a step counts as one more block.
        parameter: float. Seconds for each trained weight.
        dense: dict from `hidden_dim` to the seconds of a multiply-add of a block of this width, norms and activation included.
        score, long_score: float. Seconds for each attention score, where all are held at once and where they are not.
        page: float. Seconds for each byte of a step's temporary memory, where the system clears it for every step: on JAX on a processor.
            Defaults to 0.0.
    """

    backend: str
    device: str
    threads: int
    precision: str
    training: bool
    overhead: float
    parameter: float
    dense: dict[int, float]
    score: float
    long_score: float
    page: float = 0.0

    def dense_at(self, width: int) -> float:
        """Returns the seconds of a multiply-add at a width, interpolated between those that were measured."""
        widths = sorted(self.dense)
        below = max((w for w in widths if w <= width), default=widths[0])
        above = min((w for w in widths if w >= width), default=widths[-1])
        if below == above:
            return self.dense[below]
        share = math.log(width / below) / math.log(above / below)
        return self.dense[below] ** (1 - share) * self.dense[above] ** share


class Seconds(NamedTuple):
    """The time of a step in seconds, by kind of computation.

    Args:
        overhead: float. Time that does not depend on the amount of work.
        dense: float. Matrix products over single tokens, norms and activations: it grows with the number of tokens.
        attention: float. Attention scores: it grows with the square of the number of tokens.
        optimizer: float. Updates of the weights.
        memory: float. Clearing the pages of temporary memory. Defaults to 0.0.
    """

    overhead: float
    dense: float
    attention: float
    optimizer: float
    memory: float = 0.0

    @property
    def total(self) -> float:
        """The sum."""
        return sum(self)


class Work(NamedTuple):
    """The amount of work of a step.

    Args:
        blocks: int. Number of blocks.
        width: int. `hidden_dim`.
        dense: float. Multiply-adds, except those of attention scores.
        scores: float. Number of attention scores.
        is_long: bool. Whether attention is computed without holding all scores at once.
        weights: float. Number of updated weights. For an optimizer that keeps fewer arrays than AdamW, it is scaled down.
    """

    blocks: int
    width: int
    dense: float
    scores: float
    is_long: bool
    weights: float


def work(model: Any, batch_size: int, backend: str, optimizer: str = "AdamW") -> Work:
    """Returns the amount of work of a step. Arguments as in `step_seconds`."""
    c = ViTConfig.of(model)
    parts = cost_by_part(c)
    (n, *_), d = known_sizes(c), c.hidden_dim
    whole = c.num_layers - (c.pooling == "token")
    block = parts["blocks"].macs / c.num_layers - 2 * n * n * d
    dense = whole * block + sum(part.macs for name, part in parts.items() if name != "blocks")
    if c.pooling == "token":  # the last block computes keys and values of all tokens, and the rest only for the class tokens
        first = c.num_class_tokens
        dense += 2 * n * d * d + first * (block / n - 2 * d * d)
    scores = whole * c.num_heads * n * n
    weights = sum(part.parameters for part in parts.values())
    # AdamW reads four arrays and writes three; other optimizers may have fewer.
    arrays = (3 + 2 * COPIES[optimizer]) / (3 + 2 * COPIES["AdamW"])
    return Work(c.num_layers, d, batch_size * dense, batch_size * scores, attention_is_long(c, backend), weights * arrays)


def step_seconds(model: Any, batch_size: int, machine: Machine, optimizer: str = "AdamW", **overrides: Any) -> Seconds:
    """Predicts the time of a step.

    Args:
        model: as in `step_memory`.
        batch_size: int. Images in a step.
        machine: `Machine`. Result of `keras_vit.profiling.calibrate`.
        optimizer: str. As in `step_memory`. Defaults to "AdamW".
        **overrides: arguments of `VisionTransformer`.

    Returns:
        `Seconds`.
    """
    c = ViTConfig.of(model, **overrides)
    done = work(c, batch_size, machine.backend, optimizer)
    more = 1 + REMAT.get(machine.backend, 0.33) if c.remat and machine.training else 1
    return Seconds(
        (1 + done.blocks) * machine.overhead,
        more * done.dense * machine.dense_at(done.width),
        more * done.scores * (machine.long_score if done.is_long else machine.score),
        done.weights * machine.parameter,
        machine.page * _mapped_bytes(c, batch_size, machine, optimizer),
    )


def _mapped_bytes(c, batch_size, machine, optimizer):
    if not machine.page:
        return 0
    memory = step_memory(c, batch_size, machine.training, optimizer, backend=machine.backend)
    temporary = memory.gradients + memory.activations + memory.scores
    return temporary if temporary > MAPPED else 0
