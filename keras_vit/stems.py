"""The configurations of stems, which are computed before the patch embedding."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

from keras_vit.layers import ConvStem, ResNetStem


@dataclasses.dataclass(frozen=True)
class ConvStemConfig:
    """Arguments of `keras_vit.layers.ConvStem`."""

    kind: ClassVar[str] = "conv"
    layer: ClassVar[type] = ConvStem
    filters: tuple[int, ...]
    strides: tuple[int, ...]
    norm_epsilon: float = 1e-5

    def __post_init__(self):
        ConvStem.check(self.filters, self.strides)

    @property
    def stride(self) -> int:
        """Pixels of the image by one step on the stem's map."""
        return math.prod(self.strides)


@dataclasses.dataclass(frozen=True)
class ResNetStemConfig:
    """Arguments of `keras_vit.layers.ResNetStem`."""

    kind: ClassVar[str] = "resnet"
    layer: ClassVar[type] = ResNetStem
    block_counts: tuple[int, ...]
    width: int = 64
    num_groups: int = 32
    norm_epsilon: float = 1e-6
    standardization: str = "std"
    standardization_epsilon: float = 1e-5

    def __post_init__(self):
        ResNetStem.check(self.block_counts, self.width, self.num_groups, self.standardization)

    @property
    def stride(self) -> int:
        """Pixels of the image by one step on the stem's map."""
        return 4 * 2 ** max(0, len(self.block_counts) - 1)


STEMS = {stem.kind: stem for stem in (ConvStemConfig, ResNetStemConfig)}


def stem_config(stem) -> ConvStemConfig | ResNetStemConfig | None:
    """Returns the configuration for a dict of "kind" and the layer's arguments. A configuration or None is returned as it is.

    Raises:
        ValueError: if the kind or an argument is unknown or wrong, or one is missing.
    """
    if stem is None or isinstance(stem, tuple(STEMS.values())):
        return stem
    if not isinstance(stem, dict) or stem.get("kind") not in STEMS:
        raise ValueError(f'`stem` must be None or a dict whose "kind" is one of {", ".join(map(repr, STEMS))}. Received: stem={stem!r}')
    cls: type[Any] = STEMS[stem["kind"]]
    arguments = {key: value for key, value in stem.items() if key != "kind"}
    fields = dataclasses.fields(cls)
    needed = [field.name for field in fields if field.default is dataclasses.MISSING]
    if not set(needed) <= set(arguments) <= {field.name for field in fields}:
        takes, needs = ", ".join(field.name for field in fields), ", ".join(needed)
        raise ValueError(f"A `stem` of kind {stem['kind']!r} accepts {takes}, and requires {needs}. Received: stem={stem}")
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()})


def stem_dict(stem) -> dict | None:
    """Returns the dict that `stem_config` reads."""
    return None if stem is None else {"kind": stem.kind, **dataclasses.asdict(stem)}
