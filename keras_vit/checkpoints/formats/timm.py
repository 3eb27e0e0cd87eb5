"""timm's format, which is also Meta's: DeiT, DeiT-III, MAE, DINO and DINOv2. The models of timm's class `Eva` are in eva.py."""

import re
from typing import Any

import numpy as np

from keras_vit.checkpoints.formats import aimv2, eva, naflex
from keras_vit.checkpoints.formats.mapping import (
    ACTIVATIONS,
    CONV,
    HYBRIDS,
    STEM,
    File,
    Layout,
    agree,
    class_names,
    conv_stem,
    conv_stem_rows,
    count,
    cut_patches,
    dense,
    image_sizes,
    known,
    lacking,
    norm,
    position_grid,
    position_row,
    resnet_rows,
    resnet_stem,
    row,
    side_of_patch,
    square,
    tokens_with_positions,
)
from keras_vit.checkpoints.formats.preprocessing import from_timm, timm_config
from keras_vit.families import IMAGENET, TIPS
from keras_vit.presets import num_heads_of

NAME = "timm"
IS_FOLDER = True

# The first tensor of a model: everything before this in its key is a wrapper's prefix.
ANCHOR = r"(?:patch_embed|embeds|preprocessor\.patchifier)\.proj\.weight"
FAMILY = r"(?!)"  # no family prefix between the two

RENAMES = [
    *aimv2.APPLE_RENAMES,
    (r"\.gamma_1$", ".ls1.gamma"),  # DeiT-III
    (r"\.gamma_2$", ".ls2.gamma"),
    (r"^(register|storage)_tokens$", "reg_token"),  # DINOv2, DINOv3
    (r"^freqs$", "rope.freqs"),
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # DINOv2 in chunks
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),  # TIPSv2's repositories
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),  # BAAI's EVA-02
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.ffn_ln\.", ".mlp.norm."),
    (r"\.attn\.inner_attn_ln\.", ".attn.norm."),
    (r"\.attn\.([qv])_proj\.bias$", r".attn.\1_bias"),
    (r"^pre_logits\.fc\.", "pre_logits."),
    (r"^patch_embed\.backbone\.(conv|norm)\.", r"patch_embed.backbone.stem.\1."),  # a stem without stages
    (r"^fc_norm\.", "norm."),
    (r"^embeds\.proj\.", "patch_embed.proj."),  # NaFlex
    (r"^embeds\.(pos_embed|cls_token|reg_token)$", r"\1"),
]

# The architectures of timm 1.0.31 with that activation: the other ones of SigLIP have the exact one, also where Google's model has not.
GELU_TANH = r"base_patch32_siglip|large_patch16_siglip(_gap)?_512|so400m_patch16_siglip|giantopt"

# Architectures with the tensor names and shapes of a plain ViT that compute something else.
OTHER_MODELS = {
    r"_rpn_": "normalizes after each branch",
    r"_18x2_|_xp_|parallel": "has parallel blocks",
    r"naflexvit.*(_par|radio)": "computes positions or prefix tokens otherwise",
    r"^(beit|swin|deit_.*_relpos|.*relpos)": "is no plain Vision Transformer",
}
GLOBAL_POOLS = {"": None, "token": "token", "avg": "gap", "map": "map"}
# Arguments of timm's models that change the result but no name or shape of a tensor, with the supported values.
MODEL_ARGS = {"norm_layer": (None,), "block_fn": (None,), "mlp_layer": (None,), "attn_layer": (None,), "pool_include_prefix": (None, False)}
MODEL_ARGS["pos_embed_ar_preserving"] = (None, False)

IGNORED = (
    r"mask_token|decoder.*|num_batches_tracked|.*\.num_batches_tracked|.*relative_position_index|(ml|l)m_head.*|.*rope\.freqs_(cos|sin)|"
    r"rope_embed\.periods|.*\.bias_mask|local_cls_norm\..*|projectors\..*|freqs_t_[xy]"  # DINOv3, EUPE, RoPE-ViT
)


def recognizes(names: Any) -> bool:
    return "patch_embed.proj.weight" in names and "blocks.0.norm1.weight" in names


