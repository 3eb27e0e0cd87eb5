"""Learning-rate schedules with a linear warm-up."""

from typing import Any

import keras
from keras import ops


def cosine(learning_rate: float, steps: int, warmup_steps: int = 0) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns a schedule with a linear warm-up and a cosine decay to zero at `steps`."""
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else learning_rate,
        decay_steps=steps - warmup_steps,
        warmup_target=learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


@keras.saving.register_keras_serializable(package="keras_vit")
class Linear(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up, then a linear decay to `end` times the highest value.

    Args:
        learning_rate: float. Highest learning rate.
        steps: int. Number of steps after which the decay ends.
        warmup_steps: int. Number of steps after which the highest learning rate is reached. Defaults to 0.
        end: float. Last learning rate, as a fraction of the highest; 1.0 means no decay. Defaults to 0.0.

    Example:
    >>> schedule = Linear(1.0, steps=10, warmup_steps=2)
    >>> [float(schedule(step)) for step in (0, 1, 2, 6, 10)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    def __init__(self, learning_rate: float, steps: int, warmup_steps: int = 0, end: float = 0.0):
        self.learning_rate, self.steps, self.warmup_steps, self.end = learning_rate, steps, warmup_steps, end

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rise = step / max(self.warmup_steps, 1)
        done = ops.clip((step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1), 0.0, 1.0)
        return self.learning_rate * ops.where(step < self.warmup_steps, rise, 1.0 - (1.0 - self.end) * done)

    def get_config(self) -> dict[str, Any]:
        return {"learning_rate": self.learning_rate, "steps": self.steps, "warmup_steps": self.warmup_steps, "end": self.end}


def constant(learning_rate: float, steps: int, warmup_steps: int = 0) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns a schedule with a linear warm-up and a constant value after it."""
    return Linear(learning_rate, steps, warmup_steps, end=1.0)


SCHEDULES = {"cosine": cosine, "linear": Linear, "constant": constant}
