"""The models of timm's class `Eva`, and the authors' own files of this form: EVA, EVA-02, their CLIP towers, Perception Encoder, DINOv3,
EUPE, RoPE-ViT and SBB with rotary positions."""

import re
from typing import Any

from keras_vit.checkpoints.formats import rotary
from keras_vit.checkpoints.formats.mapping import (
    CONV,
    File,
    agree,
    class_names,
    count,
    dense,
    dense_pair,
    image_sizes,
    known,
    lacking,
    norm,
    position_grid,
    position_row,
    renaming,
    row,
    square,
)
from keras_vit.checkpoints.formats.preprocessing import from_timm, timm_config
from keras_vit.checkpoints.formats.qkv import qkv_rows
from keras_vit.families import CLIP, IMAGENET
from keras_vit.presets import num_heads_of

POOLINGS = {"token": "token", "gap": "avg", "map": "map", None: ""}
GLOBAL_POOLS = {ours: name for name, ours in POOLINGS.items()}
ARCHITECTURES = r"eva(02)?_|vit_pe_|vit_.*(_rope_|_dinov3)"
# Widths of the spaces that CLIP's and Perception Encoder's images and texts share.
PROJECTIONS = (512, 768, 1024, 1280)


def recognizes(names: Any, config: dict[str, Any]) -> bool:
    """Returns whether a file in timm's format is of the class `Eva`, by its canonical keys and config.json."""
    if "pos_embed" not in names:
        return True
    keys = {"blocks.0.attn.q_bias", "blocks.0.attn.q_proj.weight", "rope.freqs"}
    return bool(re.match(ARCHITECTURES, config.get("architecture") or "")) or bool(keys & set(names))


