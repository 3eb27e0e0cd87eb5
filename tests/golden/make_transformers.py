"""Makes `transformers/`: tiny random Hugging Face checkpoints, with what transformers itself computes from them.

    pip install torch==2.13.0 transformers==5.24.0 safetensors pillow
    python make_transformers.py [names of fixtures, default all]

makes all but the few that version 5 cannot make, or writes with other names than the published files have (BY_VERSION_4):

    pip install torch==2.13.0 transformers==4.57.6 safetensors pillow
    python make_transformers.py

Everything is seeded: the same versions give the same numbers.

A fixture is a folder as `save_pretrained` writes it, and beside it
    ours.json     the arguments of keras_vit.VisionTransformer that differ from its defaults
    expected.npz  images (2, H, W, 3), normalized; tokens (2, N, D), after the final norm; and where there are such: pooled (2, D),
                  logits (2, C), cls_logits and distillation_logits (DeiT, whose logits are their mean), image_embeds (CLIP's
                  projection), images_other and tokens_other (another image size, positions interpolated by transformers)

Heads that ours has not are left out of ours.json, and their logits are kept: Dinov2 classifies concat(class token, mean of the patch
tokens), DeiT without teacher the class token alone. CLIP normalizes only its class token; `tokens` has the norm on all of them.
"""

import json
import shutil
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import transformers
from gradients import write_gradients
from safetensors.torch import load_file

HERE = Path(__file__).parent / "transformers"
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
SQUARE = {"size": {"height": 32, "width": 32}}
CROP = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}

PROCESSORS = {
    "vit": ("ViTImageProcessor", SQUARE),
    "deit": ("DeiTImageProcessor", {"size": {"height": 36, "width": 36}, "crop_size": {"height": 32, "width": 32}, **IMAGENET}),
    "dinov2": ("BitImageProcessor", {**CROP, **IMAGENET}),
    "mae": ("ViTImageProcessor", {**SQUARE, **IMAGENET}),
    "siglip": ("SiglipImageProcessor", SQUARE),
    "tipsv2": ("Tipsv2ImageProcessor", SQUARE),
    "clip": ("CLIPImageProcessor", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}),
    "hybrid": (
        "ViTHybridImageProcessor",
        {
            "size": {"shortest_edge": 64},
            "crop_size": {"height": 64, "width": 64},
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
    ),
}

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
PLAIN = {**SHAPE, "intermediate_size": 64}
VIT = {**PLAIN, "layer_norm_eps": 1e-6, "num_labels": 7}
DINO = {**SHAPE, "mlp_ratio": 2, "num_labels": 7}
GIANT = {**SHAPE, "mlp_ratio": 4, "use_swiglu_ffn": True}
TIPS = {**DINO, "num_register_tokens": 1}
IJEPA = {**PLAIN, "layer_norm_eps": 1e-6}
AIMV2 = {**PLAIN, "use_head": False}
MAE = {
    **PLAIN,
    "layer_norm_eps": 1e-6,
    "mask_ratio": 0.0,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}