def architecture(names: Any, shapes: dict, config: dict, overrides: dict, expected: dict) -> tuple[dict, dict]:
    """Returns the arguments of `VisionTransformer` for a file, and the keyword arguments of `rows`.

    Args:
        names: dict. The file's key of each canonical key, without prefixes of wrappers.
        shapes: dict. The shape of each canonical key.
        config: dict. timm's config.json; empty for Meta's files.
        overrides: dict. The user's arguments, for what the file does not state.
        expected: dict. Arguments of the preset that the file is loaded into; empty without a preset.

    Raises:
        ValueError: if the configuration has an unsupported value or belongs to another model, or if the file is ambiguous.
    """
    if aimv2.recognizes(shapes, aimv2.TIMM):
        return aimv2.architecture(shapes, aimv2.TIMM, config, overrides, expected)
    config = {key: value for key, value in config.items() if key != "image_processor"}
    config = {} if "model_type" in config and "architecture" not in config else config  # TIPSv2's repositories: transformers' config
    if eva.recognizes(shapes, config) or (not config and (overrides.get("rotary") or expected.get("rotary"))):
        return eva.architecture(names, shapes, config, overrides, expected)
    given = config.get("model_args") or {}
    trained = config.get("pretrained_cfg") or config  # older files have its entries at the top level
    arch = config.get("architecture") or ""
    for pattern, what in OTHER_MODELS.items():
        if re.search(pattern, arch):
            raise ValueError(f"timm's {arch} {what}, which is not read. Received: architecture={arch!r}")
    for key, values in MODEL_ARGS.items():
        known(key, given.get(key), dict.fromkeys(values))
    width = shapes["patch_embed.proj.weight"][0]
    layers = count(shapes, "blocks.{}.norm1.weight")
    agree({**config, **given}, {"num_features": width, "embed_dim": width, "depth": layers})
    hidden, gated = shapes["blocks.0.mlp.fc1.weight"][0], shapes["blocks.0.mlp.fc2.weight"][1]
    class_token, distillation = "cls_token" in shapes, "dist_token" in shapes
    registers = shapes["reg_token"][1] if "reg_token" in shapes else 0
    after_pooling = "fc_norm.weight" in names.values()
    stated = next((c["global_pool"] for c in (given, config, trained) if c.get("global_pool") is not None), None)
    if stated is not None:
        pooling = known("global_pool", stated, GLOBAL_POOLS)
    else:
        pooling = "gap" if after_pooling or not class_token else "token"
    if "attn_pool.latent" in shapes:
        pooling = "map"
    elif pooling is not None and not class_token:
        pooling = "gap"
    elif pooling == "map":
        raise ValueError("The configuration says global_pool='map', but the file has no attn_pool. Received: global_pool='map'")

    if "patch_embed.backbone.stem.conv.weight" in shapes:
        root = "patch_embed.backbone.stem.conv.weight"
        stem, channels = resnet_stem(shapes, root, "patch_embed.backbone.stages.{}.blocks.{}.conv1.weight"), shapes[root][1]
        stride = 4 * 2 ** max(0, len(stem["block_counts"]) - 1)
    elif "patch_embed.stem.0.0.weight" in shapes:
        stem, channels = conv_stem(shapes), shapes["patch_embed.stem.0.0.weight"][1]
        stride = int(np.prod(stem["strides"]))
    else:
        stem, channels, stride = None, shapes["patch_embed.proj.weight"][1], 1
    patch = tuple(shapes["patch_embed.proj.weight"][2:])
    if of_patches := not patch:
        channels = given.get("in_chans") or 3
        patch = (side_of_patch(shapes["patch_embed.proj.weight"][1], channels),) * 2

    class_tokens = class_token + distillation
    if "pos_embed" not in shapes:
        raise ValueError(
            f"The file has no pos_embed: models without learned positions are not read from it. Received: {arch or 'no config'}"
        )
    size = given.get("img_size") or trained.get("input_size", (None, None, None))[1:]
    size = (size, size) if isinstance(size, int) else tuple(size)
    sizes = [size, *image_sizes(overrides, expected)]
    # n * n positions may also be a class token and a rectangular grid, so only some families may have positions for patches alone.
    patches_alone = config or registers or "blocks.0.ls1.gamma" in shapes or expected.get("prefix_positions") is False
    prefix, grid = (
        (0, tuple(shapes["pos_embed"][1:3]))
        if len(shapes["pos_embed"]) == 4
        else position_grid(
            shapes["pos_embed"][1],
            tuple(dict.fromkeys((class_tokens, 0, class_tokens + registers))),
            tuple(stride * side for side in patch),
            sizes,
            overrides.get("position_grid"),
            None if patches_alone else (class_tokens,),
        )
    )
    heads = next(filter(None, (c.get("num_heads") for c in (overrides, given, expected))), None)
    head = shapes.get("head.weight")
    if head and head[1] not in (width, *shapes.get("pre_logits.weight", ())[:1]):
        raise ValueError(f"A head must read features of {width}. Received: {names['head.weight']} of shape {tuple(head)}")
    clip = "norm_pre.weight" in shapes
    tanh = re.search(GELU_TANH, arch) or (of_patches and "siglip" in arch)
    activation = "quick_gelu" if "quickgelu" in arch else "gelu_tanh" if tanh else "gelu"
    mode = "bilinear" if of_patches and "siglip" in arch else "bicubic"
    if given.get("act_layer") is not None:
        activation = known("act_layer", given["act_layer"], ACTIVATIONS)
    arguments = dict(
        input_shape=(*(side * stride * p for side, p in zip(grid, patch)), channels),
        patch_size=patch if patch[0] != patch[1] else patch[0],
        hidden_dim=width,
        num_layers=layers,
        num_heads=heads or num_heads_of(width, layers, gated),
        mlp_dim=gated,
        mlp="swiglu" if hidden == 2 * gated else "mlp",
        activation="silu" if hidden == 2 * gated else activation,
        num_classes=head[0] if head else None,
        include_top=head is not None,
        class_names=class_names(_labels(config, trained), head[0] if head else None),
        pooling=pooling,
        representation_size=shapes["pre_logits.weight"][0] if "pre_logits.weight" in shapes else None,
        class_token=class_token,
        distillation_token=distillation,
        num_register_tokens=registers,
        prefix_positions=prefix == class_tokens > 0,
        position_grid=grid,
        layer_scale_init=(given.get("init_values") or 1e-5) if "blocks.0.ls1.gamma" in shapes else None,
        qkv_bias="blocks.0.attn.qkv.bias" in shapes,
        patch_bias="patch_embed.proj.bias" in shapes,
        qk_norm="blocks.0.attn.q_norm.weight" in shapes,
        norm_epsilon=1e-5 if "clip" in arch.replace("siglip", "") or (clip and not arch) else 1e-6,
        norm_embeddings=clip,
        norm_after_pooling=after_pooling,
        stem=stem,
        preprocessing={} if "preprocessing" in overrides else from_timm(trained) if config else IMAGENET,
        position_resample=f"{given.get('pos_embed_interp_mode') or mode}_antialias",
        naflex=of_patches,
    )
    details = dict(register_positions=registers > 0 and prefix == class_tokens + registers)
    if not config:  # Meta's files, and timm's without a configuration
        dinov2 = len(shapes.get("mask_token", ())) == 2  # the mask token of MAE's decoder has three axes
        arguments["position_resample"] = "bicubic_dinov2" if dinov2 and not registers else "bicubic_antialias" if dinov2 else "bicubic"
        details["assumed"] = ("num_heads", "activation", "norm_epsilon", "pooling", "position_grid", "preprocessing")
        if dinov2 and registers == 1:  # TIPSv2, whose code is DINOv2's
            arguments |= dict(position_resample="bilinear_antialias", layer_scale_init=1.0)
            arguments["preprocessing"] = {} if "preprocessing" in overrides else TIPS
    elif "mean" not in trained:
        details["assumed"] = ("preprocessing",)
    return arguments, details


