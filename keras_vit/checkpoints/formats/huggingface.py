"""Hugging Face transformers' format: ViT, DeiT, DINOv2, DINOv3, TIPSv2, MAE, I-JEPA, hybrids, towers of SigLIP, SigLIP 2 and CLIP."""

import math
from typing import Any

import numpy as np

from keras_vit.checkpoints.formats import aimv2, dinov3
from keras_vit.checkpoints.formats.huggingface_names import FAMILIES, FORMS, HEADLESS_POOLINGS, POOLINGS
from keras_vit.checkpoints.formats.mapping import (
    ACTIVATIONS,
    CONV,
    JOINED,
    JOINED_BIAS,
    File,
    Layout,
    agree,
    class_names,
    count,
    cut_patches,
    dense,
    dense_pair,
    image_sizes,
    kernel_shape,
    known,
    lacking,
    norm,
    position_grid,
    position_row,
    renaming,
    resnet_rows,
    resnet_stem,
    row,
    square,
)
from keras_vit.checkpoints.formats.preprocessing import MODEL_TYPES, from_processor, to_processor
from keras_vit.checkpoints.formats.qkv import pooling_rows
from keras_vit.presets import num_heads_of

NAME = "huggingface"
IS_FOLDER = True

# The first tensor of a model, maybe after the name that the family's classifier gives to its backbone.
ANCHOR = r"embeddings\.(patch_embed(?:dings?)?|patch_embeddings\.projection|patch_embeddings\.backbone\.bit\.embedder\.convolution)\.weight"
FAMILY = r"(vit|deit|dinov2|dinov2_with_registers|ijepa|vision_model|siglip2?)\."
# Keys that may stand beside such a backbone in files of transformers.
BESIDE = r"(cls_|distillation_)?classifier\.(weight|bias)"

# Maps the names since version 5, and those of each family, to the oldest names of ViT.
RENAMES = [
    (rf"^{FAMILY}", ""),
    (r"^(model\.)?(encoder\.)?layers?\.", "encoder.layer."),
    *aimv2.TRANSFORMERS_RENAMES,
    (r"\.self_attn\.", ".attention."),
    (r"\.attention\.attention\.", ".attention."),
    (r"\.attention\.([qkv])_proj\.", lambda m: f".attention.{dict(q='query', k='key', v='value')[m[1]]}."),
    (r"\.attention\.(output\.dense|o_proj|out_proj)\.", ".attention.output."),
    (r"^(encoder\.layer\.\d+)\.(norm1|layer_norm1)\.", r"\1.layernorm_before."),
    (r"^(encoder\.layer\.\d+)\.(norm2|layer_norm2)\.", r"\1.layernorm_after."),
    (r"^(encoder\.layer\.\d+)\.(intermediate\.dense|mlp\.weights_in)\.", r"\1.mlp.fc1."),
    (r"^(encoder\.layer\.\d+)\.(output\.dense|mlp\.weights_out|mlp\.down_proj)\.", r"\1.mlp.fc2."),
    (r"^embeddings\.(patch_embedding|patch_embeddings\.projection|patch_embeddings(?=\.(weight|bias)))\.", "embeddings.patch."),
    (r"^embeddings\.position_embedding(s|\.weight)$", "embeddings.positions"),
    (r"^embeddings\.(cls_token|class_embedding)$", "embeddings.cls_token"),
    (r"^embeddings\.patch_embeddings\.backbone\.bit\.", "backbone."),
    (r"^pre_layrnorm\.", "embeddings.norm."),
    (r"^(post_layernorm|norm)\.", "layernorm."),
    (r"^pooler\.dense\.", "pooler."),
    (r"^cls_classifier\.", "classifier."),
]

IGNORED = (
    r".*mask_token|decoder.*|text_model.*|text_projection.*|visual_projection.*|logit_(scale|bias)|.*position_ids|"
    r"backbone\.layernorm.*|.*num_batches_tracked"
)

# The activation of a classifier for each problem type.
PROBLEMS = {None: None, "single_label_classification": None, "multi_label_classification": "sigmoid", "regression": "linear"}


def recognizes(names: Any) -> bool:
    return "embeddings.patch.weight" in names and "encoder.layer.0.layernorm_before.weight" in names


