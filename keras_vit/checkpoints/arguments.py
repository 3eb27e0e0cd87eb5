"""The arguments of a model as other libraries' formats ask for them."""

import numpy as np

from keras_vit.config import ViTConfig
from keras_vit.layers import checks


def all_arguments(model):
    """Returns all arguments of a model as a dict, with the image size, the grid of positions and the defaults filled in."""
    a = model.config.to_dict()
    shape = a["input_shape"]
    *size, channels = (*shape[1:], shape[0]) if a["data_format"] == "channels_first" else shape
    stride = model.config.stride
    patch = checks.positive_pair("patch_size", a["patch_size"])
    if None in size:
        # A model of unknown image size is written with the size of its positions.
        table = model.get_layer("position_embedding").table if a["position_embedding"] == "learned" else None
        size = [stride * p * n for p, n in zip(patch, table.shape)] if table is not None else [224, 224]
    elif any(side % (stride * p) for side, p in zip(size, patch)):
        raise ValueError(
            f"Other formats have no model that can pad its images. Received: input_shape={shape}, patch_size={a['patch_size']}"
        )
    a |= dict(input_shape=(*size, channels), data_format="channels_last", patch_size=patch)
    own = model.config.table_grid if a["naflex"] and a["position_embedding"] == "learned" else None  # any other is resampled
    a["position_grid"] = own or ViTConfig.from_dict({**a, "position_grid": None, "class_names": None}).grid_size
    a["activation"] = a["activation"] or ("silu" if a["mlp"] == "swiglu" else "gelu")
    # Each token is normalized by itself, so it makes no difference whether a token is picked before or after.
    a["norm_after_pooling"] = a["norm_after_pooling"] and a["pooling"] in ("gap", "map")
    # Arguments of layers that the model lacks make no difference.
    same = {"pooling_num_heads": a["num_heads"], "pooling_mlp_dim": a["mlp_dim"]}
    a |= {key: None for key, value in same.items() if a["pooling"] != "map" or a[key] == value}
    a["pooling_prefix_tokens"] = a["pooling_prefix_tokens"] and a["pooling"] == "map"
    if not a["representation_size"]:
        a |= {"representation_activation": "tanh", "representation_bias": True}
    a["preprocessing"] = {**model.preprocessing, **{key: _per_channel(model.preprocessing[key], channels) for key in ("mean", "std")}}
    return a


def _per_channel(values, channels):
    values = np.atleast_1d(values).tolist()
    return values if len(values) == channels else [float(np.mean(values))] * channels
