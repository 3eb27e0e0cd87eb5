"""Meta's own files of Perception Encoder: Core, Lang and Spatial. timm's files of the same models are in eva.py."""

from typing import Any

import numpy as np

from keras_vit.checkpoints.formats.mapping import (
    CONV,
    SAME,
    File,
    Layout,
    count,
    dense,
    image_sizes,
    lacking,
    norm,
    position_grid,
    position_row,
    row,
)
from keras_vit.checkpoints.formats.qkv import pooling_rows, qkv_rows
from keras_vit.presets import num_heads_of

NAME = "perception_encoder"
IS_FOLDER = True
ANCHOR = r"conv1\.weight"
FAMILY = r"(?!)"  # no family prefix
RENAMES = [(r"^logit_scale$|^text_projection$", "text")]
IGNORED = r"text|(transformer|token_embedding|ln_final|attn_mask).*"
ROTARY = dict(coordinates="index", base=10000.0, axes="xy", native_grid=None)


def recognizes(names: Any) -> bool:
    """Returns whether the tensors are Perception Encoder's: CLIP has the same names, a last normalization and no attention pooling."""
    tower = {"conv1.weight", "positional_embedding", "transformer.resblocks.0.attn.in_proj_weight"} <= set(names)
    return tower and ("attn_pool.probe" in names or "ln_post.weight" not in names) and "token_embedding.weight" not in names


def architecture(names: Any, shapes: dict, config: dict, overrides: dict, expected: dict) -> tuple[dict, dict]:
    """Returns the same as `timm.architecture`."""
    width, channels, *patch = shapes["conv1.weight"]
    layers = count(shapes, "transformer.resblocks.{}.ln_1.weight")
    hidden = shapes["transformer.resblocks.0.mlp.c_fc.weight"][0]
    class_token, pools = "class_embedding" in shapes, "attn_pool.probe" in shapes
    sizes = image_sizes(overrides, expected)
    prefix, grid = position_grid(
        shapes["positional_embedding"][0], (int(class_token),), tuple(patch), sizes, overrides.get("position_grid")
    )
    heads = overrides.get("num_heads") or expected.get("num_heads") or num_heads_of(width, layers, hidden)
    arguments = dict(
        input_shape=(*(side * p for side, p in zip(grid, patch)), channels),
        patch_size=patch[0] if patch[0] == patch[1] else tuple(patch),
        hidden_dim=width,
        num_layers=layers,
        num_heads=heads,
        mlp_dim=hidden,
        include_top=False,
        pooling="map" if pools else "gap",  # Lang and Spatial end with the tokens, and timm averages the patches
        pooling_num_heads=8 if pools else None,
        pooling_mlp_dim=shapes["attn_pool.mlp.c_fc.weight"][0] if pools else None,
        pooling_prefix_tokens=pools,
        representation_size=shapes["proj"][1] if "proj" in shapes else None,
        representation_activation="linear",
        representation_bias=False,
        class_token=class_token,
        prefix_positions=class_token,
        position_grid=grid,
        position_resample="bilinear",
        rotary={**ROTARY, "offset": 1.0 if class_token else 0.0},
        layer_scale_init=0.1 if "transformer.resblocks.0.ls_1.gamma" in shapes else None,
        patch_bias=False,
        norm_epsilon=1e-5,
        norm_embeddings=True,
        final_norm="ln_post.weight" in shapes,
        preprocessing={} if "preprocessing" in overrides else dict(interpolation="bilinear", crop_fraction=1.0, crop_mode="squash"),
    )
    return arguments, dict(assumed=("num_heads", "pooling_num_heads", "preprocessing"))


