"""AIMv2 in timm's format, in Apple's own, which has timm's layout, and in Hugging Face transformers'."""

from typing import Any, NamedTuple

from keras_vit.checkpoints.formats.mapping import (
    CONV,
    JOINED_PAIR,
    LINEAR,
    File,
    agree,
    class_names,
    count,
    dense,
    image_sizes,
    known,
    lacking,
    position_grid,
    position_row,
    renaming,
    row,
    square,
)
from keras_vit.checkpoints.formats.preprocessing import from_processor, from_timm, timm_config, to_processor
from keras_vit.checkpoints.formats.qkv import qkv_rows
from keras_vit.families import CLIP

KIND = "aimv2_vision_model"
POOLINGS = {"avg": "gap", "": None}

# From Apple's names to timm's, and from transformers' to the canonical ones of huggingface.py.
APPLE_RENAMES = [
    (r"^preprocessor\.patchifier\.", "patch_embed."),
    (r"^preprocessor\.pos_embed$", "pos_embed"),
    (r"^trunk\.post_trunk_norm\.", "norm."),
    (r"^trunk\.(blocks\.\d+)\.norm_([12])\.", r"\1.norm\2."),
    (r"^trunk\.(blocks\.\d+\.mlp)\.fc1\.", r"\1.fc1_g."),
    (r"^trunk\.(blocks\.\d+\.mlp)\.fc3\.", r"\1.fc1_x."),
    (r"^trunk\.", ""),
]
TRANSFORMERS_RENAMES = [
    (r"^embeddings\.patch_embed\.", "embeddings.patch."),
    (r"^embeddings\.rms_norm\.", "embeddings.patch_norm."),
    (r"^(encoder\.layer\.\d+)\.ffn\.", r"\1.mlp."),
    (r"^(encoder\.layer\.\d+)\.rms_norm1\.", r"\1.layernorm_before."),
    (r"^(encoder\.layer\.\d+)\.rms_norm2\.", r"\1.layernorm_after."),
    (r"^rms_norm\.", "layernorm."),
]


class Names(NamedTuple):
    """Names of the tensors in one of the formats: those of the model, and those within a block."""

    patches: str
    patch_norm: str
    positions: str
    lead: tuple[int, ...]  # axes before the positions
    block: str
    norms: tuple[str, str]
    qkv: Any
    projection: str
    gate: tuple[str, str]
    down: str
    norm: str


TIMM = Names(
    patches="patch_embed.proj",
    patch_norm="patch_embed.norm",
    positions="pos_embed",
    lead=(1,),
    block="blocks.{}",
    norms=("norm1", "norm2"),
    qkv="attn.qkv",
    projection="attn.proj",
    gate=("mlp.fc1_g", "mlp.fc1_x"),
    down="mlp.fc2",
    norm="norm",
)
TRANSFORMERS = Names(
    patches="embeddings.patch",
    patch_norm="embeddings.patch_norm",
    positions="embeddings.positions",
    lead=(),
    block="encoder.layer.{}",
    norms=("layernorm_before", "layernorm_after"),
    qkv=("attention.query", "attention.key", "attention.value"),
    projection="attention.output",
    gate=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.fc2",
    norm="layernorm",
)


def recognizes(shapes: dict, names: Names) -> bool:
    """Returns whether the canonical keys of a file are AIMv2's: a normalization of the patches, and none with an offset."""
    return f"{names.patch_norm}.weight" in shapes and f"{names.norm}.bias" not in shapes


