"""Learning-rate schedules with a linear warm-up."""

from typing import Any

import keras
from keras import ops


def cosine(learning_rate: float, steps: int, warmup_steps: int = 0) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns a schedule that rises in a line, and falls to zero at `steps` along a cosine."""
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup_steps else learning_rate,
        decay_steps=steps - warmup_steps,
        warmup_target=learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )


@keras.saving.register_keras_serializable(package="keras_vit")
class Linear(keras.optimizers.schedules.LearningRateSchedule):
    """Rises in a line, and falls in a line to `end` times the highest value; `end=1.0` stays there.

    Args:
        learning_rate: float. The highest value.
        steps: int. At which the schedule ends.
        warmup_steps: int. At which the highest value is reached.
        end: float.

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
    """Returns a schedule that rises in a line and stays."""
    return Linear(learning_rate, steps, warmup_steps, end=1.0)


SCHEDULES = {"cosine": cosine, "linear": Linear, "constant": constant}