def architecture(names: Any, shapes: dict, config: dict, overrides: dict, expected: dict) -> tuple[dict, dict]:
    """Returns the same as `timm.architecture`. `config` is config.json, with preprocessor_config.json under "image_processor"."""
    if aimv2.recognizes(shapes, aimv2.TRANSFORMERS):
        return aimv2.architecture(shapes, aimv2.TRANSFORMERS, config, overrides, expected)
    if dinov3.recognizes(shapes, config):
        return dinov3.architecture(shapes, config, overrides, expected)
    processor = config.get("image_processor")
    problem = config.get("problem_type")
    labels = config.get("id2label")
    config = {**config, **(config.get("vision_config") or {})}
    kind = config.get("model_type") or ""
    if kind:
        known("model_type", kind, MODEL_TYPES)
    naflex = len(shapes["embeddings.patch.weight"]) == 2
    patch_kernel = kernel_shape(shapes["embeddings.patch.weight"], config.get("patch_size"), config.get("num_channels", 3))
    width, layers = patch_kernel[0], count(shapes, "encoder.layer.{}.layernorm_before.weight")
    agree(config, {"hidden_size": width, "num_hidden_layers": layers})
    split_gate = "encoder.layer.0.mlp.gate_proj.weight" in shapes
    gated = shapes["encoder.layer.0.mlp.fc2.weight"][1]
    swiglu = split_gate or shapes["encoder.layer.0.mlp.fc1.weight"][0] == 2 * gated
    class_token, distillation = "embeddings.cls_token" in shapes, "embeddings.distillation_token" in shapes
    registers = shapes["embeddings.register_tokens"][1] if "embeddings.register_tokens" in shapes else 0
    two_heads = "distillation_classifier.weight" in shapes
    clip, has_map = "embeddings.norm.weight" in shapes, "head.probe" in shapes
    scaled = "encoder.layer.0.layer_scale1.lambda1" in shapes
    kind = kind or (
        "siglip2"
        if naflex
        else "clip"
        if clip
        else "siglip"
        if has_map
        else "dinov2"
        if scaled
        else "deit"
        if distillation
        else "vit"
        if class_token
        else "ijepa"
    )
    siglip_classifier = not class_token and "classifier.weight" in shapes
    head = shapes.get("classifier.weight")
    include_top = head is not None and (two_heads or not distillation)
    # SigLIP's classifier averages after the normalization, as "gap" does.
    pooling = "gap" if siglip_classifier else "map" if has_map else "token" if class_token else "gap"
    if head is not None and head[1] == 2 * width:
        pooling = "token_gap"
    elif head is not None and head[1] != width:
        raise ValueError(f"A classifier must read features of {width} or {2 * width}. Received: classifier.weight of shape {tuple(head)}")
    if "pooler.weight" in shapes and not clip:
        known("pooler_act", config.get("pooler_act"), {None: None, "tanh": None})

    stem, stride, channels = None, 1, patch_kernel[1]
    if "backbone.embedder.convolution.weight" in shapes:
        stem = resnet_stem(shapes, "backbone.embedder.convolution.weight", "backbone.encoder.stages.{}.layers.{}.conv1.weight")
        stem["num_groups"] = config.get("backbone_config", {}).get("num_groups", stem["num_groups"])
        stride, channels = 4 * 2 ** max(0, len(stem["block_counts"]) - 1), shapes["backbone.embedder.convolution.weight"][1]
    patch = tuple(patch_kernel[2:])
    class_tokens = class_token + distillation
    size = config.get("image_size") or ()
    size = (size, size) if isinstance(size, int) else tuple(size)
    sizes = [size, *image_sizes(overrides, expected)]
    if "embeddings.positions" not in shapes:
        raise ValueError(f"Models without learned positions are not read. Received: model_type={kind!r}")
    found, cell = shapes["embeddings.positions"][-2], tuple(stride * side for side in patch)
    _, grid = position_grid(found, (class_tokens,), cell, sizes, overrides.get("position_grid"))

    activation = "quick_gelu" if clip else "gelu_tanh" if has_map else "gelu"
    if config.get("hidden_act") is not None:
        activation = known("hidden_act", config["hidden_act"], ACTIVATIONS)
    heads = next(filter(None, (overrides.get("num_heads"), config.get("num_attention_heads"), expected.get("num_heads"))), None)
    resample = "bilinear_antialias" if naflex or "tips" in kind else "bicubic_antialias" if registers else "bicubic"
    arguments = dict(
        input_shape=(*(side * p for side, p in zip(grid, cell)), channels),
        patch_size=patch if patch[0] != patch[1] else patch[0],
        hidden_dim=width,
        num_layers=layers,
        num_heads=heads or num_heads_of(width, layers, gated),
        mlp_dim=gated,
        mlp="swiglu" if swiglu else "mlp",
        activation="silu" if swiglu else activation,
        num_classes=head[0] if include_top else None,
        include_top=include_top,
        class_names=class_names(labels, head[0] if include_top else None),
        classifier_activation=known("problem_type", problem, PROBLEMS) if include_top else None,
        pooling=pooling,
        representation_size=shapes["pooler.weight"][0] if "pooler.weight" in shapes and not clip else None,
        class_token=class_token,
        distillation_token=distillation,
        num_register_tokens=registers,
        prefix_positions=class_tokens > 0,
        position_grid=grid,
        naflex=naflex,
        layer_scale_init=(1.0 if "tips" in kind else 1e-5) if scaled else None,
        qkv_bias="encoder.layer.0.attention.query.bias" in shapes,
        patch_bias="embeddings.patch.bias" in shapes,
        norm_epsilon=config.get("layer_norm_eps", 1e-5 if clip else 1e-6 if has_map or scaled or kind == "ijepa" else 1e-12),
        norm_embeddings=clip,
        stem=stem,
        preprocessing={} if "preprocessing" in overrides else from_processor(processor, kind) if processor else MODEL_TYPES[kind][1],
        position_resample=resample,
    )
    details: dict[str, Any] = dict(unused_map=has_map and siglip_classifier, unused_head=head is not None and not include_top)
    untold = () if config.keys() - {"image_processor"} else ("num_heads", "activation", "norm_epsilon", "position_grid")
    details["assumed"] = (*untold, *(() if processor else ("preprocessing",)))
    return arguments, dict(split_gate=split_gate, **details)


