"""Finds the Vision Transformer in a model, and builds models from it: feature maps for dense tasks, and token merging."""

from collections.abc import Sequence
from typing import overload

import keras
from keras import ops

from keras_vit.layers import UnmergeTokens
from keras_vit.vision_transformer import VisionTransformer


@overload
def find_vision_transformer(model: keras.Model, argument: str = "model") -> VisionTransformer: ...
@overload
def find_vision_transformer(model: keras.Model, argument: str = "model", *, optional: bool) -> VisionTransformer | None: ...
def find_vision_transformer(model: keras.Model, argument: str = "model", *, optional: bool = False) -> VisionTransformer | None:
    """Returns the `VisionTransformer` that a model is, or has among its layers.

    Args:
        model: a `VisionTransformer`, or a Keras model, such as a Sequential, that contains one.
        argument: str. Name of the caller's argument, for the error. Defaults to "model".
        optional: bool. Whether to return None, instead of raising an error, if the model contains none. Defaults to False.

    Returns:
        The `VisionTransformer`.

    Raises:
        ValueError: if the model contains none and `optional` is False, or more than one.

    Example:
    >>> vit = keras_vit.VisionTransformer((32, 32, 3), 8, 64, 2, 4, 128, include_top=False)
    >>> find_vision_transformer(keras.Sequential([vit, keras.layers.Dense(3)])) is vit
    True
    """
    layers = model._flatten_layers() if isinstance(model, keras.Layer) else ()
    found = [layer for layer in layers if isinstance(layer, VisionTransformer)]
    if len(found) == 1:
        return found[0]
    if not found and optional:
        return None
    what = f"a {type(model).__name__}" + (f" that contains {len(found)} of them" if found else "")
    hint = ""
    if not found and isinstance(model, keras.Model):
        hint = (
            ". A model built from its layers, as `keras.Model(vit.input, ...)`, does not contain it: call the model, `vit(images)`, instead"
        )
    raise ValueError(f"`{argument}` must be a VisionTransformer, or a model that contains one. Received: {what}{hint}")


def of_images(model: VisionTransformer) -> VisionTransformer:
    """Returns `model`, or raises a ValueError if it takes patches and not images (`naflex=True`)."""
    if model.config.naflex:
        raise ValueError("The model must take images: `model.adapt(naflex=False)`. Received: a model of patches, naflex=True")
    return model


def feature_maps(model: keras.Model, blocks: Sequence[int] | None = None, norm: bool = True) -> keras.Model:
    """Returns a model whose outputs are the patch tokens of some blocks as maps, for dense tasks.

    Args:
        model: a `VisionTransformer`, or a model that contains one. Its weights are shared, not copied.
        blocks: sequence of ints. Blocks whose outputs are returned, counted from 0, or from the end
            if negative. Defaults to None, the last block.
        norm: bool. Whether to apply the model's last normalization to the maps, as DINOv2 and timm
            do for intermediate features. Defaults to True.

    Returns:
        A `keras.Model` with an output of shape `(batch, rows, columns, hidden_dim)` for each block,
        in a list if there are several.

    Raises:
        ValueError: if a block does not exist, or the model contains no `VisionTransformer`.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 48, 3), 8, 64, 4, 4, 128)
    >>> maps = keras_vit.feature_maps(model, blocks=(1, 3))(keras.ops.ones((2, 32, 48, 3)))
    >>> [map.shape for map in maps]
    [(2, 4, 6, 64), (2, 4, 6, 64)]
    """
    model = of_images(find_vision_transformer(model))
    count = model.config.num_layers
    blocks = (count - 1,) if blocks is None else blocks
    numbers = check_blocks(blocks, count)
    patches = model.get_layer("patch_embedding").output
    to_map = PatchMap(model.num_prefix_tokens, name="patch_map")
    maps = []
    for i in numbers:
        tokens = tokens_after(model, i)
        maps.append(to_map(model.get_layer("norm")(tokens) if norm else tokens, patches))
    return keras.Model(model.input, maps if len(maps) > 1 else maps[0], name=f"{model.name}_feature_maps")