def architecture(names: Any, shapes: dict, config: dict, overrides: dict, expected: dict) -> tuple[dict, dict]:
    """Returns the same as `timm.architecture`. "rope_periods" in `config` is what Meta's file holds under that name."""
    periods = config.get("rope_periods")
    config = {key: value for key, value in config.items() if key != "rope_periods"}
    given, trained = config.get("model_args") or {}, config.get("pretrained_cfg") or config
    arch = config.get("architecture") or ""
    width, layers = shapes["patch_embed.proj.weight"][0], count(shapes, "blocks.{}.norm1.weight")
    agree({**config, **given}, {"num_features": width, "embed_dim": width, "depth": layers})
    split_gate, apart = "blocks.0.mlp.fc1_g.weight" in shapes, "blocks.0.attn.q_proj.weight" in shapes
    masked = "blocks.0.attn.qkv.bias_mask" in shapes
    hidden = shapes["blocks.0.mlp.fc2.weight"][1]
    swiglu = split_gate or shapes["blocks.0.mlp.fc1.weight"][0] == 2 * hidden
    class_token, has_map = "cls_token" in shapes, "attn_pool.latent" in shapes
    registers = shapes["reg_token"][1] if "reg_token" in shapes else 0
    after_pooling = "fc_norm.weight" in names.values()
    stated = next((c["global_pool"] for c in (given, config, trained) if c.get("global_pool") is not None), None)
    clip = bool(re.search("clip", arch)) or (not arch and "blocks.0.attn.norm.weight" in shapes)
    turned = rotary.read(arch, given, shapes, periods, swiglu, overrides.get("rotary") or expected.get("rotary"))
    dinov3 = bool(turned) and turned["coordinates"] == "normalized"
    by_token = clip or (class_token and not config and (dinov3 or "blocks.0.attn.qkv.bias" in shapes))
    pooling = "map" if has_map else known("global_pool", stated, GLOBAL_POOLS) if stated is not None else "token" if by_token else "gap"

    patch, channels = tuple(shapes["patch_embed.proj.weight"][2:]), shapes["patch_embed.proj.weight"][1]
    size = given.get("img_size") or trained.get("input_size", (None, None, None))[1:]
    sizes = [(size, size) if isinstance(size, int) else tuple(size), *image_sizes(overrides, expected)]
    prefixes = (class_token + registers, 0)
    if "pos_embed" in shapes:
        prefix, grid = position_grid(shapes["pos_embed"][1], prefixes, patch, sizes, overrides.get("position_grid"))
    else:  # any grid: that of the images, or of 256 pixels
        prefix, (rows, columns) = 0, next((size for size in sizes if len(size) == 2 and None not in size), (256, 256))
        grid = rows // patch[0], columns // patch[1]

    head = shapes.get("head.weight")
    labels = class_names(config.get("label_names") or trained.get("label_names"), head[0] if head else None)
    projects = head is not None and labels is None and head[0] in PROJECTIONS and (clip or "_pe_core_" in arch)
    arguments = dict(
        input_shape=(*(side * p for side, p in zip(grid, patch)), channels),
        patch_size=patch if patch[0] != patch[1] else patch[0],
        hidden_dim=width,
        num_layers=layers,
        num_heads=next(filter(None, (c.get("num_heads") for c in (overrides, given, expected))), None)
        or num_heads_of(width, layers, hidden, "swiglu" if swiglu else "mlp"),
        mlp_dim=hidden,
        mlp="swiglu" if swiglu else "mlp",
        activation="silu" if swiglu else "gelu",
        num_classes=head[0] if head and not projects else None,
        include_top=head is not None and not projects,
        class_names=labels,
        pooling=pooling,
        class_token=class_token,
        num_register_tokens=registers,
        prefix_positions=prefix > 0,
        position_embedding="learned" if "pos_embed" in shapes else "none",
        position_grid=grid if "pos_embed" in shapes else None,
        layer_scale_init=(given.get("init_values") or 1e-5) if "blocks.0.ls1.gamma" in shapes else None,
        qkv_bias="query_value" if masked or "blocks.0.attn.q_bias" in shapes else "blocks.0.attn.qkv.bias" in shapes,
        patch_bias="patch_embed.proj.bias" in shapes,
        norm_epsilon=1e-5 if dinov3 or "_pe_" in arch else 1e-6,
        norm_embeddings="norm_pre.weight" in shapes,
        norm_after_pooling=after_pooling,
        final_norm="norm.weight" in shapes,
        norm_first=not _post_norm(arch, given),
        norm_branches=_post_norm(arch, given),
        attention_norm="blocks.0.attn.norm.weight" in shapes,
        mlp_norm="blocks.0.mlp.norm.weight" in shapes,
        rotary=turned,
        preprocessing={} if "preprocessing" in overrides else from_timm(trained) if config else _colors(dinov3, shapes),
        position_resample="bicubic_antialias" if config else "bicubic",
    )
    if has_map:
        heads = given.get("attn_pool_num_heads") or (8 if "_pe_core_" in arch else arguments["num_heads"])
        pooled = dict(pooling_num_heads=heads, pooling_mlp_dim=shapes["attn_pool.mlp.fc1.weight"][0], pooling_prefix_tokens=True)
        arguments.update(pooled)
    if projects:
        arguments.update(representation_size=head[0], representation_activation="linear", representation_bias=True)
    details: dict[str, Any] = dict(split_gate=split_gate, apart=apart, masked=masked)
    if not config:
        told = {"rotary"} if periods is not None else set()
        told |= set() if "pos_embed" in shapes else {"position_grid"}
        assumed = ("num_heads", "activation", "norm_epsilon", "pooling", "position_grid", "rotary", "preprocessing")
        details["assumed"] = tuple(name for name in assumed if name not in told)
    return arguments, details


def _colors(dinov3, shapes):
    """Returns the preprocessing of the published models of a file without a configuration."""
    if dinov3:
        return {**IMAGENET, "crop_fraction": 1.0, "crop_mode": "squash", "interpolation": "bilinear"}
    own = "blocks.0.attn.qkv.bias" in shapes  # of RoPE-ViT; EVA's keys have no bias
    return {**IMAGENET, "crop_fraction": 0.9} if own else {**CLIP, "crop_fraction": 1.0}


def _post_norm(arch, given):
    return bool(given.get("use_post_norm", "enormous" in arch))


