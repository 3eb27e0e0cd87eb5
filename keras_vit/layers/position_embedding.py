"""Position embeddings, learned or of sines and cosines, that fit themselves to the grid."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.layers import checks
from keras_vit.layers.resampling import check_method, interpolation_weights, resample_grid

KINDS = ("learned", "sincos2d", "sincos2d_mae", "sincos1d")


@keras.saving.register_keras_serializable(package="keras_vit")
class PositionEmbedding(keras.layers.Layer):
    """Adds to each token the embedding of its position in the grid of patches.

    The weights of the learned kind are `table` (rows, columns, D) and, with entries for prefix tokens, `prefix_table`
    (num_prefix_tokens, D). The table is resampled if it is loaded from another grid, or if the layer is called on another grid. The
    kinds of sines and cosines have no weights, and are computed for the input.

    Args:
        kind: str. "learned"; "sincos2d", as in big_vision and MoCo v3; "sincos2d_mae", as in MAE, which divides the exponents of the
            frequencies by D / 4 rather than D / 4 - 1; or "sincos1d", as in the original Transformer, by the place of a token in the
            sequence, prefix tokens included, whatever the grid. Defaults to "learned".
        num_prefix_tokens: int. Number of tokens in front that are not patches and have their own entries. Defaults to 0.
        grid_size: pair of ints or None. Rows and columns of the table; None takes the grid that the layer is built on. Defaults to None.
        resample: str. How the table is resampled to another grid: a key of `layers.resampling.METHODS`. Defaults to
            "bicubic_antialias".

    Call arguments:
        tokens: tensor of shape `(batch, num_prefix_tokens + rows * columns, D)`.
        patches: tensor of shape `(batch, rows, columns, ...)`, the output of PatchEmbedding. Only its grid is read. Defaults to None.
        grid: int tensor of shape `(batch, 2)` in place of `patches`: rows and columns of each sample, whose patches are the first
            `rows * columns` of its sequence, row by row; the others are padding. Defaults to None.

    Output shape: that of `tokens`.

    Raises:
        ValueError: if `kind` or `resample` is unknown, if D is not a multiple of 4 for sines and cosines of two axes, or is odd for those
            of one, or if no grid is known.

    Reference:
        Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, equation 1; Beyer et al., "Better plain ViT baselines for
        ImageNet-1k", 2022; He et al., "Masked Autoencoders Are Scalable Vision Learners", 2021; Vaswani et al., "Attention Is All You
        Need", 2017, section 3.5.

    Example:
    >>> positions = keras_vit.layers.PositionEmbedding("sincos2d")
    >>> positions(keras.ops.zeros((1, 6, 8)), keras.ops.zeros((1, 2, 3, 8))).shape
    (1, 6, 8)
    """

    def __init__(
        self,
        kind: str = "learned",
        num_prefix_tokens: int = 0,
        grid_size: tuple[int, int] | None = None,
        resample: str = "bicubic_antialias",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.kind = checks.one_of("kind", kind, KINDS)
        self.num_prefix_tokens = checks.integer("num_prefix_tokens", num_prefix_tokens, least=0)
        self.grid_size = None if grid_size is None else checks.positive_pair("grid_size", grid_size)
        self.resample = check_method(resample)

    def build(self, tokens_shape: tuple, patches_shape: tuple | None = None, grid_shape: tuple | None = None) -> None:
        width = tokens_shape[-1]
        if self.kind == "sincos1d" and width % 2:
            raise ValueError(f"Sines and cosines need an even `hidden_dim`. Received: hidden_dim={width}")
        if self.kind != "learned":
            if self.kind != "sincos1d" and width % 4:
                raise ValueError(f"Sines and cosines of two axes need a `hidden_dim` that is a multiple of 4. Received: hidden_dim={width}")
            return
        grid = self.grid_size or (tuple(patches_shape[1:3]) if patches_shape else (None, None))
        if None in grid:
            raise ValueError(
                f"Learned positions need `grid_size` if the size of the image is unknown. Received: grid_size={self.grid_size}"
            )
        self.table = self._add_table("table", (*grid, width))
        if self.num_prefix_tokens:
            self.prefix_table = self._add_table("prefix_table", (self.num_prefix_tokens, width))

    def _add_table(self, name, shape):
        # Not cast to half precision before use, so that resampling loses nothing.
        return self.add_weight(name=name, shape=shape, initializer=keras.initializers.RandomNormal(stddev=0.02), autocast=False)

    def call(self, tokens: Any, patches: Any = None, grid: Any = None) -> Any:
        if self.kind == "sincos1d":
            return tokens + ops.cast(sincos1d(ops.shape(tokens)[1], tokens.shape[-1]), tokens.dtype)
        if grid is not None:
            return self._by_sample(tokens, grid)
        width = tokens.shape[-1]
        _, *sides, _ = ops.shape(patches)
        grid = tuple(sides)
        if self.kind == "learned":
            same = tuple(patches.shape[1:3]) == tuple(self.table.shape[:2])
            on_grid = self.table if same else resample_grid(self.table, grid, self.resample)
            prefix = self.prefix_table if self.num_prefix_tokens else None
        else:
            on_grid = sincos2d(grid, width, self._last_exponent(width))
            prefix = ops.zeros((self.num_prefix_tokens, width)) if self.num_prefix_tokens else None
        positions = ops.reshape(on_grid, (-1, width))
        if prefix is not None:
            positions = ops.concatenate([prefix, positions], axis=0)
        return tokens + ops.cast(positions, tokens.dtype)

    def _by_sample(self, tokens, grid):
        """Adds the positions of samples that each have a grid of their own."""
        (batch, length, width), prefix = ops.shape(tokens), self.num_prefix_tokens
        rows, columns = (ops.maximum(grid[:, axis : axis + 1], 1) for axis in (0, 1))
        index = ops.arange(length - prefix, dtype=grid.dtype)[None]
        y, x = ops.minimum(index // columns, rows - 1), index % columns  # of padding, too, the place is within the grid
        if self.kind == "learned":
            old = self.table.shape[:2]
            moved = ops.cast(ops.logical_or(rows != old[0], columns != old[1]), "float32")
            pairs = ((old[0], y, rows), (old[1], x, columns))
            from_rows, from_columns = (interpolation_weights(size, at, new, self.resample, moved) for size, at, new in pairs)
            # One matrix product with the whole table. Apart, the two would make a table of each sample, of a size that none knows.
            weights = ops.reshape(from_rows[..., :, None] * from_columns[..., None, :], (batch, -1, old[0] * old[1]))
            positions = ops.matmul(weights, ops.reshape(self.table, (-1, width)))
            first = self.prefix_table if prefix else None
        else:
            positions = _sincos(ops, *(ops.cast(at, "float32") for at in (y, x)), width, self._last_exponent(width))
            first = ops.zeros((prefix, width)) if prefix else None
        if first is not None:
            positions = ops.concatenate([ops.broadcast_to(first, (batch, prefix, width)), positions], axis=1)
        return tokens + ops.cast(positions, tokens.dtype)

    def _last_exponent(self, width):
        return 1.0 if self.kind == "sincos2d" else 1.0 - 4.0 / width

    def compute_output_shape(self, tokens_shape: tuple, patches_shape: tuple | None = None, grid_shape: tuple | None = None) -> tuple:
        return tokens_shape

    def load_own_variables(self, store: Any) -> None:
        table = np.asarray(store["0"]) if self.kind == "learned" else None
        if table is not None and table.ndim == 3 and table.shape[:2] != tuple(self.table.shape[:2]):
            store = {**{key: store[key] for key in store.keys()}, "0": resample_grid(table, self.table.shape[:2], self.resample)}
        super().load_own_variables(store)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "kind": self.kind,
            "num_prefix_tokens": self.num_prefix_tokens,
            "grid_size": self.grid_size,
            "resample": self.resample,
        }


def sincos1d(length: Any, width: int, temperature: float = 10000.0) -> Any:
    """Returns the table of the original Transformer, of shape `(length, width)`: sines in even columns, cosines in odd ones."""
    omega = (temperature ** (-np.arange(0, width, 2) / width)).astype("float32")
    angles = ops.cast(ops.arange(length), "float32")[:, None] * omega
    return ops.reshape(ops.stack([ops.sin(angles), ops.cos(angles)], axis=-1), (-1, width))


def sincos2d(grid: tuple, width: int, last_exponent: float, temperature: float = 10000.0) -> Any:
    """Returns the table of sin x, cos x, sin y and cos y, each at width / 4 frequencies, of shape `(rows, columns, width)`."""
    static = all(isinstance(size, int) for size in grid)
    y, x = ((np.arange(size, dtype="float64") if static else ops.cast(ops.arange(size), "float32")) for size in grid)
    table = _sincos(np if static else ops, y[:, None], x[None, :], width, last_exponent, temperature)
    return ops.convert_to_tensor(table.astype("float32")) if static else table


def _sincos(xp, y, x, width, last_exponent, temperature=10000.0):
    """Returns sin x, cos x, sin y and cos y for floats `y` and `x` that broadcast to a shape, `(*shape, width)`."""
    omega = temperature ** -np.linspace(0.0, last_exponent, width // 4)
    omega = omega if xp is np else omega.astype("float32")
    y, x = (xp.expand_dims(at, -1) * omega for at in (y, x))
    parts = [xp.sin(x), xp.cos(x), xp.sin(y), xp.cos(y)]
    shape = xp.shape(parts[0] + parts[2]) if xp is np else ops.shape(x + y)
    return xp.concatenate([xp.broadcast_to(part, shape) for part in parts], axis=-1)
