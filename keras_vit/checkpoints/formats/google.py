"""Google's npz formats: vit_jax (original, augreg, sam, gsam; plain, hybrid) and big_vision (also scanned, FlexiViT, SigLIP's tower)."""

from typing import Any

import numpy as np

from keras_vit.checkpoints.formats.mapping import (
    SAME,
    File,
    Layout,
    class_names,
    count,
    cut_patches,
    image_sizes,
    lacking,
    position_grid,
    position_row,
    renaming,
    row,
    side_of_patch,
)

NAME = "google"
IS_FOLDER = False

ANCHOR = r"embedding/kernel"

# vit_jax numbers the layers of a block in one sequence, as flax did before linen; big_vision numbers each kind of layer.
RENAMES = [
    (r"^(opt/target/|params/img/|img/|params/)", ""),
    (r"^Transformer/posembed_input/pos_embedding$", "pos_embedding"),
    (r"/MultiHeadDotProductAttention_1/", "/MultiHeadDotProductAttention_0/"),
    (r"^(Transformer/encoderblock\w*)/LayerNorm_2/", r"\1/LayerNorm_1/"),
    (r"/MlpBlock_3/", "/MlpBlock_0/"),
]

# How each library crops images in evaluation.
VIT_JAX_CROP, BIG_VISION_CROP = {"crop_fraction": 1.0, "crop_mode": "squash"}, {"crop_fraction": 0.875, "crop_mode": "center"}

IGNORED = r"opt/.*|epoch|step|txt/.*|t|b|state/.*"


def recognizes(names: Any) -> bool:
    return "embedding/kernel" in names and "Transformer/encoder_norm/scale" in names


def architecture(names: Any, shapes: dict, config: dict, overrides: dict, expected: dict) -> tuple[dict, dict]:
    """Returns the same as `timm.architecture`. `config` is what `save` writes into the archive's comment."""
    stacked = "Transformer/encoderblock/LayerNorm_0/scale" in shapes
    block = "Transformer/encoderblock" if stacked else "Transformer/encoderblock_0"
    query = shapes[f"{block}/MultiHeadDotProductAttention_0/query/kernel"]
    kernel = shapes["embedding/kernel"]
    if naflex := len(kernel) == 2:
        side = side_of_patch(kernel[0])
        kernel = (side, side, 3, kernel[1])
    *patch, channels, width = kernel
    layers = query[0] if stacked else count(shapes, "Transformer/encoderblock_{}/LayerNorm_0/scale")
    class_token, head = "cls" in shapes, shapes.get("head/kernel")
    vit_jax = "posembed_input" in names.get("pos_embedding", "")
    stem, stride = None, 1
    if "conv_root/kernel" in shapes:
        stages = count(shapes, "block{}/unit1/conv1/kernel", start=1)
        counts = tuple(count(shapes, f"block{s}/unit{{}}/conv1/kernel", start=1) for s in range(1, stages + 1))
        channels, root = shapes["conv_root/kernel"][2:]
        stem = dict(kind="resnet", block_counts=counts, width=root)
        stride = 4 * 2 ** max(0, stages - 1)
    prefix, grid = 0, None  # sines and cosines are computed, not stored
    if naflex:
        grid = tuple(shapes["pos_embedding"][:2])
    elif "pos_embedding" in shapes:
        prefixes = (0,) if not class_token else (1, 0) if vit_jax else (0, 1)
        cell = tuple(stride * side for side in patch)
        prefix, grid = position_grid(
            shapes["pos_embedding"][1], prefixes, cell, image_sizes(overrides, expected), overrides.get("position_grid")
        )
    crop = VIT_JAX_CROP if vit_jax else BIG_VISION_CROP
    preprocessing = config.get("preprocessing") or dict(mean=0.5, std=0.5, interpolation="bilinear", **crop)
    return dict(
        input_shape=(*(side * stride * p for side, p in zip(grid, patch)), channels) if grid else None,
        patch_size=tuple(patch) if patch[0] != patch[1] else patch[0],
        hidden_dim=width,
        num_layers=layers,
        num_heads=query[-2],
        mlp_dim=shapes[f"{block}/MlpBlock_0/Dense_0/kernel"][-1],
        activation="gelu_tanh",
        num_classes=head[-1] if head else None,
        include_top=head is not None,
        class_names=class_names(config.get("class_names"), head[-1] if head else None),
        pooling="map" if "MAPHead_0/probe" in shapes else "token" if class_token else "gap",
        representation_size=shapes["pre_logits/kernel"][-1] if "pre_logits/kernel" in shapes else None,
        class_token=class_token,
        prefix_positions=prefix == 1,
        position_embedding="learned" if grid else "sincos2d",
        position_grid=grid,
        naflex=naflex,
        stem=stem,
        preprocessing={key: tuple(value) if isinstance(value, list) else value for key, value in preprocessing.items()},
        position_resample="bilinear_antialias" if naflex else "bilinear_align_corners",
        patch_resample="bilinear",
    ), dict(stacked=stacked)


