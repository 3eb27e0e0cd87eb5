"""DINOv3 and EUPE under the names of Meta's own code: how they are written. eva.py reads them."""

import re
from typing import Any

import numpy as np

from keras_vit.checkpoints.formats import eva, rotary
from keras_vit.checkpoints.formats.mapping import File, lacking

NAME = "dinov3"
IS_FOLDER = True

ALLOWED: dict = dict(
    rotary=lambda rotary: bool(rotary) and {**rotary, **FIXED} == rotary,
    position_embedding=("none",),
    class_token=(True,),
    distillation_token=(False,),
    include_top=(False,),
    pooling=("token", None),
    representation_size=(None,),
    layer_scale_init=lambda init: init is not None,
    norm_first=(True,),
    norm_epsilon=(1e-5, 1e-6),
    norm_embeddings=(False,),
    norm_after_pooling=(False,),
    patch_bias=(True,),
    patch_size=lambda pair: pair[0] == pair[1],
    stem=(None,),
    qk_norm=(False,),
)
FIXED = dict(coordinates="normalized", axes="yx", frequencies="fixed")
RENAMES = [
    (r"^reg_token$", "storage_tokens"),
    (r"\.mlp\.fc1_g\.", ".mlp.w1."),
    (r"\.mlp\.fc1_x\.", ".mlp.w2."),
]


def lacks(a: dict[str, Any]) -> list[str]:
    """Returns the arguments of a model that Meta's DINOv3 does not support, a list of str such as "norm_first=False"."""
    gated = a["mlp"] == "swiglu"
    wrong = a["activation"] != ("silu" if gated else "gelu")
    return lacking(a, ALLOWED) + [f"activation={a['activation']!r} with mlp={a['mlp']!r}"] * wrong


def rows(a: dict[str, Any], **details: Any) -> list:
    """Returns the rows for a full set of arguments of `VisionTransformer`: those of eva.py."""
    return eva.rows(a, **details)


def file(a: dict[str, Any]) -> File:
    """Returns the `File` of Meta's DINOv3 with the full set of arguments `a`."""
    width, gated, masked = a["hidden_dim"], a["mlp"] == "swiglu", a["qkv_bias"] == "query_value"
    renames = RENAMES + ([(r"\.mlp\.fc2\.", ".mlp.w3.")] if gated else [])

    def key(name):
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        return name

    extra = {"mask_token": np.zeros((1, width), "float32"), "rope_embed.periods": rotary.periods(a["rotary"], width // a["num_heads"])}
    if masked:
        mask = np.concatenate([np.ones(width), np.zeros(width), np.ones(width)]).astype("float32")
        extra |= {f"blocks.{i}.attn.qkv.bias_mask": mask for i in range(a["num_layers"])}
    return File(a, key, extra=extra, details=dict(split_gate=gated, apart=False, masked=masked))