def rows(a: dict[str, Any], split_gate: bool, apart: bool, masked: bool = False) -> list:
    """Returns the rows for a full set of arguments of `VisionTransformer`.

    Args:
        a: dict. The arguments.
        split_gate: bool. Whether the first product of SwiGLU is split in two tensors.
        apart: bool. Whether queries, keys and values have a kernel each.
        masked: bool. Whether the one bias has a third for the keys, which Meta's models mask. Defaults to False.
    """
    table = [row("class_token/token", "cls_token")] if a["class_token"] else []
    if a["num_register_tokens"]:
        table.append(row("register_tokens/token", "reg_token"))
    if a["position_embedding"] == "learned":
        table.append(position_row(a, "pos_embed"))
    table += rotary.frequency_rows(a)
    table += dense("patch_embedding", "patch_embed.proj", CONV, use_bias=a["patch_bias"])
    if a["norm_embeddings"]:
        table += norm("embedding_norm", "norm_pre")
    for i in range(a["num_layers"]):
        ours, theirs = f"block_{i}", f"blocks.{i}"
        table += norm(f"{ours}/norm1", f"{theirs}.norm1") + norm(f"{ours}/norm2", f"{theirs}.norm2")
        kernel = [f"{theirs}.attn.{part}_proj.weight" for part in "qkv"] if apart else f"{theirs}.attn.qkv.weight"
        two = a["qkv_bias"] == "query_value" and not masked
        bias = [f"{theirs}.attn.{part}_bias" for part in "qv"] if two else f"{theirs}.attn.qkv.bias"
        table += qkv_rows(a, f"{ours}/attention/qkv", kernel, bias, masked)
        table += dense(f"{ours}/attention/projection", f"{theirs}.attn.proj")
        if a["attention_norm"]:
            table += norm(f"{ours}/attention/norm", f"{theirs}.attn.norm")
        table += (
            dense_pair(f"{ours}/mlp/fc1", (f"{theirs}.mlp.fc1_g", f"{theirs}.mlp.fc1_x"))
            if split_gate
            else dense(f"{ours}/mlp/fc1", f"{theirs}.mlp.fc1")
        )
        table += dense(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2")
        if a["mlp_norm"]:
            table += norm(f"{ours}/mlp/norm", f"{theirs}.mlp.norm")
        if a["layer_scale_init"] is not None:
            table += [row(f"{ours}/layer_scale{n}/gamma", f"{theirs}.ls{n}.gamma") for n in (1, 2)]
    if a["final_norm"]:
        table += norm("norm", "norm")
    if a["pooling"] == "map":
        ours, theirs = "attention_pooling", "attn_pool"
        table += [row(f"{ours}/probe", f"{theirs}.latent")] + norm(f"{ours}/norm", f"{theirs}.norm")
        parts = {"query": "q", "key_value": "kv", "projection": "proj", "mlp/fc1": "mlp.fc1", "mlp/fc2": "mlp.fc2"}
        for part, key in parts.items():
            table += dense(f"{ours}/{part}", f"{theirs}.{key}")
    if a["representation_size"]:
        table += dense("pre_logits", "head")
    return table + (dense("head", "head") if a["include_top"] else [])


# --- writing ---

ALLOWED = dict(
    stem=(None,),
    distillation_token=(False,),
    qk_norm=(False,),
    pooling=("token", "gap", "map", None),
    norm_epsilon=(1e-6, 1e-5),
    activation=("gelu", "silu"),
    mlp_norm=(False, True),
    attention_norm=(False, True),
    norm_branches=(False, True),
    rotary=lambda rotary: True,
    final_norm=(False, True),
    pooling_num_heads=lambda heads: True,
    pooling_mlp_dim=lambda width: True,
    pooling_prefix_tokens=(False, True),
    representation_activation=("linear", None, "tanh"),
    representation_bias=(False, True),
)


def needed(a: dict[str, Any]) -> bool:
    """Returns whether timm has a model with these arguments in its class `Eva` alone."""
    only = ("rotary", "mlp_norm", "attention_norm", "norm_branches", "pooling_num_heads", "pooling_prefix_tokens")
    projects = a["representation_size"] and a["representation_activation"] in ("linear", None)
    return bool(a["qkv_bias"] == "query_value" or not a["final_norm"] or projects or any(a.get(name) for name in only))


def lacks(a: dict[str, Any]) -> list[str]:
    """Returns the arguments of a model that timm's class `Eva` does not support."""
    swiglu = a["mlp"] == "swiglu"
    rules = {
        "norm_first=False": not a["norm_first"] and not a["norm_branches"],
        f"activation={a['activation']!r} with mlp={a['mlp']!r}": (a["activation"] == "silu") != swiglu,
        "patch_bias=True beside norm_embeddings=True": a["patch_bias"] and a["norm_embeddings"],
        'pooling="map" of the patches alone': a["pooling"] == "map"
        and not a["pooling_prefix_tokens"]
        and a["class_token"] + a["num_register_tokens"],
        'pooling="map" with mlp="swiglu"': a["pooling"] == "map" and swiglu,
        "representation_size beside a head": a["representation_size"] and a["include_top"],
        f"representation_size={a['representation_size']}": (a["representation_size"] or PROJECTIONS[0]) not in PROJECTIONS,
        "representation_size with tanh": a["representation_size"] and a["representation_activation"] == "tanh",
        "prefix_positions=True beside registers": a["num_register_tokens"] and a["prefix_positions"] and a["position_embedding"] != "none",
        "qkv_bias=True beside attention_norm=True": a["qkv_bias"] is True and (a["attention_norm"] or a["mlp_norm"]),
    }
    return lacking(a, ALLOWED) + [rule for rule, broken in rules.items() if broken] + rotary.lacks(a["rotary"])


def file(a: dict[str, Any]) -> File:
    """Returns the `File` of a model of timm's class `Eva` with the full set of arguments `a`."""
    dinov3 = (a["rotary"] or {}).get("coordinates") == "normalized"
    gate = (a["mlp_norm"] or dinov3) and a["mlp"] == "swiglu"
    apart = a["attention_norm"] or (gate and not dinov3)
    *size, channels = a["input_shape"]
    positions = "none" if a["position_embedding"] == "none" else "learned"
    changes = dict(
        position_embedding=positions,
        prefix_positions=a["prefix_positions"] and a["class_token"],
        patch_bias=not a["norm_embeddings"],
        representation_bias=True,
    )
    outputs = a["num_classes"] if a["include_top"] else a["representation_size"] or 0
    renames = [(r"\.ls(\d)\.gamma$", r".gamma_\1")]
    renames += [(r"^norm\.", "fc_norm.")] if a["norm_after_pooling"] else []
    renames += [(r"\.attn\.([qv])_bias$", r".attn.\1_proj.bias")] if apart else []

    ratio = a["mlp_dim"] / a["hidden_dim"]
    pooled = (a["pooling_mlp_dim"] or a["mlp_dim"]) / a["hidden_dim"]
    # timm rounds the product down.
    exact = lambda ratio, width: ratio if int(a["hidden_dim"] * ratio) == width else (width + 0.5) / a["hidden_dim"]  # noqa: E731
    model_args = dict(
        img_size=list(size),
        patch_size=square(a["patch_size"]),
        in_chans=channels,
        num_classes=outputs,
        global_pool=POOLINGS[a["pooling"]],
        embed_dim=a["hidden_dim"],
        depth=a["num_layers"],
        num_heads=a["num_heads"],
        mlp_ratio=exact(ratio, a["mlp_dim"]),
        swiglu_mlp=a["mlp"] == "swiglu",
        swiglu_align_to=int(gate and dinov3),  # the first product in two tensors
        scale_mlp=a["mlp_norm"],
        scale_attn_inner=a["attention_norm"],
        qkv_bias=bool(a["qkv_bias"]),
        qkv_fused=not apart,
        attn_type="rope" if a["qkv_bias"] is True else "eva",
        init_values=a["layer_scale_init"],
        class_token=a["class_token"],
        num_reg_tokens=a["num_register_tokens"],
        use_abs_pos_emb=positions == "learned",
        no_embed_class=not changes["prefix_positions"],
        use_post_norm=a["norm_branches"],
        use_pre_transformer_norm=a["norm_embeddings"],
        use_fc_norm=a["final_norm"] and a["norm_after_pooling"],
        use_post_transformer_norm=a["final_norm"] and not a["norm_after_pooling"],
        **rotary.write(a["rotary"]),
    )
    if a["pooling"] == "map":
        heads = a["pooling_num_heads"] or a["num_heads"]
        model_args |= dict(attn_pool_num_heads=heads, attn_pool_mlp_ratio=exact(pooled, a["pooling_mlp_dim"] or a["mlp_dim"]))
    # The epsilon and the projection follow from the architecture, because JSON holds no layers.
    config = timm_config(a, _architecture(a), model_args, "patch_embed.proj")
    return File({**a, **changes}, renaming(renames), {"config.json": config}, details=dict(split_gate=gate, apart=apart))


def _architecture(a):
    if (a["rotary"] or {}).get("coordinates") == "normalized":
        return "vit_small_patch16_dinov3"
    if a["norm_epsilon"] == 1e-5:
        return "vit_pe_core_base_patch16_224" if a["representation_size"] else "vit_pe_spatial_base_patch16_512"
    return "eva02_base_patch16_clip_224" if a["representation_size"] else "eva02_base_patch14_224"