TEXT = {
    "vocab_size": 12,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 4,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
SIGLIP = {"vision_config": PLAIN, "text_config": {**TEXT, "projection_size": 32}}
CLIP = {"vision_config": PLAIN, "text_config": TEXT, "projection_dim": 16}
HYBRID = {
    **PLAIN,
    "layer_norm_eps": 1e-6,
    "num_labels": 7,
    "image_size": 64,
    "patch_size": 1,
    "backbone_featmap_shape": [1, 128, 4, 4],
    "backbone_config": {
        "model_type": "bit",
        "layer_type": "bottleneck",
        "global_padding": "same",
        "embedding_dynamic_padding": True,
        "embedding_size": 8,
        "hidden_sizes": [32, 64, 128],
        "depths": [2, 1, 2],
        "num_groups": 4,
        "out_features": ["stage3"],
    },
}

OURS = {"input_shape": [32, 32, 3], "patch_size": 8, "hidden_dim": 32, "num_layers": 2, "num_heads": 4, "mlp_dim": 64, "num_classes": 0}
HEAD = {"num_classes": 7}
POOLER = {"representation_size": 32}
DISTILLED = {"distillation_token": True}
OURS_DINO = {"layer_scale_init": 1.0}
OURS_GIANT = {"layer_scale_init": 1.0, "mlp": "swiglu", "mlp_dim": 88}
# The table has N + 1 positions, of the class token and the patches but not of the registers: ours adds the first to the class token.
OURS_REGISTERS = {"layer_scale_init": 1.0, "num_register_tokens": 4, "prefix_positions": False}
NO_CLASS = {"class_token": False, "prefix_positions": False, "activation": "gelu_tanh"}
OURS_SIGLIP = {**NO_CLASS, "pooling": "map"}
OURS_CLIP = {"norm_embeddings": True, "patch_bias": False, "activation": "quick_gelu", "norm_epsilon": 1e-5}
OURS_TIPS = {"layer_scale_init": 1.0, "num_register_tokens": 1, "position_resample": "bilinear_antialias"}
OURS_IJEPA = {"class_token": False, "prefix_positions": False, "pooling": "gap", "position_resample": "bicubic"}
OURS_AIMV2 = {"class_token": False, "prefix_positions": False, "pooling": "gap", "norm": "rms", "norm_embeddings": "patches"}
OURS_AIMV2.update({"norm_epsilon": 1e-5, "mlp": "swiglu", "qkv_bias": False, "projection_bias": False})
OURS_HYBRID = {
    "num_classes": 7,
    "input_shape": [64, 64, 3],
    "patch_size": 1,
    "stem": {"kind": "resnet", "block_counts": [2, 1, 2], "width": 8, "num_groups": 4},
}

NEW = {"save_original_format": False}
SHARDS = {"max_shard_size": "60KB"}
OTHER = (24, 40)  # one side shrinks and one grows: with and without antialiasing differ

# name: (class, its configuration, ours, processor, how it is saved, another image size)
FIXTURES = {
    "vit": ("ViTForImageClassification", VIT, HEAD, "vit", {}, OTHER),
    "vit_new": ("ViTForImageClassification", VIT, HEAD, "vit", NEW, None),
    "vit_eps12": ("ViTForImageClassification", {**VIT, "layer_norm_eps": 1e-12}, {**HEAD, "norm_epsilon": 1e-12}, "vit", {}, None),
    "vit_no_qkv_bias": ("ViTForImageClassification", {**VIT, "qkv_bias": False}, {**HEAD, "qkv_bias": False}, "vit", {}, None),
    "vit_base": ("ViTModel", VIT, POOLER, "vit", {}, None),
    "vit_base_new": ("ViTModel", VIT, POOLER, "vit", NEW, None),
    "vit_sharded": ("ViTForImageClassification", VIT, HEAD, "vit", SHARDS, None),
    "vit_bin": ("ViTForImageClassification", VIT, HEAD, "vit", {"pickled": True}, None),
    "vit_bfloat16": ("ViTForImageClassification", VIT, HEAD, "vit", {"dtype": torch.bfloat16}, None),
    "deit": ("DeiTForImageClassification", VIT, DISTILLED, "deit", {}, None),
    "deit_teacher": ("DeiTForImageClassificationWithTeacher", VIT, {**DISTILLED, **HEAD}, "deit", {}, None),
    "dinov2": ("Dinov2Model", DINO, OURS_DINO, "dinov2", {}, OTHER),
    "dinov2_new": ("Dinov2Model", DINO, OURS_DINO, "dinov2", NEW, None),
    "dinov2_classifier": ("Dinov2ForImageClassification", DINO, {**OURS_DINO, **HEAD, "pooling": "token_gap"}, "dinov2", {}, None),
    "dinov2_swiglu": ("Dinov2Model", GIANT, OURS_GIANT, "dinov2", {}, None),
    "dinov2_swiglu_new": ("Dinov2Model", GIANT, OURS_GIANT, "dinov2", NEW, None),
    "dinov2_registers": ("Dinov2WithRegistersModel", {**DINO, "num_register_tokens": 4}, OURS_REGISTERS, "dinov2", {}, OTHER),
    "mae": ("ViTMAEModel", MAE, {}, "mae", {}, None),
    "mae_pretraining": ("ViTMAEForPreTraining", MAE, {}, "mae", {}, None),
    "tipsv2": ("Tipsv2VisionModel", TIPS, OURS_TIPS, "tipsv2", {}, None),
    "tipsv2_new": ("Tipsv2VisionModel", TIPS, OURS_TIPS, "tipsv2", NEW, OTHER),
    "tipsv2_swiglu": ("Tipsv2VisionModel", {**TIPS, **GIANT}, {**OURS_TIPS, "mlp": "swiglu", "mlp_dim": 88}, "tipsv2", {}, None),
    "ijepa": ("IJepaModel", IJEPA, OURS_IJEPA, "vit", {}, OTHER),
    "ijepa_new": ("IJepaModel", IJEPA, OURS_IJEPA, "vit", NEW, None),
    "aimv2": ("Aimv2VisionModel", AIMV2, OURS_AIMV2, "clip", {}, None),
    "aimv2_native": (
        "Aimv2VisionModel",
        {**AIMV2, "is_native": True},
        {**OURS_AIMV2, "position_embedding": "sincos2d_mae"},
        "clip",
        {},
        OTHER,
    ),
    "siglip_vision": ("SiglipVisionModel", PLAIN, OURS_SIGLIP, "siglip", {}, None),
    "siglip_vision_new": ("SiglipVisionModel", PLAIN, OURS_SIGLIP, "siglip", NEW, None),
    "siglip": ("SiglipModel", SIGLIP, OURS_SIGLIP, "siglip", {}, None),
    "siglip_classifier": (
        "SiglipForImageClassification",
        {"num_labels": 7, **SIGLIP},
        {**NO_CLASS, **HEAD, "pooling": "gap"},
        "siglip",
        {},
        None,
    ),
    "clip_vision": ("CLIPVisionModel", PLAIN, OURS_CLIP, "clip", {}, None),
    "clip_vision_new": ("CLIPVisionModel", PLAIN, OURS_CLIP, "clip", NEW, None),
    "clip": ("CLIPModel", CLIP, OURS_CLIP, "clip", {}, None),
    "clip_projection": ("CLIPVisionModelWithProjection", {**PLAIN, "projection_dim": 16}, OURS_CLIP, "clip", {}, None),
    "vit_hybrid": ("ViTHybridForImageClassification", HYBRID, OURS_HYBRID, "hybrid", {}, None),
}

# Version 5 has no hybrid, writes SigLIP's and CLIP's vision models without the prefix `vision_model.`, and renames MAE's decoder.
BY_VERSION_4 = ("vit_hybrid", "siglip_vision", "clip_vision", "mae_pretraining")

# Whose gradients are kept: fixtures that hold the parameters under their names in the model.
WITH_GRADIENTS = ("tipsv2_new", "ijepa_new", "aimv2", "aimv2_native")

GRIDS = ((7, 7), (2, 2), (5, 3), (6, 9))
POSITIONS = {"vit": "ViT", "dinov2": "Dinov2", "dinov2_with_registers": "Dinov2WithRegisters"}


def spread(key, parameter):
    """Mean and standard deviation of a parameter that keep activations at about one, and no parameter at 0 or 1."""
    if "norm" in key.split(".")[-2] or key.endswith("lambda1"):
        return (0.0 if key.endswith("bias") else 1.0), 0.3
    is_kernel = parameter.ndim > 1 and not key.endswith(("token", "tokens", "probe", "pos_embed", "embeddings", "embedding.weight"))
    deviation = 1 / np.sqrt(parameter[0].numel()) if is_kernel else 0.5
    # As small as in published files, where LayerNorm's epsilon shows.
    return 0.0, deviation * (0.02 if "embeddings." in key and "backbone" not in key else 1.0)


def build(name, config):
    model_class = getattr(transformers, name)
    # Every parameter is set below; the hybrid's own initialization fails on the mask token that it does not have.
    with mock.patch.object(transformers.PreTrainedModel, "init_weights", lambda self: None):
        model = model_class(model_class.config_class(**config)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            mean, deviation = spread(f".{key}", parameter)
            parameter.copy_(mean + deviation * torch.randn(parameter.shape, generator=generator))
    return model


def random_images(height, width):
    pixels = np.random.default_rng(height * width).integers(0, 256, (2, height, width, 3))
    return (pixels / 127.5 - 1).astype("float32")


def outputs(model, images, interpolate=False):
    pixels = torch.tensor(images.transpose(0, 3, 1, 2))
    arguments = {"pixel_values": pixels}
    tower = getattr(model, "vision_model", model.base_model)
    if type(tower).__name__ == "ViTMAEModel":
        # MAE sorts its patches by this noise, even where it masks none.
        arguments["noise"] = torch.arange(16.0).tile(2, 1)
    if interpolate and not type(tower).__name__.startswith(("Dinov2", "Aimv2")):  # which always interpolate or compute positions
        arguments["interpolate_pos_encoding"] = True
    with torch.no_grad():
        seen = tower(**arguments)
        tokens = seen.last_hidden_state
        whole = model(**arguments) if "Classification" in type(model).__name__ else {}
        if hasattr(model, "visual_projection"):
            whole = {"image_embeds": model.visual_projection(seen.pooler_output)}
        if type(tower).__name__.startswith("CLIP"):
            tokens = tower.post_layernorm(tokens)
    found = {"tokens": tokens}
    if not isinstance(model, transformers.SiglipForImageClassification):  # it averages the tokens, beside a pooling head without use
        found["pooled"] = seen.get("pooler_output")
    found |= {key: whole.get(key) for key in ("logits", "cls_logits", "distillation_logits", "image_embeds")}
    return {key: value.numpy() for key, value in found.items() if value is not None}


def save(folder, model, processor, dtype=None, pickled=False, **arguments):
    shutil.rmtree(folder, ignore_errors=True)
    model.to(dtype or torch.float32).save_pretrained(folder, **arguments)
    model.float()  # the rounded weights, so that what is expected is exact arithmetic on what is stored
    if pickled:
        weights = folder / "model.safetensors"
        torch.save(load_file(weights), folder / "pytorch_model.bin")
        weights.unlink()
    processor_class, settings = PROCESSORS[processor]
    if processor == "tipsv2":  # its class needs torchvision; these are its defaults
        settings = {"image_processor_type": processor_class, "do_normalize": False, "do_rescale": True, "resample": 2, **settings}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    else:
        getattr(transformers, processor_class)(**settings).save_pretrained(folder)


def make(name):
    model_class, config, ours, processor, saving, other = FIXTURES[name]
    folder, model = HERE / name, build(model_class, config)
    save(folder, model, processor, **saving)
    ours = {**OURS, **ours}
    images = random_images(*ours["input_shape"][:2])
    expected = {"images": images, **outputs(model, images)}
    if other:
        expected |= {"images_other": random_images(*other)}
        expected |= {"tokens_other": outputs(model, expected["images_other"], interpolate=True)["tokens"]}
    np.savez_compressed(folder / "expected.npz", **expected)
    (folder / "ours.json").write_text(json.dumps(ours, indent=2) + "\n")
    if name in WITH_GRADIENTS:
        pixels = torch.tensor(images.transpose(0, 3, 1, 2))
        tokens = model(pixels).last_hidden_state
        write_gradients(folder, model, tokens[:, 0] if "tips" in name else tokens.mean(1))
    check(folder, model_class)


def check(folder, model_class):
    """What lies on disk gives what is expected, through transformers' own loader."""
    model, loading = getattr(transformers, model_class).from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading
    expected = dict(np.load(folder / "expected.npz"))
    for key, value in outputs(model.float().eval(), expected["images"]).items():
        np.testing.assert_allclose(value, expected[key], atol=1e-6)
        assert np.isfinite(value).all() and 0.1 < value.std() < 10, (key, value.std())
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder.name}: {size / 1000:.0f} kB", {key: value.shape for key, value in expected.items()})


def make_positions():
    table = torch.randn((1, 17, 8), generator=torch.Generator().manual_seed(0))
    arrays = {"positions": table.numpy()}
    for name, family in POSITIONS.items():
        config = getattr(transformers, f"{family}Config")(**SHAPE | {"hidden_size": 8, "num_attention_heads": 2})
        embeddings = getattr(transformers, f"{family}Model")(config).embeddings
        embeddings.position_embeddings.data = table
        for rows, columns in GRIDS:
            with torch.no_grad():
                resized = embeddings.interpolate_pos_encoding(torch.zeros(1, 1 + rows * columns, 8), 8 * rows, 8 * columns)
            arrays[f"{name}_{rows}x{columns}"] = resized.numpy()
    np.savez_compressed(HERE / "resample_positions.npz", **arrays)


if __name__ == "__main__":
    torch.set_num_threads(1)
    version_4 = transformers.__version__.startswith("4.")
    for name in sys.argv[1:] or FIXTURES:
        if (name in BY_VERSION_4) == version_4:
            make(name)
    if not version_4 and not sys.argv[1:]:
        make_positions()
