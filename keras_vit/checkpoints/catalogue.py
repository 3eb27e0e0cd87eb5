"""The published weights: what there is for each preset, and where."""

import difflib
import os
from typing import NamedTuple


class Weights(NamedTuple):
    """One published checkpoint of a preset."""

    model: str
    tag: str
    source: str


CATALOGUE = [
    Weights("ViTB16", "augreg2_in21k_ft_in1k", "hf://timm/vit_base_patch16_224.augreg2_in21k_ft_in1k"),
]


def list_weights(model):
    return [weights for weights in CATALOGUE if weights.model == model]


def source(model, weights):
    """Returns the keyword arguments `source`, `sha256` and `size` of `pretrained.load` for the `weights` argument of a preset."""
    found = [row for row in list_weights(model) if row.tag == weights]
    if found:
        return {"source": found[0].source}
    weights = os.fspath(weights)
    if (
        "/" in weights
        or "\\" in weights
        or os.path.exists(weights)
        or weights.endswith((".npz", ".safetensors", ".keras", ".h5", ".pth", ".bin"))
    ):
        return {"source": weights}
    tags = [row.tag for row in list_weights(model)]
    near = difflib.get_close_matches(weights, tags, n=3, cutoff=0.4) or tags
    raise ValueError(
        f"`weights` must be a tag of {model}'s ({', '.join(near) or 'it has none'}), a path, `hf://` or `https://`. Received: weights={weights!r}"
    )