def rows(a: dict[str, Any], stacked: bool = False) -> list:
    """Returns the rows for a full set of arguments of `VisionTransformer`.

    Args:
        a: dict. The arguments.
        stacked: bool. Whether the weights of all blocks are stacked along the first axis of one tensor. Defaults to False.
    """
    table = _conv("patch_embedding", "embedding", a["patch_bias"], cut_patches(a["patch_size"], False) if a["naflex"] else SAME)
    if a["class_token"]:
        table.append(row("class_token/token", "cls"))
    if a["position_embedding"] == "learned":
        table.append(position_row(a, "pos_embedding", () if a["naflex"] else (1,), flat=not a["naflex"]))
    if a["stem"] is not None:
        table += _resnet_rows(a["stem"])
    if stacked:
        for each in zip(*(_block_rows(a, f"block_{i}", "Transformer/encoderblock") for i in range(a["num_layers"]))):
            table.append(row([path for r in each for path in r.paths], each[0].keys, _stack(each[0].layout)))
    else:
        for i in range(a["num_layers"]):
            table += _block_rows(a, f"block_{i}", f"Transformer/encoderblock_{i}")
    table += _norm("norm", "Transformer/encoder_norm")
    if a["pooling"] == "map":
        ours, theirs = "attention_pooling", "MAPHead_0"
        table += [row(f"{ours}/probe", f"{theirs}/probe")] + _norm(f"{ours}/norm", f"{theirs}/LayerNorm_0")
        table += _attention_rows(a, ours, f"{theirs}/MultiHeadDotProductAttention_0", {"query": ("query",), "key_value": ("key", "value")})
        table += _mlp_rows(ours, theirs)
    if a["representation_size"]:
        table += _conv("pre_logits", "pre_logits")
    if a["include_top"]:
        table += _conv("head", "head")
    return table


def _block_rows(a, ours, theirs):
    table = _norm(f"{ours}/norm1", f"{theirs}/LayerNorm_0") + _norm(f"{ours}/norm2", f"{theirs}/LayerNorm_1")
    parts = {"qkv": ("query", "key", "value")}
    return table + _attention_rows(a, f"{ours}/attention", f"{theirs}/MultiHeadDotProductAttention_0", parts) + _mlp_rows(ours, theirs)