def rows(a: dict[str, Any]) -> list:
    """Returns the rows for a full set of arguments of `VisionTransformer`."""
    vector = Layout(lambda t: np.reshape(t, (1, 1, -1)), lambda t: np.reshape(t, (-1,)))
    table = [row("class_token/token", "class_embedding", vector)] if a["class_token"] else []
    table += [position_row(a, "positional_embedding", lead=())]
    table += dense("patch_embedding", "conv1", CONV, use_bias=False) + norm("embedding_norm", "ln_pre")
    for i in range(a["num_layers"]):
        ours, theirs = f"block_{i}", f"transformer.resblocks.{i}"
        table += norm(f"{ours}/norm1", f"{theirs}.ln_1") + norm(f"{ours}/norm2", f"{theirs}.ln_2")
        table += qkv_rows(a, f"{ours}/attention/qkv", f"{theirs}.attn.in_proj_weight", f"{theirs}.attn.in_proj_bias")
        table += dense(f"{ours}/attention/projection", f"{theirs}.attn.out_proj")
        table += dense(f"{ours}/mlp/fc1", f"{theirs}.mlp.c_fc") + dense(f"{ours}/mlp/fc2", f"{theirs}.mlp.c_proj")
        if a["layer_scale_init"] is not None:
            table += [row(f"{ours}/layer_scale{n}/gamma", f"{theirs}.ls_{n}.gamma") for n in (1, 2)]
    if a["final_norm"]:
        table += norm("norm", "ln_post")
    if a["pooling"] == "map":
        table += pooling_rows("attn_pool", "attn_pool.attn", "attn_pool.attn.out_proj", ("attn_pool.mlp.c_fc", "attn_pool.mlp.c_proj"))
    return table + ([row("pre_logits/kernel", "proj", SAME)] if a["representation_size"] else [])


# --- writing ---

ALLOWED = dict(
    stem=(None,),
    mlp=("mlp",),
    activation=("gelu",),
    qk_norm=(False,),
    qkv_bias=(True,),
    rotary=lambda rotary: True,
    patch_bias=(False,),
    norm_first=(True,),
    norm_epsilon=(1e-5,),
    norm_embeddings=(True,),
    norm_after_pooling=(False,),
    distillation_token=(False,),
    num_register_tokens=(0,),
    position_embedding=("learned",),
    include_top=(False,),
    final_norm=(False, True),
    pooling=("map", "gap", None),
    pooling_num_heads=lambda heads: True,
    pooling_mlp_dim=lambda width: True,
    pooling_prefix_tokens=(False, True),
    representation_activation=("linear", "tanh", None),
    representation_bias=(False, True),
)


def lacks(a: dict[str, Any]) -> list[str]:
    """Returns the arguments of a model that Perception Encoder's code does not support."""
    rotary = a.get("rotary") or {}
    offset = 1.0 if a["class_token"] else 0.0
    fixed = rotary.get("frequencies", "fixed") == "fixed"
    fits = fixed and all(rotary.get(key) == value for key, value in {**ROTARY, "offset": offset}.items())
    at_grid = fixed and {**rotary, "native_grid": None} == {**rotary, **ROTARY, "offset": offset} and rotary.get("native_grid") == _grid(a)
    pools = a["pooling"] == "map"
    rules = {
        f"rotary={a.get('rotary')}": not (fits or at_grid),
        "prefix_positions=False": a["class_token"] and not a["prefix_positions"],
        "a pooling with other than 8 heads": pools and (a["pooling_num_heads"] or a["num_heads"]) != 8,
        "pooling of the patches alone": pools and a["class_token"] and not a["pooling_prefix_tokens"],
        "representation_bias=True": a["representation_size"] and a["representation_bias"],
        "representation_activation": a["representation_size"] and a["representation_activation"] == "tanh",
        "representation_size without pooling": a["representation_size"] and not pools,
    }
    return lacking(a, ALLOWED) + [rule for rule, broken in rules.items() if broken]


def _grid(a):
    return tuple(a["position_grid"])


def file(a: dict[str, Any]) -> File:
    """Returns the `File` of a Perception Encoder with the full set of arguments `a`."""
    return File({**a, "prefix_positions": a["class_token"]}, lambda name: name)