def rows(a: dict[str, Any], split_gate: bool = False, unused_map: bool = False, unused_head: bool = False, matrix: bool = False) -> list:
    """Returns the rows for a full set of arguments of `VisionTransformer`, under the canonical names that `RENAMES` leads to.

    Args:
        a: dict. The arguments.
        split_gate: bool. Whether the first product of a gated network is split in two tensors, as since version 5.
        unused_map: bool. Whether the file holds an attention pooling that the model does not use.
        unused_head: bool. Whether the file has one head on the class token beside a distillation token, unlike DeiT's classes.
        matrix: bool. Whether positions are a matrix although there is no attention pooling, as in SigLIP's classifiers.
    """
    if aimv2.needed(a):
        return aimv2.rows(a, aimv2.TRANSFORMERS)
    if a["rotary"]:
        return dinov3.rows(a)
    patches = cut_patches(a["patch_size"], True) if a["naflex"] else CONV
    table = dense("patch_embedding", "embeddings.patch", patches, use_bias=a["patch_bias"])
    lead = (1,)
    if a["class_token"]:
        tokens = ("embeddings.cls_token", "embeddings.distillation_token")[: 1 + a["distillation_token"]]
        clip = a["norm_embeddings"]  # whose class token and positions are a vector and a matrix
        lead = () if clip else (1,)
        shape = (-1,) if clip else (1, 1, -1)
        layout = Layout(
            lambda *t: np.concatenate([np.reshape(x, (1, 1, -1)) for x in t], axis=1),
            lambda t: tuple(np.reshape(x, shape) for x in np.split(t, len(tokens), axis=1)),
        )
        table.append(row("class_token/token", tokens, layout))
    else:
        lead = () if a["pooling"] == "map" or matrix else (1,)  # a matrix in SigLIP's files
    if a["num_register_tokens"]:
        table.append(row("register_tokens/token", "embeddings.register_tokens"))
    if a["position_embedding"] == "learned":
        table.append(position_row(a, "embeddings.positions", lead))
    if a["stem"] is not None:
        table += resnet_rows(a["stem"], "backbone.embedder.convolution", "backbone.embedder.norm", "backbone.encoder.stages.{}.layers.{}")
    if a["norm_embeddings"]:
        table += norm("embedding_norm", "embeddings.norm")
    for i in range(a["num_layers"]):
        ours, theirs = f"block_{i}", f"encoder.layer.{i}"
        apart = [f"{theirs}.attention.{part}" for part in ("query", "key", "value")]
        table += norm(f"{ours}/norm1", f"{theirs}.layernorm_before") + norm(f"{ours}/norm2", f"{theirs}.layernorm_after")
        table.append(row(f"{ours}/attention/qkv/kernel", [f"{key}.weight" for key in apart], JOINED))
        if a["qkv_bias"]:
            table.append(row(f"{ours}/attention/qkv/bias", [f"{key}.bias" for key in apart], JOINED_BIAS))
        table += dense(f"{ours}/attention/projection", f"{theirs}.attention.output")
        if split_gate:
            table += dense_pair(f"{ours}/mlp/fc1", (f"{theirs}.mlp.gate_proj", f"{theirs}.mlp.up_proj"))
        else:
            table += dense(f"{ours}/mlp/fc1", f"{theirs}.mlp.fc1")
        table += dense(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2")
        if a["layer_scale_init"] is not None:
            table += [row(f"{ours}/layer_scale{n}/gamma", f"{theirs}.layer_scale{n}.lambda1") for n in (1, 2)]
    table += norm("norm", "layernorm")
    if a["pooling"] == "map" or unused_map:
        # `attention.output` is the name that `RENAMES` gives to every output projection.
        table += pooling_rows("head", "head.attention", "head.attention.output", ("head.mlp.fc1", "head.mlp.fc2"))
    if a["representation_size"]:
        table += dense("pre_logits", "pooler")
    if unused_head or a["include_top"]:
        table += dense("head", "classifier")
    return table + (dense("distillation_head", "distillation_classifier") if a["include_top"] and a["distillation_token"] else [])


# --- writing ---

ALLOWED = dict(
    token_merging=(None, 0),
    norm_first=(True,),
    stem=(None,),
    qk_norm=(False,),
    norm_after_pooling=(False,),
    representation_activation=("tanh",),
    unit_feature=(False,),
    activation=tuple(ACTIVATIONS.values()),
)


def _family(a):
    if a["naflex"]:
        return "siglip2"
    if not a["class_token"]:
        return "ijepa" if a["activation"] == "gelu" and a["pooling"] != "map" else "siglip"
    if a["norm_embeddings"]:
        return "clip"
    if a["distillation_token"]:
        return "deit"
    if a["num_register_tokens"] == 1 and not a["include_top"]:
        return "tipsv2"
    if a["num_register_tokens"]:
        return "dinov2_with_registers"
    return "dinov2" if a["layer_scale_init"] is not None or a["mlp"] == "swiglu" else "vit"


def lacks(a: dict[str, Any]) -> list[str]:
    """Returns the arguments of a model that transformers does not support, a list of str such as "norm_first=False"."""
    if aimv2.needed(a):
        return aimv2.lacks(a, aimv2.TRANSFORMERS)
    if a["rotary"]:
        return dinov3.lacks(a)
    family, top = _family(a), a["include_top"]
    pooling = POOLINGS.get(family, ()) if top else HEADLESS_POOLINGS.get(family, ("token", "gap", "token_gap", None))
    allowed = {**ALLOWED, **FAMILIES[family], "pooling": pooling}
    if family == "vit" and (top or a["pooling"] != "token"):
        allowed["representation_size"] = (None,)  # the pooler reads the class token, and classifiers do not read the pooler
    is_square = lambda pair: pair[0] == pair[1]  # noqa: E731
    if family == "siglip2":
        allowed |= dict(class_token=(False,), position_embedding=("learned",), position_grid=is_square, naflex=(True, False))
    if family not in ("vit", "deit"):
        allowed |= {"input_shape": is_square, "patch_size": is_square}
    if family.startswith("dinov2") or (family == "tipsv2" and a["mlp"] == "swiglu"):
        allowed["mlp_dim"] = lambda width: _mlp_ratio(a) is not None
    return [f"{what} in its {family}" for what in lacking(a, allowed)]


def _mlp_ratio(a):
    """Returns DINOv2's integer `mlp_ratio` for `mlp_dim`, or None if there is none."""
    for ratio in range(1, 33):
        width = a["hidden_dim"] * ratio
        if a["mlp_dim"] == (width if a["mlp"] == "mlp" else (int(width * 2 / 3) + 7) // 8 * 8):
            return ratio
    return None


def file(a: dict[str, Any]) -> File:
    """Returns the `File` of a transformers model with the full set of arguments `a`."""
    if aimv2.needed(a):
        return aimv2.file(a, aimv2.TRANSFORMERS)
    if a["rotary"]:
        return dinov3.file(a)
    family, top = _family(a), a["include_top"]
    dinov2, tower = family.startswith(("dinov2", "tipsv2")), family in ("siglip", "siglip2", "clip")
    changes = dict(
        position_embedding="learned",
        prefix_positions=a["class_token"],
        patch_bias=family != "clip",
        qkv_bias=bool(a["qkv_bias"]) or tower,
        pooling="token_gap" if dinov2 and top else a["pooling"],
    )
    renames, with_top, without = list(FORMS[family][0]), *FORMS[family][1:]
    if a["mlp"] == "swiglu":
        split = family == "tipsv2"
        renames += [(r"\.mlp\.fc2\.", ".mlp.down_proj." if split else ".mlp.weights_out."), (r"\.mlp\.fc1\.", ".mlp.weights_in.")]
    if top and not tower:
        renames.append((r"^(?!(cls_|distillation_)?classifier\.)", f"{family}."))

    rename = renaming(renames)

    def key(name):
        return name if tower and name.startswith("classifier.") else rename(name)

    size, channels = a["input_shape"][:2], a["input_shape"][2]
    config = dict(
        hidden_size=a["hidden_dim"],
        num_hidden_layers=a["num_layers"],
        num_attention_heads=a["num_heads"],
        hidden_act={ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}[a["activation"]],
        layer_norm_eps=a["norm_epsilon"],
        image_size=square(size),
        patch_size=square(a["patch_size"]),
        num_channels=channels,
    )
    if dinov2:
        config |= dict(
            mlp_ratio=_mlp_ratio(a) or (a["mlp_dim"] + 0.5) / a["hidden_dim"],
            use_swiglu_ffn=a["mlp"] == "swiglu",
            layerscale_value=a["layer_scale_init"],
        )
    else:
        config |= dict(intermediate_size=a["mlp_dim"])
    if a["num_register_tokens"]:
        config |= dict(num_register_tokens=a["num_register_tokens"])
    if not tower:
        config |= dict(qkv_bias=changes["qkv_bias"])
    if a["representation_size"]:
        config |= dict(pooler_output_size=a["representation_size"], pooler_act="tanh")
    model_type = f"{family}_vision_model" if tower or family == "tipsv2" else family
    if family == "siglip2":
        config["num_patches"] = math.prod(a["position_grid"])
    if family in ("siglip", "siglip2"):
        config |= dict(vision_use_head=a["pooling"] == "map")
        if top:
            config, model_type = dict(vision_config={"model_type": model_type, **config}), family
    if top:
        labels = dict(enumerate(a["class_names"] or [f"LABEL_{i}" for i in range(a["num_classes"])]))
        config |= dict(id2label=labels, label2id={label: i for i, label in labels.items()})
    config = dict(architectures=[with_top if top else without], model_type=model_type, dtype="float32", **config)
    # Only training uses it, but transformers warns if it is missing.
    mask = {f"{f'{family}.' if top else ''}embeddings.mask_token": np.zeros((1, a["hidden_dim"]), "float32")} if dinov2 else {}
    processor = to_processor(a["preprocessing"], size, square(a["patch_size"]) if a["naflex"] else None)
    details = dict(split_gate=family == "tipsv2" and a["mlp"] == "swiglu", matrix=family.startswith("siglip"))
    return File({**a, **changes}, key, {"config.json": config, "preprocessor_config.json": processor}, mask, details=details)
