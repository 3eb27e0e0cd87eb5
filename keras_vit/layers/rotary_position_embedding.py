"""Rotary position embedding: queries and keys are rotated by angles of their patch's row and column."""

from typing import Any

import keras
import ml_dtypes
import numpy as np
from keras import ops

from keras_vit.layers import checks
from keras_vit.runtime.seeds import SeedGenerator

COORDINATES = ("index", "normalized")
AXES = ("yx", "xy")
FREQUENCIES = ("fixed", "learned")
PERIOD_DTYPES = ("float32", "bfloat16")


@keras.saving.register_keras_serializable(package="keras_vit")
class RotaryPositionEmbedding(keras.layers.Layer):
    """Computes the rotation of queries and keys by the position of their patch (RoPE in two dimensions).

    `TransformerEncoderBlock` and `MultiHeadSelfAttention` take the result as `rotation`. All blocks share it, unless frequencies are
    learned. Each pair of channels (j, j + head_dim / 2) of a head is rotated by its own angle. Fixed frequencies
    `base ** (-4 j / head_dim)` belong to one axis each: the first quarter of the channels to the first of `axes`. Prefix tokens are not
    rotated. Any grid is possible, and there are no weights.

    Learned frequencies (RoPE-Mixed) are a weight `frequencies` (num_blocks, 2, num_heads, head_dim / 2). The angle is the sum over both
    axes of coordinate times frequency.

    Args:
        head_dim: int. Width of an attention head, a multiple of 4.
        num_prefix_tokens: int. Number of tokens in front that are not patches. Defaults to 0.
        coordinates: str. "index" counts rows and columns from `offset`. "normalized" takes the patches' centers between -1 and 1 along
            each axis, times 2 pi. Defaults to "index".
        base: float above 1. Ratio of the longest wavelength to the shortest, about. Defaults to 10000.0.
        axes: str. Order of the axes in the channels: "yx", rows first, or "xy", columns first. Defaults to "yx".
        offset: float. Added to every index. Defaults to 0.0.
        native_grid: pair of ints or None. Grid, (rows, columns), that other grids are squeezed or stretched to: the indices are multiplied
            by `native_grid / grid`. None takes them as they are. Only for "index". Defaults to None.
        frequencies: str. "fixed" or "learned". Defaults to "fixed".
        num_heads: int or None. Number of attention heads, which learned frequencies need. Defaults to None.
        num_blocks: int or None. Number of blocks, which learned frequencies need. Defaults to None.
        period_dtype: str. Type that the periods, the inverse frequencies, are rounded to: "float32", or "bfloat16" as in Meta's DINOv3
            files. Defaults to "float32".
        shift: float or None. In training, all coordinates of an axis are shifted by one uniform number in [-shift, shift]. Defaults to
            None.
        jitter: float or None. In training, each axis is then scaled by a log-uniform factor in [1 / jitter, jitter]. Defaults to None.
        rescale: float or None. In training, both axes are then scaled by one log-uniform factor in [1 / rescale, rescale]. DINOv3 was
            trained with 2. Defaults to None.
        seed: int or None. Seed of the layer's random generator; None takes a random one. Defaults to None.

    Call arguments:
        patches: tensor of shape `(batch, rows, columns, ...)`, the output of PatchEmbedding. Only its grid is read.
        block: int. Number of the block, whose own frequencies are used if they are learned. Defaults to 0.
        training: bool. Whether coordinates are shifted, jittered and rescaled, once for a call. Defaults to False.

    Output shape: `(2, num_prefix_tokens + rows * columns, head_dim)`, float32: the cosines, and the sines, whose first half is negative.
        Learned frequencies add an axis of `num_heads` after the first.

    Raises:
        ValueError: if an argument is out of range or two contradict each other.

    Reference:
        Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021; Heo et al., "Rotary Position Embedding for Vision
        Transformer", 2024; Siméoni et al., "DINOv3", 2025, section 3.2.

    Example:
    >>> rotary = keras_vit.layers.RotaryPositionEmbedding(64, num_prefix_tokens=5, coordinates="normalized", base=100.0)
    >>> rotation = rotary(keras.ops.zeros((1, 14, 14, 384)))
    >>> rotation.shape
    (2, 201, 64)
    >>> block = keras_vit.layers.TransformerEncoderBlock(num_heads=6, mlp_dim=1536)
    >>> block(keras.ops.ones((1, 201, 384)), rotation=rotation).shape
    (1, 201, 384)
    """

    def __init__(
        self,
        head_dim: int,
        num_prefix_tokens: int = 0,
        coordinates: str = "index",
        base: float = 10000.0,
        axes: str = "yx",
        offset: float = 0.0,
        native_grid: tuple[int, int] | None = None,
        frequencies: str = "fixed",
        num_heads: int | None = None,
        num_blocks: int | None = None,
        period_dtype: str = "float32",
        shift: float | None = None,
        jitter: float | None = None,
        rescale: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.head_dim = checks.integer("head_dim", head_dim)
        if head_dim % 4:
            raise ValueError(f"`head_dim` must be a multiple of 4: two axes of pairs of channels. Received: head_dim={head_dim}")
        self.num_prefix_tokens = checks.integer("num_prefix_tokens", num_prefix_tokens, least=0)
        self.check(coordinates, base, axes, offset, native_grid, frequencies, period_dtype, shift, jitter, rescale)
        self.coordinates, self.base, self.axes, self.offset = coordinates, base, axes, offset
        self.native_grid = None if native_grid is None else checks.positive_pair("native_grid", native_grid)
        self.frequencies_kind = frequencies
        self.num_heads, self.num_blocks = num_heads, num_blocks
        self.period_dtype, self.shift, self.jitter, self.rescale = period_dtype, shift, jitter, rescale
        if self.learned:
            checks.integer("num_heads", num_heads)
            checks.integer("num_blocks", num_blocks)
        self.seed = seed
        self.seed_generator = SeedGenerator(seed) if self.augments else None

    @staticmethod
    def check(coordinates, base, axes, offset, native_grid, frequencies, period_dtype, shift, jitter, rescale) -> None:
        """Raises a ValueError if an argument is out of range or two contradict each other."""
        checks.one_of("coordinates", coordinates, COORDINATES)
        checks.number("base", base, above=1.0)
        checks.one_of("axes", axes, AXES)
        checks.number("offset", offset)
        checks.one_of("frequencies", frequencies, FREQUENCIES)
        checks.one_of("period_dtype", period_dtype, PERIOD_DTYPES)
        if native_grid is not None:
            checks.positive_pair("native_grid", native_grid)
        for name, value, least in (("shift", shift, 0.0), ("jitter", jitter, 1.0), ("rescale", rescale, 1.0)):
            if value is not None:
                checks.number(name, value, least=least)
        if coordinates == "normalized" and (native_grid is not None or offset):
            raise ValueError(
                "`native_grid` and `offset` are for indices. "
                f"Received: coordinates='normalized', native_grid={native_grid}, offset={offset}"
            )
        if frequencies == "learned" and period_dtype != "float32":
            raise ValueError(f"Learned frequencies have no periods. Received: frequencies='learned', period_dtype={period_dtype!r}")

    @property
    def learned(self) -> bool:
        """Whether the frequencies are weights."""
        return self.frequencies_kind == "learned"

    @property
    def augments(self) -> bool:
        """Whether training changes the coordinates."""
        return not (self.shift is self.jitter is self.rescale is None)

    def build(self, patches_shape: tuple) -> None:
        if self.learned:
            # Not cast to half precision before use: far patches have large angles.
            self.frequencies = self.add_weight(
                name="frequencies",
                shape=(self.num_blocks, 2, self.num_heads, self.head_dim // 2),
                initializer=MixedFrequencies(self.base),
                autocast=False,
            )

    def call(self, patches: Any, block: int = 0, training: bool = False) -> Any:
        rows, columns = ops.shape(patches)[1:3]
        augments = training and self.augments
        static = isinstance(rows, int) and isinstance(columns, int) and not (augments or self.learned)
        xp: Any = np if static else ops  # the rotation of a known grid is a constant
        axes = [self._coordinates(xp, size, native) for size, native in zip((rows, columns), self.native_grid or (None, None))]
        if augments:
            axes = self._augment(axes)
        y, x = axes[0][:, None, None], axes[1][None, :, None]
        if self.learned:
            first, second = (y, x) if self.axes == "yx" else (x, y)
            f = ops.cast(self.frequencies[block], "float32")[:, :, None, None, :]
            angles = ops.reshape(first * f[0] + second * f[1], (self.num_heads, -1, self.head_dim // 2))
        else:
            shape = (rows, columns, self.head_dim // 4)
            y, x = (xp.broadcast_to(axis / self._periods(), shape) for axis in (y, x))
            angles = xp.reshape(xp.concatenate([y, x] if self.axes == "yx" else [x, y], axis=-1), (-1, self.head_dim // 2))
        return self._rotation(xp, angles)

    def _coordinates(self, xp, size, native):
        index = xp.arange(size, dtype="float32")
        if self.coordinates == "normalized":
            return 2.0 * np.pi * (2.0 * (index + 0.5) / _float(xp, size) - 1.0)
        index = index + self.offset
        return index if native is None else index / _float(xp, size) * float(native)

    def _augment(self, axes):
        """Returns the coordinates of both axes shifted, jittered and rescaled, in DINOv3's order."""

        def uniform(bound, count):
            return ops.unstack(keras.random.uniform((count,), -bound, bound, dtype="float32", seed=self.seed_generator), num=count)

        if self.shift is not None:
            unit = 2.0 * np.pi if self.coordinates == "normalized" else 1.0
            axes = [axis + unit * shift for axis, shift in zip(axes, uniform(self.shift, 2))]
        if self.jitter is not None:
            axes = [axis * ops.exp(factor) for axis, factor in zip(axes, uniform(np.log(self.jitter), 2))]
        if self.rescale is not None:
            (factor,) = uniform(np.log(self.rescale), 1)
            axes = [axis * ops.exp(factor) for axis in axes]
        return axes

    def _periods(self):
        count = self.head_dim // 4
        periods = np.float32(self.base) ** (np.arange(count, dtype="float32") / np.float32(count))
        return periods.astype(ml_dtypes.bfloat16).astype("float32") if self.period_dtype == "bfloat16" else periods

    def _rotation(self, xp, angles):
        prefix = (*angles.shape[:-2], self.num_prefix_tokens, self.head_dim // 2)
        cos = xp.concatenate([xp.ones(prefix, dtype="float32"), xp.cos(angles)], axis=-2)
        sin = xp.concatenate([xp.zeros(prefix, dtype="float32"), xp.sin(angles)], axis=-2)
        return ops.convert_to_tensor(xp.stack([xp.concatenate([cos, cos], axis=-1), xp.concatenate([-sin, sin], axis=-1)]))

    def compute_output_spec(self, patches: Any, block: int = 0, training: bool = False) -> keras.KerasTensor:
        rows, columns = patches.shape[1:3]
        tokens = None if rows is None or columns is None else self.num_prefix_tokens + rows * columns
        return keras.KerasTensor((2, *((self.num_heads,) if self.learned else ()), tokens, self.head_dim), dtype="float32")

    def get_config(self) -> dict[str, Any]:
        names = ("head_dim", "num_prefix_tokens", "coordinates", "base", "axes", "offset", "native_grid", "num_heads", "num_blocks")
        more = ("period_dtype", "shift", "jitter", "rescale", "seed")
        return {
            **super().get_config(),
            "frequencies": self.frequencies_kind,
            **{name: getattr(self, name) for name in (*names, *more)},
        }


def _float(xp, size):
    return np.float32(size) if isinstance(size, int) else ops.cast(size, "float32")


@keras.saving.register_keras_serializable(package="keras_vit")
class MixedFrequencies(keras.initializers.Initializer):
    """Initializes learned frequencies: each head rotates the two axes by a random angle of its own, as RoPE-ViT does.

    Args:
        base: float. The magnitudes are `base ** (-4 j / head_dim)`. Defaults to 10.0.
        seed: int or None. Seed of the initializer; None takes a random one. Defaults to None.
    """

    def __init__(self, base: float = 10.0, seed: int | None = None):
        self.base = base
        self.seed = seed
        self.each = keras.initializers.RandomUniform(seed=seed)

    def __call__(self, shape, dtype=None):
        blocks, _, heads, half = shape
        magnitudes = np.float32(self.base) ** (-np.arange(half // 2, dtype="float32") / np.float32(half // 2))
        angles = keras.random.uniform((blocks, heads, 1), 0.0, 2.0 * np.pi, dtype="float32", seed=self.each.seed)
        both = ops.concatenate([ops.zeros_like(angles), ops.full_like(angles, np.pi / 2)], axis=-1)
        turned = ops.repeat(angles + both, half // 2, axis=-1)
        magnitudes = ops.convert_to_tensor(np.concatenate([magnitudes, magnitudes]))
        return ops.cast(ops.stack([magnitudes * ops.cos(turned), magnitudes * ops.sin(turned)], axis=1), dtype or keras.config.floatx())

    def get_config(self) -> dict[str, Any]:
        return {"base": self.base, "seed": self.seed}
