"""Models of patches (NaFlex) as timm's class `NaFlexVit` has them: how they are written. timm.py reads them."""

import re
from typing import Any

from keras_vit.checkpoints.formats.mapping import File, lacking, square
from keras_vit.checkpoints.formats.preprocessing import timm_config

METHODS = {"bilinear_antialias": "bilinear", "bicubic_antialias": "bicubic"}
POOLINGS = {"token": "token", "gap": "avg", "map": "map"}
ALLOWED: dict = dict(
    naflex=(True,),
    stem=(None,),
    mlp=("mlp",),
    activation=("gelu", "gelu_tanh", "quick_gelu", "relu"),
    norm_first=(True,),
    norm_epsilon=(1e-6,),
    norm_embeddings=(False,),
    patch_bias=(True,),
    distillation_token=(False,),
    representation_size=(None,),
    pooling=tuple(POOLINGS),
    position_embedding=("learned",),
    position_resample=tuple(METHODS),
    patch_size=lambda pair: pair[0] == pair[1],
)


def needed(a: dict[str, Any]) -> bool:
    """Returns whether a model is written as timm's `NaFlexVit`, if at all."""
    return a["naflex"]


def lacks(a: dict[str, Any]) -> list[str]:
    """Returns the arguments of a model that timm's `NaFlexVit` does not support."""
    return lacking(a, ALLOWED)


def file(a: dict[str, Any]) -> File:
    """Returns the `File` of timm's `NaFlexVit` with the full set of arguments `a`."""
    ratio = a["mlp_dim"] / a["hidden_dim"]
    model_args = dict(
        in_chans=a["input_shape"][2],
        num_classes=a["num_classes"] if a["include_top"] else 0,
        patch_size=square(a["patch_size"]),
        embed_dim=a["hidden_dim"],
        depth=a["num_layers"],
        num_heads=a["num_heads"],
        mlp_ratio=ratio if int(a["hidden_dim"] * ratio) == a["mlp_dim"] else (a["mlp_dim"] + 0.5) / a["hidden_dim"],
        qkv_bias=bool(a["qkv_bias"]),
        qk_norm=a["qk_norm"],
        init_values=a["layer_scale_init"],
        class_token=a["class_token"],
        reg_tokens=a["num_register_tokens"],
        pos_embed_grid_size=list(a["position_grid"]),
        pos_embed_interp_mode=METHODS[a["position_resample"]],
        act_layer=a["activation"],
        global_pool=POOLINGS[a["pooling"]],
        fc_norm=a["norm_after_pooling"],
    )

    def key(name):
        name = re.sub(r"^(pos_embed|cls_token|reg_token)$", r"embeds.\1", re.sub(r"^patch_embed\.", "embeds.", name))
        return f"fc_{name}" if name.startswith("norm.") and a["norm_after_pooling"] else name

    config = timm_config(a, "naflexvit_base_patch16_siglip", model_args, "embeds.proj")
    arguments = {**a, "prefix_positions": False, "qkv_bias": bool(a["qkv_bias"])}
    return File(arguments, key, {"config.json": config})