def architecture(shapes: dict, names: Names, config: dict, overrides: dict, expected: dict) -> tuple[dict, dict]:
    """Returns the same as `timm.architecture`. `config` may also be transformers' beside Apple's own tensors."""
    if pooling := [key for key in shapes if key.startswith("head.") and not key.startswith(("head.weight", "head.bias"))]:
        raise ValueError(
            f"The attention pooling of AIMv2's -lit model is not read; the models without it are. Received: {', '.join(pooling)}"
        )
    processor = config.get("image_processor")
    config = {key: value for key, value in config.items() if key != "image_processor"}
    config = {**config, **(config.get("vision_config") or {})}
    given, trained = config.get("model_args") or {}, config.get("pretrained_cfg") or config
    width, channels, *patch = shapes[f"{names.patches}.weight"]
    block = names.block.format(0)
    layers, hidden = count(shapes, f"{names.block}.{names.norms[0]}.weight"), shapes[f"{block}.{names.down}.weight"][1]
    agree(config, {"hidden_size": width, "num_features": width, "num_hidden_layers": layers})
    known("hidden_act", config.get("hidden_act", "silu"), {"silu": None})
    size = given.get("img_size") or config.get("image_size") or trained.get("input_size", ())[1:]
    sizes = [(size, size) if isinstance(size, int) else tuple(size), *image_sizes(overrides, expected)]
    learned = names.positions in shapes
    if learned:
        _, grid = position_grid(shapes[names.positions][-2], (0,), tuple(patch), sizes, overrides.get("position_grid"))
    else:  # the native models compute them, for any grid
        rows, columns = next((size for size in sizes if len(size) == 2 and None not in size), (224, 224))
        grid = rows // patch[0], columns // patch[1]
    head = shapes.get("head.weight")
    stated = next((c["global_pool"] for c in (given, config, trained) if c.get("global_pool") is not None), "avg")
    heads = (overrides.get("num_heads"), given.get("num_heads"), config.get("num_attention_heads"), expected.get("num_heads"))
    arguments = dict(
        input_shape=(grid[0] * patch[0], grid[1] * patch[1], channels),
        patch_size=tuple(patch) if patch[0] != patch[1] else patch[0],
        hidden_dim=width,
        num_layers=layers,
        num_heads=next(filter(None, heads), None) or max(1, width // 128),
        mlp_dim=hidden,
        mlp="swiglu",
        activation="silu",
        num_classes=head[0] if head else None,
        include_top=head is not None,
        class_names=class_names(config.get("label_names") or trained.get("label_names"), head[0] if head else None),
        pooling=known("global_pool", stated, POOLINGS),
        class_token=False,
        prefix_positions=False,
        position_embedding="learned" if learned else "sincos2d_mae",
        position_grid=grid if learned else None,
        qkv_bias=False,
        projection_bias=False,
        norm="rms",
        norm_epsilon=config.get("rms_norm_eps", 1e-5),
        norm_embeddings="patches",
        preprocessing=_preprocessing(config, trained, processor, overrides),
        position_resample="bicubic_antialias",
    )
    told = () if config else ("num_heads", "norm_epsilon", "position_grid")
    return arguments, dict(assumed=(*told, *(() if processor or "mean" in trained else ("preprocessing",))))


def _preprocessing(config, trained, processor, overrides):
    if "preprocessing" in overrides:
        return {}
    if processor:
        return from_processor(processor, KIND)
    return from_timm(trained) if "architecture" in config else {**CLIP, "crop_fraction": 1.0}


def rows(a: dict[str, Any], names: Names) -> list:
    """Returns the rows for a full set of arguments of `VisionTransformer`."""

    def scale(path, key):
        return row(f"{path}/scale", f"{key}.weight")

    table = [position_row(a, names.positions, names.lead)] if a["position_embedding"] == "learned" else []
    table += [*dense("patch_embedding", names.patches, CONV), scale("embedding_norm", names.patch_norm)]
    for i in range(a["num_layers"]):
        ours, theirs = f"block_{i}", names.block.format(i)
        qkv = names.qkv if isinstance(names.qkv, tuple) else (names.qkv,)
        kernel = [f"{theirs}.{part}.weight" for part in qkv]
        table += [scale(f"{ours}/norm{n}", f"{theirs}.{key}") for n, key in zip((1, 2), names.norms)]
        table += qkv_rows(a, f"{ours}/attention/qkv", kernel if len(kernel) > 1 else kernel[0], ())
        table.append(row(f"{ours}/attention/projection/kernel", f"{theirs}.{names.projection}.weight", LINEAR))
        table.append(row(f"{ours}/mlp/fc1/kernel", [f"{theirs}.{part}.weight" for part in names.gate], JOINED_PAIR))
        table.append(row(f"{ours}/mlp/fc2/kernel", f"{theirs}.{names.down}.weight", LINEAR))
    table.append(scale("norm", names.norm))
    return table + (dense("head", "head") if a["include_top"] else [])


# --- writing ---

ALLOWED: dict = dict(
    norm=("rms",),
    norm_embeddings=("patches",),
    projection_bias=(False,),
    qkv_bias=(False,),
    patch_bias=(True,),
    mlp=("swiglu",),
    activation=("silu",),
    class_token=(False,),
    distillation_token=(False,),
    num_register_tokens=(0,),
    layer_scale_init=(None,),
    qk_norm=(False,),
    norm_first=(True,),
    norm_after_pooling=(False,),
    stem=(None,),
    representation_size=(None,),
    pooling=tuple(POOLINGS.values()),
)


def needed(a: dict[str, Any]) -> bool:
    """Returns whether a model is written as AIMv2, if at all."""
    return a["norm"] == "rms"


def lacks(a: dict[str, Any], names: Names) -> list[str]:
    """Returns the arguments of a model that timm's or transformers' AIMv2 does not support."""
    if names is TIMM:
        return lacking(a, {**ALLOWED, "norm_epsilon": (1e-5,)})
    equal = lambda pair: pair[0] == pair[1]  # noqa: E731
    allowed = {**ALLOWED, "include_top": (False,), "patch_size": equal, "input_shape": equal}
    return [f"{what} in its aimv2" for what in lacking(a, allowed)]


WRITTEN_NAMES = [
    (r"^embeddings\.patch\.", "embeddings.patch_embed."),
    (r"^embeddings\.patch_norm\.", "embeddings.rms_norm."),
    (r"^embeddings\.positions$", "embeddings.position_embedding.weight"),
    (r"^encoder\.layer\.", "encoder.layers."),
    (r"\.attention\.(query|key|value)\.", lambda m: f".attention.{m[1][0]}_proj."),
    (r"\.attention\.output\.", ".attention.out_proj."),
    (r"\.layernorm_before\.", ".rms_norm1."),
    (r"\.layernorm_after\.", ".rms_norm2."),
    (r"\.mlp\.fc2\.", ".ffn.down_proj."),
    (r"\.mlp\.", ".ffn."),
    (r"^layernorm\.", "rms_norm."),
]


def file(a: dict[str, Any], names: Names) -> File:
    """Returns the `File` of an AIMv2 with the full set of arguments `a`."""
    size, channels = a["input_shape"][:2], a["input_shape"][2]
    native = a["position_embedding"] == "sincos2d_mae" and names is TRANSFORMERS
    arguments = {**a, "position_embedding": a["position_embedding"] if native else "learned"}
    if names is TIMM:
        ratio = a["mlp_dim"] / a["hidden_dim"]
        model_args = dict(
            img_size=list(size),
            patch_size=square(a["patch_size"]),
            in_chans=channels,
            num_classes=a["num_classes"] if a["include_top"] else 0,
            global_pool={ours: theirs for theirs, ours in POOLINGS.items()}[a["pooling"]],
            embed_dim=a["hidden_dim"],
            depth=a["num_layers"],
            num_heads=a["num_heads"],
            # timm rounds the product down.
            mlp_ratio=ratio if int(a["hidden_dim"] * ratio) == a["mlp_dim"] else (a["mlp_dim"] + 0.5) / a["hidden_dim"],
        )
        config = timm_config(a, "aimv2_large_patch14_224", model_args, "patch_embed.proj")
        return File(arguments, lambda name: name, {"config.json": config})

    config = dict(
        architectures=["Aimv2VisionModel"],
        model_type=KIND,
        dtype="float32",
        hidden_size=a["hidden_dim"],
        intermediate_size=a["mlp_dim"],
        num_hidden_layers=a["num_layers"],
        num_attention_heads=a["num_heads"],
        num_channels=channels,
        image_size=size[0],
        patch_size=a["patch_size"][0],
        hidden_act="silu",
        rms_norm_eps=a["norm_epsilon"],
        qkv_bias=False,
        mlp_bias=False,
        use_head=False,
        is_native=native,
    )
    processor = to_processor(a["preprocessing"], size)
    return File(arguments, renaming(WRITTEN_NAMES), {"config.json": config, "preprocessor_config.json": processor})
