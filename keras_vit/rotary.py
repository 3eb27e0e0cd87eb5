"""The configuration of rotary position embeddings."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from keras_vit.layers import RotaryPositionEmbedding


@dataclasses.dataclass(frozen=True)
class RotaryConfig:
    """Arguments of `keras_vit.layers.RotaryPositionEmbedding` that do not follow from the model's."""

    coordinates: Literal["index", "normalized"] = "index"
    base: float = 10000.0
    axes: Literal["yx", "xy"] = "yx"
    offset: float = 0.0
    native_grid: tuple[int, int] | None = None
    frequencies: Literal["fixed", "learned"] = "fixed"
    period_dtype: Literal["float32", "bfloat16"] = "float32"
    shift: float | None = None
    jitter: float | None = None
    rescale: float | None = None

    def __post_init__(self):
        RotaryPositionEmbedding.check(**dataclasses.asdict(self))

    @property
    def learned(self) -> bool:
        """Whether the frequencies are weights."""
        return self.frequencies == "learned"

    @property
    def pairs(self) -> bool:
        """Whether other packages rotate neighboring channels together, which `RotaryPositionEmbedding` has in halves of a head."""
        return self.coordinates == "index"

    def layer(self, head_dim: int, num_prefix_tokens: int, num_heads: int, num_blocks: int, **kwargs: Any) -> RotaryPositionEmbedding:
        """Returns the layer of a model."""
        return RotaryPositionEmbedding(
            head_dim, num_prefix_tokens, num_heads=num_heads, num_blocks=num_blocks, **dataclasses.asdict(self), **kwargs
        )


def rotary_config(rotary: Any) -> RotaryConfig | None:
    """Returns the configuration that a dict of arguments stands for; a configuration or None as it is.

    Raises:
        ValueError: if an argument is unknown or wrong.
    """
    if rotary is None or isinstance(rotary, RotaryConfig):
        return rotary
    names = [field.name for field in dataclasses.fields(RotaryConfig)]
    if not isinstance(rotary, dict) or not set(rotary) <= set(names):
        raise ValueError(f"`rotary` must be None or a dict with keys of {', '.join(map(repr, names))}. Received: rotary={rotary!r}")
    arguments: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in rotary.items()}
    return RotaryConfig(**arguments)


def rotary_dict(rotary: RotaryConfig | None) -> dict[str, Any] | None:
    """Returns the dict that `rotary_config` reads."""
    return None if rotary is None else dataclasses.asdict(rotary)
