"""The inputs of a model, images or patches (NaFlex), and the layers that embed them."""

import dataclasses
import math

import keras
import numpy as np

from keras_vit.layers import PatchEmbedding
from keras_vit.runtime import precision


def check_combinations(c):
    """Raises a ValueError for arguments that contradict `naflex`, `unit_feature` or `rotary`."""
    if c.rotary is not None and c.head_dim % 4:
        raise ValueError(
            "Rotary position embedding needs heads whose width is a multiple of 4. "
            f"Received: hidden_dim={c.hidden_dim}, num_heads={c.num_heads}"
        )
    if c.naflex:
        if lacking := [name for name in ("stem", "rotary", "token_merging", "patch_dropout_rate", "dynamic_padding") if getattr(c, name)]:
            raise ValueError(
                f"`naflex=True` does not support `{lacking[0]}`. Received: naflex=True, {lacking[0]}={getattr(c, lacking[0])!r}"
            )
    if c.unit_feature and c.distillation_token:
        raise ValueError("A model with two heads does not support `unit_feature`. Received: unit_feature=True, distillation_token=True")


def model_inputs(c):
    """Returns the symbolic input of a model, images; or, with `naflex`, a dict of its three inputs."""
    if not c.naflex:
        return keras.Input(c.input_shape, name="images")
    rows, columns = c.patch
    return {
        "patches": keras.Input((None, rows * columns * c.channels), name="patches"),
        "grid": keras.Input((2,), dtype="int32", name="grid"),
        "mask": keras.Input((None,), dtype="bool", name="mask"),
    }


def patches_of(c, policy, images):
    """Returns the embedded patches, `(batch, rows, columns, hidden_dim)` or, with `naflex`, `(batch, patches, hidden_dim)`."""
    x, full_precision = images, precision.full(policy)  # half precision would round pixels
    if c.data_format == "channels_first" and not c.naflex:
        x = keras.layers.Permute((2, 3, 1), dtype=full_precision, name="channels_last")(x)
    if c.include_preprocessing:
        mean, std = (np.tile(c.per_channel(key), math.prod(c.patch) if c.naflex else 1) for key in ("mean", "std"))
        x = keras.layers.Rescaling(1.0 / (255.0 * std), -mean / std, dtype=full_precision, name="preprocessing")(x)
    if c.stem is not None:
        x = c.stem.layer(**dataclasses.asdict(c.stem), name="stem", dtype=policy)(x)
    return PatchEmbedding(c.hidden_dim, c.patch_size, c.patch_bias, c.dynamic_padding, name="patch_embedding", dtype=policy)(x)


def rotations_of(c, policy, patches):
    """Returns a list of the rotations of queries and keys: empty, one for all blocks, or one for each block."""
    if c.rotary is None:
        return []
    rotary = c.rotary.layer(c.head_dim, c.num_prefix_tokens, c.num_heads, c.num_layers, name="rotary_position_embedding", dtype=policy)
    return [rotary(patches, block=i) for i in range(c.num_layers if c.rotary.learned else 1)]