def merge_tokens(model: VisionTransformer, r: int | Sequence[int]) -> VisionTransformer:
    """Returns a faster model whose blocks merge similar patch tokens. No training is needed.

    Each block merges the `r` patches with the most similar keys. Attention counts a merged token as often as it has patches. With `r=13`,
    ViT-B/16 at 224 pixels computes half of the tokens on average. Class, distillation and register tokens are never merged. For pooling
    and feature maps, each patch gets the token that it was merged into. With `r=0` the outputs do not change.

    The new model can be saved, loaded and adapted. `model.adapt(token_merging=None)` turns merging off. Pictures of attention
    (`keras_vit.visualize`) need a model without merging.

    Args:
        model: `VisionTransformer`. It is not changed.
        r: int or sequence of ints. Number of tokens that each block merges, at most half of the remaining patches; or a number for each
            block. At the same mean, numbers that decrease from block to block are faster. The numbers are the same for all image sizes.

    Returns:
        A `VisionTransformer` with copies of the weights, not compiled.

    Raises:
        ValueError: if `model` is not a `VisionTransformer`, or `r` is negative or has more entries than there are blocks.

    Reference:
        Bolya et al., "Token Merging: Your ViT But Faster", 2023.

    Example:
    >>> model = keras_vit.VisionTransformer((64, 64, 3), 8, 64, 2, 4, 128)
    >>> faster = keras_vit.merge_tokens(model, r=16)
    >>> faster.get_layer("block_1").output[0].shape
    (None, 33, 64)
    """
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"`model` must be a VisionTransformer. Received: a {type(model).__name__}")
    r = tuple(r) if isinstance(r, Sequence) else r
    return model.adapt(token_merging=r, **({"remat": False} if model.config.remat else {}))


def tokens_after(model: VisionTransformer, block: int) -> keras.KerasTensor:
    """Returns the symbolic tokens after a block, `(batch, tokens, D)`. Merged tokens are repeated for each of their patches."""
    outputs = model.get_layer(f"block_{block}").output
    return UnmergeTokens()(*outputs) if isinstance(outputs, (list, tuple)) else outputs


def check_blocks(blocks, count):
    """Returns the numbers of blocks, counted from 0. In `blocks`, negative numbers are counted from the end."""
    if not isinstance(blocks, (list, tuple, range)) or not blocks or not all(i in range(-count, count) for i in blocks):
        raise ValueError(f"`blocks` must be a sequence of ints between {-count} and {count - 1}. Received: blocks={blocks!r}")
    return [i % count for i in blocks]


@keras.saving.register_keras_serializable(package="keras_vit")
class PatchMap(keras.layers.Layer):
    """Drops the prefix tokens and reshapes the patch tokens to their grid.

    Args:
        num_prefix_tokens: int. Number of tokens to drop, the first ones.

    Call arguments:
        tokens: `(batch, num_prefix_tokens + rows * columns, D)`.
        patches: `(batch, rows, columns, ...)`. Only its grid is read.

    Output shape: `(batch, rows, columns, D)`.
    """

    def __init__(self, num_prefix_tokens, **kwargs):
        super().__init__(**kwargs)
        self.num_prefix_tokens = num_prefix_tokens

    def call(self, tokens, patches):
        batch, rows, columns = ops.shape(patches)[:3]  # pyright: ignore[reportOptionalSubscript] (Keras declares no result)
        return ops.reshape(tokens[:, self.num_prefix_tokens :], (batch, rows, columns, tokens.shape[-1]))

    def compute_output_shape(self, tokens_shape, patches_shape):
        return (*patches_shape[:3], tokens_shape[-1])

    def get_config(self):
        return {**super().get_config(), "num_prefix_tokens": self.num_prefix_tokens}
