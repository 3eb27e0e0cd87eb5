"""Position embeddings, learned or of sines and cosines, that fit themselves to the grid."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.layers import checks
from keras_vit.layers.resampling import check_method, resample_grid

KINDS = ("learned", "sincos2d", "sincos2d_mae")


@keras.saving.register_keras_serializable(package="keras_vit")
class PositionEmbedding(keras.layers.Layer):
    """Adds to each token the embedding of its position in the grid of patches.

    The weights of the learned kind are `table` (rows, columns, D) and, with entries for prefix tokens, `prefix_table`
    (num_prefix_tokens, D). The table is resampled if it is loaded from another grid, or if the layer is called on another grid. The two
    kinds of sines and cosines have no weights, and are computed for the grid of the input.

    Args:
        kind: str. "learned"; "sincos2d", as in big_vision and MoCo v3; or "sincos2d_mae", as in MAE, which divides the exponents of the
            frequencies by D / 4 rather than D / 4 - 1. Defaults to "learned".
        num_prefix_tokens: int. Number of tokens in front that are not patches and have their own entries. Defaults to 0.
        grid_size: pair of ints or None. Rows and columns of the table; None takes the grid that the layer is built on. Defaults to None.
        resample: str. How the table is resampled to another grid: a key of `layers.resampling.METHODS`. Defaults to
            "bicubic_antialias".

    Call arguments:
        tokens: tensor of shape `(batch, num_prefix_tokens + rows * columns, D)`.
        patches: tensor of shape `(batch, rows, columns, ...)`, the output of PatchEmbedding. Only its grid is read.

    Output shape: that of `tokens`.

    Raises:
        ValueError: if `kind` or `resample` is unknown, if the width of sines and cosines is not a multiple of 4, or if no grid is known.

    Reference:
        Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, equation 1; Beyer et al., "Better plain ViT baselines for
        ImageNet-1k", 2022; He et al., "Masked Autoencoders Are Scalable Vision Learners", 2021.

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

    def build(self, tokens_shape: tuple, patches_shape: tuple) -> None:
        width = tokens_shape[-1]
        if self.kind != "learned":
            if width % 4:
                raise ValueError(f"Sines and cosines of two axes need a `hidden_dim` that is a multiple of 4. Received: hidden_dim={width}")
            return
        grid = self.grid_size or tuple(patches_shape[1:3])
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

    def call(self, tokens: Any, patches: Any) -> Any:
        width = tokens.shape[-1]
        grid = ops.shape(patches)[1:3]
        if self.kind == "learned":
            same = tuple(patches.shape[1:3]) == tuple(self.table.shape[:2])
            on_grid = self.table if same else resample_grid(self.table, grid, self.resample)
            prefix = self.prefix_table if self.num_prefix_tokens else None
        else:
            on_grid = sincos2d(grid, width, last_exponent=1.0 if self.kind == "sincos2d" else 1.0 - 4.0 / width)
            prefix = ops.zeros((self.num_prefix_tokens, width)) if self.num_prefix_tokens else None
        positions = ops.reshape(on_grid, (-1, width))
        if prefix is not None:
            positions = ops.concatenate([prefix, positions], axis=0)
        return tokens + ops.cast(positions, tokens.dtype)

    def compute_output_shape(self, tokens_shape: tuple, patches_shape: tuple) -> tuple:
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


def sincos2d(grid: tuple, width: int, last_exponent: float, temperature: float = 10000.0) -> Any:
    """Returns the table of sin x, cos x, sin y and cos y, each at width / 4 frequencies, of shape `(rows, columns, width)`."""
    static = all(isinstance(size, int) for size in grid)
    xp, real = (np, np.float64) if static else (ops, "float32")
    omega = temperature ** -np.linspace(0.0, last_exponent, width // 4)
    y, x = (xp.expand_dims((xp.arange(size) if static else ops.cast(ops.arange(size), real)), -1) * omega.astype(real) for size in grid)
    y, x = (xp.concatenate([xp.sin(angle), xp.cos(angle)], axis=-1) for angle in (y, x))
    shape = (*grid, width // 2)
    table = xp.concatenate([xp.broadcast_to(x[None, :, :], shape), xp.broadcast_to(y[:, None, :], shape)], axis=-1)
    return ops.convert_to_tensor(table.astype("float32")) if static else table
