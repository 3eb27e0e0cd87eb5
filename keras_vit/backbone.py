"""The Vision Transformer within a model, and its feature maps for dense tasks."""

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
    """Returns the `VisionTransformer` that a model is, or holds among its layers.

    Args:
        model: a `VisionTransformer`, or a Keras model, such as a Sequential, that calls one.
        argument: str. Name of the caller's argument, for the error.
        optional: bool. Whether None is returned, and nothing raised, if there is none. Defaults to False.

    Returns:
        The `VisionTransformer`.

    Raises:
        ValueError: if there is none and it is not optional, or if there is more than one.

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
    what = f"a {type(model).__name__}" + (f" that holds {len(found)} of them" if found else "")
    hint = ""
    if not found and isinstance(model, keras.Model):
        hint = ". A model made of its layers, as `keras.Model(vit.input, ...)`, does not hold it: call the model, `vit(images)`, instead"
    raise ValueError(f"`{argument}` must be a VisionTransformer, or a model that holds one. Received: {what}{hint}")


def of_images(model: VisionTransformer) -> VisionTransformer:
    """Returns a model that takes images, or raises a ValueError for one that takes patches (`naflex=True`)."""
    if model.config.naflex:
        raise ValueError("The model must take images: `model.adapt(naflex=False)`. Received: a model of patches, naflex=True")
    return model


def feature_maps(model: keras.Model, blocks: Sequence[int] | None = None, norm: bool = True) -> keras.Model:
    """Returns a model whose outputs are the patch tokens of some blocks as maps, for dense tasks.

    Args:
        model: a `VisionTransformer`, or a model that holds one. Its weights are shared, not copied.
        blocks: sequence of ints. Blocks whose outputs are returned, counted from 0, or from the end
            if negative. Defaults to None, the last block.
        norm: bool. Whether the maps go through the model's last normalization, as the intermediate
            features of DINOv2 and timm do. Defaults to True.

    Returns:
        A `keras.Model` with an output of shape `(batch, rows, columns, hidden_dim)` for each block,
        in a list if there are several.

    Raises:
        ValueError: if a block does not exist, or the model holds no `VisionTransformer`.

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
    """Returns a faster model whose blocks merge similar patch tokens. It needs no training.

    Each block merges its `r` most similar patches, by their keys, and attention counts a merged token as often as it has patches. ViT-B/16
    at 224 pixels with `r=13` computes half of the tokens on average. Class, distillation and register tokens are never merged. Pooling
    and feature maps find each patch at its place, with the token that it was merged into. `r=0` gives the model's own outputs.

    The new model can be saved, loaded and adapted; `model.adapt(token_merging=None)` merges no more. Pictures of attention
    (`keras_vit.visualize`) need a model that does not merge.

    Args:
        model: `VisionTransformer`. It is not changed.
        r: int, number of tokens that each block merges, but at most half of the patches that are left; or a sequence of ints, one for each
            block, such as a falling one, which is faster at the same mean. Images of another size merge as many.

    Returns:
        A `VisionTransformer` with copies of the weights, not compiled.

    Raises:
        ValueError: if `model` is no `VisionTransformer`, or `r` is negative or has more entries than there are blocks.

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
    """Returns the symbolic tokens behind a block, `(batch, tokens, D)`; merged tokens stand at each of their patches."""
    outputs = model.get_layer(f"block_{block}").output
    return UnmergeTokens()(*outputs) if isinstance(outputs, (list, tuple)) else outputs


def check_blocks(blocks, count):
    """Returns the numbers of blocks, counted from 0, for a sequence in which they may also be counted from the end."""
    if not isinstance(blocks, (list, tuple, range)) or not blocks or not all(i in range(-count, count) for i in blocks):
        raise ValueError(f"`blocks` must be a sequence of ints between {-count} and {count - 1}. Received: blocks={blocks!r}")
    return [i % count for i in blocks]


@keras.saving.register_keras_serializable(package="keras_vit")
class PatchMap(keras.layers.Layer):
    """Drops the prefix tokens and lays the patch tokens out on their grid.

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
