"""DINOv3 and EUPE under the names of Meta's own code: how they are written. eva.py reads them."""

from typing import Any

import numpy as np

from keras_vit.checkpoints.formats import dinov3, eva, rotary
from keras_vit.checkpoints.formats.mapping import File, lacking, renaming

NAME = "dinov3"
IS_FOLDER = True

ALLOWED: dict = {
    **dinov3.ALLOWED,
    "rotary": lambda rotary: bool(rotary) and dinov3.ALLOWED["rotary"](rotary),
    "norm_epsilon": (1e-5, 1e-6),
    "patch_size": lambda pair: pair[0] == pair[1],
}
RENAMES = [
    (r"^reg_token$", "storage_tokens"),
    (r"\.mlp\.fc1_g\.", ".mlp.w1."),
    (r"\.mlp\.fc1_x\.", ".mlp.w2."),
]


def lacks(a: dict[str, Any]) -> list[str]:
    """Returns the arguments of a model that Meta's DINOv3 does not support, a list of str such as "norm_first=False"."""
    gated = a["mlp"] == "swiglu"
    allowed = {**ALLOWED, "activation": ("silu" if gated else "gelu",)}
    return lacking(a, allowed)


def rows(a: dict[str, Any], **details: Any) -> list:
    """Returns the rows for a full set of arguments of `VisionTransformer`: those of eva.py."""
    return eva.rows(a, **details)


def file(a: dict[str, Any]) -> File:
    """Returns the `File` of Meta's DINOv3 with the full set of arguments `a`."""
    width, gated, masked = a["hidden_dim"], a["mlp"] == "swiglu", a["qkv_bias"] == "query_value"
    renames = RENAMES + ([(r"\.mlp\.fc2\.", ".mlp.w3.")] if gated else [])

    extra = {"mask_token": np.zeros((1, width), "float32"), "rope_embed.periods": rotary.periods(a["rotary"], width // a["num_heads"])}
    if masked:
        mask = np.concatenate([np.ones(width), np.zeros(width), np.ones(width)]).astype("float32")
        extra |= {f"blocks.{i}.attn.qkv.bias_mask": mask for i in range(a["num_layers"])}
    return File(a, renaming(renames), extra=extra, details=dict(split_gate=gated, apart=False, masked=masked))
