"""timm's layout, which is Meta's too: DeiT, DeiT-III, MAE and DINOv2."""

import numpy as np

from keras_vit.checkpoints.mapping import CONV, Layout, count, dense, norm, position_row, resnet_rows, resnet_stem, row, square_grid
from keras_vit.presets import num_heads_of

NAME = "timm"

RENAMES = [
    (r"^(module|backbone|encoder)\.", ""),
    (r"\.gamma_1$", ".ls1.gamma"),  # DeiT-III
    (r"\.gamma_2$", ".ls2.gamma"),
    (r"^register_tokens$", "reg_token"),  # DINOv2
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # DINOv2 in chunks
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"^pre_logits\.fc\.", "pre_logits."),
    (r"^patch_embed\.backbone\.(conv|norm)\.", r"patch_embed.backbone.stem.\1."),  # a stem without stages
    (r"^fc_norm\.", "norm."),
]

IGNORED = r"mask_token|decoder.*|num_batches_tracked|.*\.num_batches_tracked|.*relative_position_index|mlm_head.*"


def recognises(names):
    return "patch_embed.proj.weight" in names and "blocks.0.norm1.weight" in names


def architecture(names, shapes, config, overrides):
    """Returns the arguments of `VisionTransformer` that a file stands for, and how its form departs from them (see `rows`).

    Args:
        names: dict from canonical key to the file's.
        shapes: dict from canonical key to shape.
        config: dict, timm's config.json; empty for Meta's files.
        overrides: dict of arguments that the user gives, for what the file does not tell.
    """
    given, trained = config.get("model_args", {}), config.get("pretrained_cfg", {})
    arch = config.get("architecture", "")
    width = shapes["patch_embed.proj.weight"][0]
    layers = count(shapes, "blocks.{}.norm1.weight")
    hidden, gated = shapes["blocks.0.mlp.fc1.weight"][0], shapes["blocks.0.mlp.fc2.weight"][1]
    class_token, distillation = "cls_token" in shapes, "dist_token" in shapes
    registers = shapes["reg_token"][1] if "reg_token" in shapes else 0
    after_pooling = "fc_norm.weight" in names.values()
    pooling = given.get("global_pool", config.get("global_pool", trained.get("global_pool")))
    if "attn_pool.latent" in shapes:
        pooling = "map"
    elif after_pooling or pooling == "avg" or not class_token:
        pooling = "gap" if pooling != "" else None
    else:
        pooling = None if pooling == "" else "token"

    if "patch_embed.backbone.stem.conv.weight" in shapes:
        root = "patch_embed.backbone.stem.conv.weight"
        stem, channels = resnet_stem(shapes, root, "patch_embed.backbone.stages.{}.blocks.{}.conv1.weight"), shapes[root][1]
        stride = 4 * 2 ** max(0, len(stem["block_counts"]) - 1)
    elif "patch_embed.stem.0.0.weight" in shapes:
        stem, channels = _conv_stem(shapes), shapes["patch_embed.stem.0.0.weight"][1]
        stride = int(np.prod(stem["strides"]))
    else:
        stem, channels, stride = None, shapes["patch_embed.proj.weight"][1], 1
    patch = tuple(shapes["patch_embed.proj.weight"][2:])

    class_tokens = class_token + distillation
    found = shapes["pos_embed"][1] if "pos_embed" in shapes else 0
    size = given.get("img_size") or trained.get("input_size", (None, None, None))[1:]
    size = (size, size) if isinstance(size, int) else tuple(size)
    prefix, grid = None, None
    if None not in size:
        grid = tuple(side // (stride * p) for side, p in zip(size, patch))
        prefix = found - grid[0] * grid[1]
    if prefix not in (0, class_tokens, class_tokens + registers):
        # The file knows better than its config, which a fine-tuning at another size may not have changed.
        prefix, grid = square_grid(found, (class_tokens, 0, class_tokens + registers))
    head = shapes.get("head.weight")
    clip = "norm_pre.weight" in shapes
    tanh = any(part in arch for part in ("so400m_patch16_siglip", "so400m_patch14_siglip", "gigaopt", "giantopt", "vit_intern"))
    activation = {"gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}.get(given.get("act_layer"), "gelu_tanh" if tanh else "gelu")
    arguments = dict(
        input_shape=(*(side * stride * p for side, p in zip(grid, patch)), channels) if grid else None,
        patch_size=patch if patch[0] != patch[1] else patch[0],
        hidden_dim=width,
        num_layers=layers,
        num_heads=overrides.get("num_heads") or given.get("num_heads") or num_heads_of(width, layers),
        mlp_dim=gated,
        mlp="swiglu" if hidden == 2 * gated else "mlp",
        activation="silu" if hidden == 2 * gated else "quick_gelu" if "quickgelu" in arch else activation,
        num_classes=head[0] if head else None,
        include_top=head is not None,
        pooling=pooling,
        representation_size=shapes["pre_logits.weight"][0] if "pre_logits.weight" in shapes else None,
        class_token=class_token,
        distillation_token=distillation,
        num_register_tokens=registers,
        prefix_positions=prefix == class_tokens > 0,
        position_grid=grid,
        layer_scale_init=1e-5 if "blocks.0.ls1.gamma" in shapes else None,
        qkv_bias="blocks.0.attn.qkv.bias" in shapes,
        patch_bias="patch_embed.proj.bias" in shapes,
        qk_norm="blocks.0.attn.q_norm.weight" in shapes,
        norm_epsilon=1e-5 if clip else 1e-6,
        norm_embeddings=clip,
        norm_after_pooling=after_pooling,
        stem=stem,
        preprocessing=_preprocessing(trained),
        position_resample="bicubic_antialias",
    )
    if not config:  # Meta's own files
        dinov2 = "mask_token" in shapes
        arguments["position_resample"] = "bicubic_dinov2" if dinov2 and not registers else "bicubic_antialias" if dinov2 else "bicubic"
        arguments["preprocessing"] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    return arguments, dict(register_positions=registers > 0 and prefix == class_tokens + registers)


def _preprocessing(trained):
    keys = {"mean": "mean", "std": "std", "interpolation": "interpolation", "crop_fraction": "crop_pct"}
    found = {ours: trained[theirs] for ours, theirs in keys.items() if theirs in trained}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}


def _conv_stem(shapes):
    kernels = [shapes[f"patch_embed.stem.{i}.0.weight"] for i in range(count(shapes, "patch_embed.stem.{}.0.weight"))]
    filters = tuple(kernel[0] for kernel in kernels)
    return dict(kind="conv", filters=filters, strides=tuple(1 if kernel[0] == kernel[1] else 2 for kernel in kernels))


def rows(a, register_positions=False):
    """Returns the rows for a full set of arguments of `VisionTransformer`.

    Args:
        a: the arguments.
        register_positions: bool. In the file class and register tokens have positions. Both are learned constants: they are added up.
    """
    table = []
    class_tokens = ("cls_token", "dist_token")[: a["class_token"] + a["distillation_token"]]
    if register_positions:
        table.append(_tokens_with_positions(a, class_tokens))
    else:
        if class_tokens:
            split = Layout(lambda *t: np.concatenate(t, axis=1), lambda t: tuple(np.split(t, len(class_tokens), axis=1)))
            table.append(row("class_token/token", class_tokens, split))
        if a["num_register_tokens"]:
            table.append(row("register_tokens/token", "reg_token"))
        if a["position_embedding"] == "learned":
            table.append(position_row(a, "pos_embed"))
    table += dense("patch_embedding", "patch_embed.proj", CONV, use_bias=a["patch_bias"])
    if a["stem"] is not None:
        backbone = "patch_embed.backbone"
        resnet = (f"{backbone}.stem.conv", f"{backbone}.stem.norm", f"{backbone}.stages.{{}}.blocks.{{}}")
        table += resnet_rows(a["stem"], *resnet) if a["stem"]["kind"] == "resnet" else _conv_stem_rows(a["stem"])
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


def _tokens_with_positions(a, class_tokens):
    paths = (("class_token/token",) if class_tokens else ()) + ("register_tokens/token", "position_embedding/table")
    count, grid = len(class_tokens), a["position_grid"]

    def read(*arrays):
        *tokens, positions = arrays
        tokens = np.concatenate(tokens, axis=1)
        prefix = tokens.shape[1]
        tokens = tokens + positions[:, :prefix]
        table = np.reshape(positions[:, prefix:], (*grid, -1))
        return (tokens[:, :count], tokens[:, count:], table) if count else (tokens, table)

    return row(paths, (*class_tokens, "reg_token", "pos_embed"), Layout(read, None))


def _conv_stem_rows(stem):
    table = []
    for i in range(len(stem["filters"])):
        theirs = f"patch_embed.stem.{i}"
        table.append(row(f"stem/conv_{i}/kernel", f"{theirs}.0.weight", CONV))
        table += norm(f"stem/norm_{i}", f"{theirs}.1")
        table += [row(f"stem/norm_{i}/moving_{ours}", f"{theirs}.1.running_{key}") for ours, key in (("mean", "mean"), ("variance", "var"))]
    return table