def _attention_rows(a, ours, theirs, parts):
    """Returns the rows of attention. Kernels are (D, heads, head_dim) in the file, and concatenated (D, D) matrices in ours."""
    heads = (a["num_heads"], a["hidden_dim"] // a["num_heads"])
    table = []
    for path, names in parts.items():
        split = len(names)
        kernel = Layout(
            lambda *k: np.concatenate([np.reshape(x, (x.shape[0], -1)) for x in k], axis=-1),
            lambda k, n=split: tuple(np.reshape(x, (len(x), *heads)) for x in np.split(k, n, axis=-1)),
        )
        bias = Layout(
            lambda *b: np.concatenate([np.ravel(x) for x in b]),
            lambda b, n=split: tuple(np.reshape(x, heads) for x in np.split(b, n)),
        )
        table.append(row(f"{ours}/{path}/kernel", [f"{theirs}/{name}/kernel" for name in names], kernel))
        table.append(row(f"{ours}/{path}/bias", [f"{theirs}/{name}/bias" for name in names], bias))
    out = Layout(lambda k: np.reshape(k, (-1, k.shape[-1])), lambda k: np.reshape(k, (*heads, k.shape[-1])))
    return table + [row(f"{ours}/projection/kernel", f"{theirs}/out/kernel", out), row(f"{ours}/projection/bias", f"{theirs}/out/bias")]


def _mlp_rows(ours, theirs):
    return _conv(f"{ours}/mlp/fc1", f"{theirs}/MlpBlock_0/Dense_0") + _conv(f"{ours}/mlp/fc2", f"{theirs}/MlpBlock_0/Dense_1")


def _resnet_rows(stem):
    table = [row("stem/root/kernel", "conv_root/kernel")] + _norm("stem/root_norm", "gn_root", FLAT)
    for stage, units in enumerate(stem["block_counts"]):
        for unit in range(units):
            ours, theirs = f"stem/stage_{stage}_unit_{unit}", f"block{stage + 1}/unit{unit + 1}"
            for n in (1, 2, 3):
                table += [row(f"{ours}/conv{n}/kernel", f"{theirs}/conv{n}/kernel")] + _norm(f"{ours}/norm{n}", f"{theirs}/gn{n}", FLAT)
            if unit == 0:
                table.append(row(f"{ours}/shortcut/kernel", f"{theirs}/conv_proj/kernel"))
                table += _norm(f"{ours}/shortcut_norm", f"{theirs}/gn_proj", FLAT)
    return table


FLAT = Layout(np.ravel, lambda a: np.reshape(a, (1, 1, 1, -1)))  # group norms are (C,) in some files


def _conv(ours, theirs, use_bias=True, layout=SAME):
    return [row(f"{ours}/kernel", f"{theirs}/kernel", layout)] + ([row(f"{ours}/bias", f"{theirs}/bias")] if use_bias else [])


def _norm(ours, theirs, layout=SAME):
    return [row(f"{ours}/gamma", f"{theirs}/scale", layout), row(f"{ours}/beta", f"{theirs}/bias", layout)]


def _stack(layout):
    return Layout(lambda *stacks: tuple(layout.read(*each) for each in zip(*stacks)), None)


# --- writing ---

ALLOWED = dict(
    token_merging=(None, 0),
    norm_first=(True,),
    mlp=("mlp",),
    activation=("gelu_tanh",),
    norm_epsilon=(1e-6,),
    layer_scale_init=(None,),
    qk_norm=(False,),
    distillation_token=(False,),
    num_register_tokens=(0,),
    norm_embeddings=(False,),
    norm_after_pooling=(False,),
    representation_activation=("tanh",),
    unit_feature=(False,),
    naflex=(False, True),
)
STEM = dict(kind="resnet", num_groups=32, norm_epsilon=1e-6, standardization="std", standardization_epsilon=1e-5)

VIT_JAX_NAMES = [
    (r"^pos_embedding$", "Transformer/posembed_input/pos_embedding"),
    (r"^(Transformer/encoderblock_\d+)/LayerNorm_1/", r"\1/LayerNorm_2/"),
    (r"^(Transformer/encoderblock_\d+)/MultiHeadDotProductAttention_0/", r"\1/MultiHeadDotProductAttention_1/"),
    (r"^(Transformer/encoderblock_\d+)/MlpBlock_0/", r"\1/MlpBlock_3/"),
]
BIG_VISION_NAMES = [(r"^", "params/")]


def lacks(a: dict[str, Any]) -> list[str]:
    """Returns the arguments of a model that Google's code does not support, a list of str such as "norm_first=False"."""
    allowed = {**ALLOWED, "pooling": ("token", None) if a["class_token"] else ("gap", "map", None)}
    stem = a["stem"]
    form = {key: value for key, value in (stem or {}).items() if key in STEM}
    grid = a["position_grid"]
    rules = {
        f"stem={stem} (its hybrids have {STEM})": stem is not None and form != STEM,
        'stem with pooling="map"': stem is not None and a["pooling"] == "map",
        f"a grid of {grid}, which no file tells and so must be square": grid[0] != grid[1] and not a["naflex"],
        "naflex=True with class_token=True": a["naflex"] and a["class_token"],
        "naflex=True without learned positions": a["naflex"] and a["position_embedding"] != "learned",
        "naflex=True with patches that are no squares of 3 channels": a["naflex"] and not _square_rgb(a),
    }
    return lacking(a, allowed) + [rule for rule, broken in rules.items() if broken]


def _square_rgb(a):
    return a["patch_size"][0] == a["patch_size"][1] and a["input_shape"][-1] == 3


def file(a: dict[str, Any]) -> File:
    """Returns the `File` of a vit_jax or big_vision model with the full set of arguments `a`."""
    computed = (
        a["position_embedding"] == "sincos2d" and not a["prefix_positions"] and a["stem"] is None
    )  # big_vision computes them, and stores none
    vit_jax = (a["prefix_positions"] or a["stem"] is not None) and a["pooling"] != "map" and not a["naflex"]
    changes = dict(
        position_embedding="sincos2d" if computed else "learned",
        prefix_positions=vit_jax,
        patch_bias=True,
        qkv_bias=True,
    )

    names = VIT_JAX_NAMES if vit_jax else BIG_VISION_NAMES
    comment = {
        "class_names": a["class_names"] if a["include_top"] else None,
        "preprocessing": {key: _one(value) for key, value in a["preprocessing"].items() if key != "size"},
    }
    return File({**a, **changes}, renaming(names), comment=comment)


def _one(value):
    """Returns one number if all channels have the same, else the value itself."""
    return value[0] if isinstance(value, (list, tuple)) and len(set(value)) == 1 else value
