"""DINOv3 in Hugging Face transformers' format."""

from typing import Any

import numpy as np

from keras_vit.checkpoints.formats import rotary
from keras_vit.checkpoints.formats.mapping import (
    CONV,
    JOINED_PAIR,
    JOINED_PAIR_BIAS,
    File,
    agree,
    count,
    dense,
    image_sizes,
    lacking,
    norm,
    renaming,
    row,
    square,
)
from keras_vit.checkpoints.formats.preprocessing import MODEL_TYPES, from_processor, to_processor
from keras_vit.checkpoints.formats.qkv import qkv_rows
from keras_vit.presets import num_heads_of

KIND = "dinov3_vit"
LAYER = "encoder.layer.0"


def recognizes(shapes: dict, config: dict[str, Any]) -> bool:
    """Returns whether a file in transformers' format is of DINOv3, by its canonical keys and config.json."""
    return config.get("model_type", KIND) == KIND and f"{LAYER}.mlp.up_proj.weight" in shapes and "embeddings.positions" not in shapes


def architecture(shapes: dict, config: dict, overrides: dict, expected: dict) -> tuple[dict, dict]:
    """Returns the same as `huggingface.architecture`."""
    processor = config.get("image_processor")
    config = {key: value for key, value in config.items() if key != "image_processor"}
    width, channels, *patch = shapes["embeddings.patch.weight"]
    layers, hidden = count(shapes, "encoder.layer.{}.layernorm_before.weight"), shapes[f"{LAYER}.mlp.up_proj.weight"][0]
    agree(config, {"hidden_size": width, "num_hidden_layers": layers})
    mlp = "swiglu" if f"{LAYER}.mlp.gate_proj.weight" in shapes else "mlp"
    size = config.get("image_size") or ()
    sizes = [(size, size) if isinstance(size, int) else tuple(size), *image_sizes(overrides, expected), (224, 224)]
    rows, columns = next(size for size in sizes if len(size) == 2 and None not in size)
    theta = config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta") or 100.0
    augments = {name: config.get(f"pos_embed_{name}", 2.0 if name == "rescale" else None) for name in ("shift", "jitter", "rescale")}
    biases = tuple(f"{LAYER}.attention.{part}.bias" in shapes for part in ("query", "key", "value"))
    if biases not in ((True, False, True), (True, True, True), (False, False, False)):
        raise ValueError(f"Queries and values must both have a bias, or none. Received: biases of queries, keys and values={biases}")
    arguments = dict(
        input_shape=(rows // patch[0] * patch[0], columns // patch[1] * patch[1], channels),
        patch_size=tuple(patch) if patch[0] != patch[1] else patch[0],
        hidden_dim=width,
        num_layers=layers,
        num_heads=next(filter(None, (overrides.get("num_heads"), config.get("num_attention_heads"), expected.get("num_heads"))), None)
        or num_heads_of(width, layers, hidden, mlp),
        mlp_dim=hidden,
        mlp=mlp,
        activation="silu" if mlp == "swiglu" else "gelu",
        include_top=False,
        pooling="token",
        num_register_tokens=shapes["embeddings.register_tokens"][1] if "embeddings.register_tokens" in shapes else 0,
        position_embedding="none",
        rotary=dict(coordinates="normalized", base=float(theta), **augments),
        layer_scale_init=1e-5,
        qkv_bias=True if biases[1] else "query_value" if biases[0] else False,
        norm_epsilon=config.get("layer_norm_eps", 1e-5),
        preprocessing={}
        if "preprocessing" in overrides
        else from_processor(processor, KIND)
        if processor
        else {**MODEL_TYPES[KIND][1], "crop_fraction": 1.0, "crop_mode": "squash", "interpolation": "bilinear"},
        position_resample="bicubic_antialias",
    )
    untold = () if config else ("num_heads", "activation", "norm_epsilon", "rotary")
    return arguments, dict(assumed=(*untold, *(() if processor else ("preprocessing",))))


def rows(a: dict[str, Any]) -> list:
    """Returns the rows for a full set of arguments of `VisionTransformer`."""
    table = [row("class_token/token", "embeddings.cls_token")] + dense("patch_embedding", "embeddings.patch", CONV)
    if a["num_register_tokens"]:
        table.append(row("register_tokens/token", "embeddings.register_tokens"))
    for i in range(a["num_layers"]):
        ours, theirs = f"block_{i}", f"encoder.layer.{i}"
        parts = ("query", "key", "value") if a["qkv_bias"] is True else ("query", "value")
        kernel = [f"{theirs}.attention.{part}.weight" for part in ("query", "key", "value")]
        table += norm(f"{ours}/norm1", f"{theirs}.layernorm_before") + norm(f"{ours}/norm2", f"{theirs}.layernorm_after")
        table += qkv_rows(a, f"{ours}/attention/qkv", kernel, [f"{theirs}.attention.{part}.bias" for part in parts])
        table += dense(f"{ours}/attention/projection", f"{theirs}.attention.output")
        if a["mlp"] == "swiglu":
            gate = [f"{theirs}.mlp.{part}_proj" for part in ("gate", "up")]
            table.append(row(f"{ours}/mlp/fc1/kernel", [f"{key}.weight" for key in gate], JOINED_PAIR))
            table.append(row(f"{ours}/mlp/fc1/bias", [f"{key}.bias" for key in gate], JOINED_PAIR_BIAS))
        else:
            table += dense(f"{ours}/mlp/fc1", f"{theirs}.mlp.up_proj")
        table += dense(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2")
        table += [row(f"{ours}/layer_scale{n}/gamma", f"{theirs}.layer_scale{n}.lambda1") for n in (1, 2)]
    return table + norm("norm", "layernorm")


# --- writing ---

RENAMES = [
    (r"^embeddings\.patch\.", "embeddings.patch_embeddings."),
    (r"\.attention\.(query|key|value)\.", lambda m: f".attention.{m[1][0]}_proj."),
    (r"\.attention\.output\.", ".attention.o_proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.mlp\.fc2\.", ".mlp.down_proj."),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.", ""),
]
ALLOWED: dict = dict(
    rotary=lambda rotary: rotary["coordinates"] == "normalized" and rotary["axes"] == "yx" and rotary["frequencies"] == "fixed",
    position_embedding=("none",),
    class_token=(True,),
    distillation_token=(False,),
    include_top=(False,),
    pooling=("token", None),
    representation_size=(None,),
    layer_scale_init=lambda init: init is not None,
    norm_first=(True,),
    norm_embeddings=(False,),
    patch_bias=(True,),
    stem=(None,),
    qk_norm=(False,),
    norm_after_pooling=(False,),
    activation=("gelu", "silu"),
)


def lacks(a: dict[str, Any]) -> list[str]:
    """Returns the arguments of a model that transformers' DINOv3 does not support."""
    return [f"{what} in its {KIND}" for what in lacking(a, ALLOWED)] + rotary.rounded(a["rotary"])


def file(a: dict[str, Any]) -> File:
    """Returns the `File` of a transformers model with the full set of arguments `a`."""
    height, width, channels = a["input_shape"]
    size = (height, width)

    turned = a["rotary"]
    config = dict(
        architectures=["DINOv3ViTModel"],
        model_type=KIND,
        dtype="float32",
        hidden_size=a["hidden_dim"],
        intermediate_size=a["mlp_dim"],
        num_hidden_layers=a["num_layers"],
        num_attention_heads=a["num_heads"],
        num_register_tokens=a["num_register_tokens"],
        hidden_act=a["activation"],
        use_gated_mlp=a["mlp"] == "swiglu",
        query_bias=bool(a["qkv_bias"]),
        key_bias=a["qkv_bias"] is True,
        value_bias=bool(a["qkv_bias"]),
        layer_norm_eps=a["norm_epsilon"],
        layerscale_value=a["layer_scale_init"],
        rope_theta=turned["base"],
        **{f"pos_embed_{name}": turned[name] for name in ("shift", "jitter", "rescale")},
        image_size=square(size),
        patch_size=square(a["patch_size"]),
        num_channels=channels,
    )
    processor = to_processor(a["preprocessing"], size)
    if processor["image_processor_type"] == "ViTImageProcessor":
        processor["image_processor_type"] = "DINOv3ViTImageProcessorFast"
    mask = {"embeddings.mask_token": np.zeros((1, 1, a["hidden_dim"]), "float32")}
    if not a["num_register_tokens"]:
        mask["embeddings.register_tokens"] = np.zeros((1, 0, a["hidden_dim"]), "float32")
    return File(a, renaming(RENAMES), {"config.json": config, "preprocessor_config.json": processor}, mask)