def _labels(config, trained):
    return next((c[key] for c in (config, trained) for key in ("label_names", "labels") if c.get(key)), None)


def rows(a: dict[str, Any], register_positions: bool = False, **details: Any) -> list:
    """Returns the rows for a full set of arguments of `VisionTransformer`.

    Args:
        a: dict. The arguments.
        register_positions: bool. Whether class and register tokens have positions in the file. They are added to the tokens, because both
            are constants. Defaults to False.
        **details: keyword arguments of `eva.rows`, for a model of timm's class `Eva`.
    """
    if aimv2.needed(a):
        return aimv2.rows(a, aimv2.TIMM)
    if details:
        return eva.rows(a, **details)
    table = []
    class_tokens = ("cls_token", "dist_token")[: a["class_token"] + a["distillation_token"]]
    if register_positions:
        table.append(tokens_with_positions(a, class_tokens))
    else:
        if class_tokens:
            split = Layout(lambda *t: np.concatenate(t, axis=1), lambda t: tuple(np.split(t, len(class_tokens), axis=1)))
            table.append(row("class_token/token", class_tokens, split))
        if a["num_register_tokens"]:
            table.append(row("register_tokens/token", "reg_token"))
        if a["position_embedding"] == "learned":
            table.append(position_row(a, "pos_embed", flat=not a["naflex"]))
    patches = cut_patches(a["patch_size"], True) if a["naflex"] else CONV
    table += dense("patch_embedding", "patch_embed.proj", patches, use_bias=a["patch_bias"])
    if a["stem"] is not None:
        backbone = "patch_embed.backbone"
        resnet = (f"{backbone}.stem.conv", f"{backbone}.stem.norm", f"{backbone}.stages.{{}}.blocks.{{}}")
        table += resnet_rows(a["stem"], *resnet) if a["stem"]["kind"] == "resnet" else conv_stem_rows(a["stem"])
    if a["norm_embeddings"]:
        table += norm("embedding_norm", "norm_pre")
    for i in range(a["num_layers"]):
        ours, theirs = f"block_{i}", f"blocks.{i}"
        table += norm(f"{ours}/norm1", f"{theirs}.norm1") + norm(f"{ours}/norm2", f"{theirs}.norm2")
        table += dense(f"{ours}/attention/qkv", f"{theirs}.attn.qkv", use_bias=a["qkv_bias"])
        table += dense(f"{ours}/attention/projection", f"{theirs}.attn.proj")
        table += dense(f"{ours}/mlp/fc1", f"{theirs}.mlp.fc1") + dense(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2")
        if a["qk_norm"]:
            table += norm(f"{ours}/attention/query_norm", f"{theirs}.attn.q_norm")
            table += norm(f"{ours}/attention/key_norm", f"{theirs}.attn.k_norm")
        if a["layer_scale_init"] is not None:
            table += [row(f"{ours}/layer_scale{n}/gamma", f"{theirs}.ls{n}.gamma") for n in (1, 2)]
    table += norm("norm", "norm")
    if a["pooling"] == "map":
        ours, theirs = "attention_pooling", "attn_pool"
        table += [row(f"{ours}/probe", f"{theirs}.latent")] + norm(f"{ours}/norm", f"{theirs}.norm")
        parts = {"query": "q", "key_value": "kv", "projection": "proj", "mlp/fc1": "mlp.fc1", "mlp/fc2": "mlp.fc2"}
        for part, key in parts.items():
            table += dense(f"{ours}/{part}", f"{theirs}.{key}")
    if a["representation_size"]:
        table += dense("pre_logits", "pre_logits")
    if a["include_top"]:
        table += dense("head", "head") + (dense("distillation_head", "head_dist") if a["distillation_token"] else [])
    return table


# --- writing ---

ALLOWED = dict(
    token_merging=(None, 0),
    norm_first=(True,),
    representation_size=(None,),
    pooling=("token", "gap", "map", None),
    norm_epsilon=(1e-6, 1e-5),
    unit_feature=(False,),
    activation=("gelu", "gelu_tanh", "quick_gelu", "silu", "relu"),
)
POOLINGS = {"token": "token", "gap": "avg", "map": "map", None: ""}


def lacks(a: dict[str, Any]) -> list[str]:
    """Returns the arguments of a model that timm does not support, a list of str such as "norm_first=False"."""
    if aimv2.needed(a):
        return aimv2.lacks(a, aimv2.TIMM)
    if naflex.needed(a):
        return naflex.lacks(a)
    if _of_eva(a):
        return eva.lacks(a)
    stem, swiglu, distilled = a["stem"], a["mlp"] == "swiglu", a["distillation_token"]
    fits = stem is None or ({**stem, "block_counts": None} == STEM and stem["block_counts"] in HYBRIDS)
    special = [name for name, given in (("stem", stem is not None), ('mlp="swiglu"', swiglu), ("distillation_token", distilled)) if given]
    rules = {
        f"stem={stem} (its hybrids have {STEM} with block_counts of {list(HYBRIDS)})": not fits,
        " beside ".join(special): len(special) > 1,
        f"norm_epsilon=1e-05 beside {' and '.join(special)}": a["norm_epsilon"] == 1e-5 and special,
        "num_register_tokens beside distillation_token": a["num_register_tokens"] and distilled,
        "patch_bias=True beside norm_embeddings=True": a["patch_bias"] and a["norm_embeddings"],
        f'mlp="swiglu" with activation={a["activation"]!r}': swiglu and a["activation"] != "silu",
        'mlp="swiglu" with pooling="map"': swiglu and a["pooling"] == "map",
    }
    return lacking(a, ALLOWED) + [rule for rule, broken in rules.items() if broken]


def file(a: dict[str, Any]) -> File:
    """Returns the `File` of a timm model with the full set of arguments `a`."""
    if aimv2.needed(a):
        return aimv2.file(a, aimv2.TIMM)
    if naflex.needed(a):
        return naflex.file(a)
    if _of_eva(a):
        return eva.file(a)
    has_class, distilled = a["class_token"], a["distillation_token"]
    # timm gives positions to registers and class token, or to neither. So the position is added to the class token, as in its DINOv2.
    prefix_positions = distilled or (has_class and a["prefix_positions"] and not a["num_register_tokens"])
    biases = dict(patch_bias=not a["norm_embeddings"], qkv_bias=bool(a["qkv_bias"]))  # a missing bias of the keys becomes zeros
    changes = dict(position_embedding="learned", prefix_positions=prefix_positions, **biases)
    ratio = (hidden := a["mlp_dim"] * (2 if a["mlp"] == "swiglu" else 1)) / a["hidden_dim"]
    *size, channels = a["input_shape"]
    num_classes = a["num_classes"] if a["include_top"] else 0

    def key(name):
        if name.startswith("norm.") and a["norm_after_pooling"]:
            return f"fc_{name}"
        # A stem without stages is the whole backbone.
        return name.replace("backbone.stem.", "backbone.") if a["stem"] and not a["stem"]["block_counts"] else name

    model_args = dict(
        img_size=list(size),
        patch_size=square(a["patch_size"]),
        in_chans=channels,
        num_classes=num_classes,
        global_pool=POOLINGS[a["pooling"]],
        embed_dim=a["hidden_dim"],
        depth=a["num_layers"],
        num_heads=a["num_heads"],
        # timm rounds the product down.
        mlp_ratio=ratio if int(a["hidden_dim"] * ratio) == hidden else (hidden + 0.5) / a["hidden_dim"],
        qkv_bias=changes["qkv_bias"],
        qk_norm=a["qk_norm"],
        # None would keep the architecture's default.
        init_values=0.0 if a["layer_scale_init"] is None else a["layer_scale_init"] or 1e-5,
        class_token=has_class,
        no_embed_class=not prefix_positions,
        reg_tokens=a["num_register_tokens"],
        pre_norm=a["norm_embeddings"],
        fc_norm=a["norm_after_pooling"],
    )
    if a["mlp"] == "mlp" and a["activation"] != "gelu":
        model_args["act_layer"] = a["activation"]
    first_conv = key("patch_embed.proj" if a["stem"] is None else "patch_embed.backbone.stem.conv")
    config = timm_config(a, _architecture(a), model_args, first_conv, ["head", "head_dist"] if distilled else "head")
    return File({**a, **changes}, key, {"config.json": config})


def _of_eva(a):  # plain models hold a missing bias of the keys as zeros
    return eva.needed(a) and not (eva.lacks(a) and not eva.needed({**a, "qkv_bias": True}))


def _architecture(a):
    """Returns the timm architecture with the layers that `model_args` cannot hold, because JSON holds no classes."""
    if a["stem"] is not None:
        return HYBRIDS[a["stem"]["block_counts"]]
    if a["distillation_token"]:
        return "deit_base_distilled_patch16_224"
    if a["mlp"] == "swiglu":
        return "vit_giant_patch14_dinov2"
    return "vit_base_patch16_clip_224" if a["norm_epsilon"] == 1e-5 else "vit_base_patch16_224"
