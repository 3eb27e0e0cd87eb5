"""Makes the fixtures of DINOv3, EUPE and RoPE-ViT in tests/golden: timm's, Meta's, RoPE-ViT's own and transformers' files.

    git clone https://github.com/facebookresearch/dinov3   # made at 6876159
    git clone https://github.com/naver-ai/rope-vit         # made at ce85c2e
    pip install transformers==5.24.0
    python tests/golden/make_rotary.py dinov3 rope-vit

The last line gets the folders of the two checkouts; make_timm.py says what else to install. Runs are repeatable.
"""

import sys
from functools import partial
from pathlib import Path
from unittest import mock

import transformers
from transformers import DINOv3ViTConfig, DINOv3ViTModel  # before make_timm, whose stand-in of torchvision it would take for the real one

import make_timm  # isort: skip
import numpy as np
import timm
import torch
from gradients import write_gradients
from make_timm import OURS, check, generator, random_images, randomize, to_torch, write_json, write_npz
from torch import nn

HERE = Path(__file__).parent
sys.path[:0] = [sys.argv[1], f"{sys.argv[2]}/deit"]

from dinov3.models.vision_transformer import DinoVisionTransformer  # noqa: E402

# RoPE-ViT was written for timm 0.4.
timm.models.registry = sys.modules["timm.models.registry"] = timm.models._registry
from models_v2_rope import RoPE_Layer_scale_init_Block, rope_vit_models  # noqa: E402

DINOV3 = {"coordinates": "normalized", "base": 100.0}
AXIAL = {"coordinates": "index", "base": 100.0, "axes": "xy"}
MIXED = {"coordinates": "index", "base": 10.0, "axes": "xy", "frequencies": "learned"}
OURS_DINOV3 = {
    "num_classes": 0,
    "position_embedding": "none",
    "layer_scale_init": 1e-5,
    "num_register_tokens": 4,
    "norm_epsilon": 1e-5,
    "rotary": DINOV3,
}
QUERY_VALUE = {"qkv_bias": "query_value"}
OURS_ROPE = {"position_embedding": "none", "layer_scale_init": 1e-5, "rotary": AXIAL}
APE = {"position_embedding": "learned", "prefix_positions": False}
SBB = {
    "position_embedding": "none",
    "class_token": False,
    "pooling": "gap",
    "norm_after_pooling": True,
    "layer_scale_init": 1e-5,
    "rotary": {"native_grid": [16, 16]},
}
SIDES = {"img_size": [32, 48]}

make_timm.FIXTURES = {
    "dinov3": ("vit_small_patch16_dinov3", {"num_classes": 0}, {**OURS_DINOV3, "qkv_bias": False, "pooling": "gap"}),
    "dinov3_swiglu": (
        "vit_small_plus_patch16_dinov3_qkvb",
        {"num_classes": 0, "global_pool": "token", "mlp_ratio": 2.0},
        {**OURS_DINOV3, **QUERY_VALUE, "mlp": "swiglu", "mlp_dim": 64},
    ),
    "rope_vit": ("vit_small_patch16_rope_224", SIDES, {**OURS_ROPE, "input_shape": [32, 48, 3]}),
    "rope_vit_ape": ("vit_base_patch16_rope_ape_224", {}, {**OURS_ROPE, **APE}),
    "rope_vit_mixed": ("vit_small_patch16_rope_mixed_224", SIDES, {**OURS_ROPE, "input_shape": [32, 48, 3], "rotary": MIXED}),
    "rope_vit_mixed_ape": ("vit_large_patch16_rope_mixed_ape_224", {}, {**OURS_ROPE, **APE, "rotary": MIXED}),
    "rope_sbb": (
        "vit_betwixt_patch16_rope_reg4_gap_256",
        SIDES,
        {**SBB, **QUERY_VALUE, "input_shape": [32, 48, 3], "num_register_tokens": 4},
    ),
    "rope_sbb_no_bias": ("vit_mediumd_patch16_rope_reg1_gap_256", {}, {**SBB, "qkv_bias": False, "num_register_tokens": 1}),
}
make_timm.DRAWS = {r"freqs$": lambda tensor, normal: 0.5 * normal, **make_timm.DRAWS}

# Heads of 16, whose periods are not the same in bfloat16.
SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
OURS_WIDE = {**OURS, "hidden_dim": 48, "num_heads": 3, "mlp_dim": 192}
META = {**SHAPE, "layerscale_init": 1e-5, "norm_layer": "layernormbf16", "n_storage_tokens": 4, "pos_embed_rope_dtype": "fp32"}
OURS_META = {**OURS_WIDE, **OURS_DINOV3, **QUERY_VALUE, "rotary": {**DINOV3, "rescale": 2.0, "period_dtype": "bfloat16"}}
ROPE_VIT = {
    **SHAPE,
    "num_classes": 7,
    "mlp_ratio": 4,
    "qkv_bias": True,
    "norm_layer": partial(nn.LayerNorm, eps=1e-6),
    "block_layers": RoPE_Layer_scale_init_Block,
}
OURS_ROPE_VIT = {**OURS_WIDE, **OURS_ROPE}
LOCAL = {"untie_global_and_local_cls_norm": True}
# name: (the model, form of the checkpoint, ours)
OWN = {
    "dinov3": (partial(DinoVisionTransformer, **META, mask_k_bias=True), dict, OURS_META),
    "dinov3_swiglu": (
        partial(DinoVisionTransformer, **META, **LOCAL, qkv_bias=False, ffn_layer="swiglu"),
        dict,
        {**OURS_META, "qkv_bias": False, "mlp": "swiglu", "mlp_dim": 128},
    ),
    "eupe": (
        partial(DinoVisionTransformer, **META, mask_k_bias=True),
        lambda weights: {"projectors.a.0.weight": torch.ones(2, 2), **weights},
        OURS_META,
    ),
    "rope_vit": (partial(rope_vit_models, **ROPE_VIT), lambda weights: {"model": weights}, OURS_ROPE_VIT),
    "rope_vit_ape": (partial(rope_vit_models, **ROPE_VIT, use_ape=True), lambda weights: {"model": weights}, {**OURS_ROPE_VIT, **APE}),
    "rope_vit_mixed": (
        partial(rope_vit_models, **ROPE_VIT, rope_mixed=True, rope_theta=10.0),
        lambda weights: {"model": weights},
        {**OURS_ROPE_VIT, "rotary": MIXED},
    ),
}
OTHER = (4, 6)


@torch.no_grad()
def own_outputs(model, images):
    features = []
    hook = model.norm.register_forward_hook(lambda module, inputs, output: features.append(output))
    pooled = model(to_torch(images))
    if isinstance(model, DinoVisionTransformer):
        seen = model.forward_features(to_torch(images))
        parts = [seen["x_norm_clstoken"][:, None], seen["x_storage_tokens"], seen["x_norm_patchtokens"]]
        features, found = [torch.cat(parts, dim=1)], {"pooled": pooled}
    else:
        found = {"logits": pooled}
    hook.remove()
    return {key: value.numpy() for key, value in {"features": features[0], **found}.items()}


def make_own(name):
    model_class, form, ours = OWN[name]
    folder = HERE / "meta" / name
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = model_class()
    if isinstance(model, DinoVisionTransformer):
        model.init_weights()
        model.rope_embed.periods.copy_(model.rope_embed.periods.bfloat16().float())
    keep = [key for key in model.state_dict() if key.endswith(("periods", "bias_mask", "freqs_t_x", "freqs_t_y"))]
    randomize(model, name, keep=keep)
    torch.save(form(model.state_dict()), folder / "checkpoint.pth")
    again = model_class().eval()
    weights = torch.load(folder / "checkpoint.pth")
    weights = weights.get("model", weights)
    again.load_state_dict({key: value for key, value in weights.items() if not key.startswith("projectors")})
    arrays = {"images": random_images(name, 32, 32), "images_4x6": random_images(name, 8 * OTHER[0], 8 * OTHER[1])}
    found = own_outputs(model.eval(), arrays["images"])
    if "ape" not in name:  # its positions would be resampled with the other side first
        other = _other(again, arrays["images_4x6"])
        found |= {f"{key}_4x6": value for key, value in other.items()}
    write_npz(folder / "expected.npz", arrays | found)
    write_json(folder / "ours.json", ours)
    check(np.load(folder / "expected.npz"), own_outputs(again, arrays["images"]))
    images = to_torch(arrays["images"])
    if not isinstance(again, DinoVisionTransformer):
        again, images = again.double(), images.double()  # it rotates in place, unless that is in another precision
    write_gradients(folder, again, again(images))


def _other(model, images):
    if not isinstance(model, DinoVisionTransformer):
        model.patch_embed.strict_img_size = False
    return own_outputs(model, images)


CONFIG = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8, "num_register_tokens": 4}
TRANSFORMERS = {
    "dinov3": ({**CONFIG, "intermediate_size": 192}, {**OURS_META, "mlp_dim": 192}),
    "dinov3_gated": (
        {**CONFIG, "intermediate_size": 128, "use_gated_mlp": True, "hidden_act": "silu", "query_bias": False, "value_bias": False},
        {**OURS_META, "mlp": "swiglu", "mlp_dim": 128, "qkv_bias": False},
    ),
}


def make_transformers(name):
    config, ours = TRANSFORMERS[name]
    folder = HERE / "transformers" / name
    with mock.patch.object(transformers.PreTrainedModel, "init_weights", lambda self: None):
        model = DINOv3ViTModel(DINOv3ViTConfig(**config)).eval()
    random = generator(f"transformers {name}")
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            mean = 1.0 if parameter.ndim == 1 and key.endswith(("norm1.weight", "norm2.weight", "norm.weight", "lambda1")) else 0.0
            parameter.copy_(mean + 0.2 * torch.randn(parameter.shape, generator=random))
    model.save_pretrained(folder)
    settings = dict(size={"height": 32, "width": 32}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225], do_rescale=True)
    write_json(folder / "preprocessor_config.json", {"image_processor_type": "DINOv3ViTImageProcessorFast", "resample": 2, **settings})
    arrays = {"images": random_images(name, 32, 32), "images_other": random_images(name, 24, 40)}
    again = DINOv3ViTModel.from_pretrained(folder).eval()
    with torch.no_grad():
        seen = {end: again(to_torch(arrays[f"images{end}"])) for end in ("", "_other")}
    found = {f"tokens{end}": each.last_hidden_state for end, each in seen.items()} | {"pooled": seen[""].pooler_output}
    write_npz(folder / "expected.npz", arrays | found)
    write_json(folder / "ours.json", {**ours, "rotary": {**DINOV3, "rescale": 2.0}})
    write_gradients(folder, again, again(to_torch(arrays["images"])).pooler_output, prefix="model.")


def make_other_grid():
    """The outputs of timm's DINOv3 on another grid."""
    for name in ("dinov3", "dinov3_swiglu"):
        path = HERE / "timm" / name
        model = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
        images = random_images(name, 8 * OTHER[0], 8 * OTHER[1])
        found = {f"{key}_4x6": value for key, value in make_timm.outputs(model, images).items()}
        write_npz(path / "expected.npz", {**np.load(path / "expected.npz"), "images_4x6": images, **found})


if __name__ == "__main__":
    torch.set_num_threads(1)
    for fixture in make_timm.FIXTURES:
        make_timm.make(fixture)
    for fixture in OWN:
        make_own(fixture)
    for fixture in TRANSFORMERS:
        make_transformers(fixture)
    make_other_grid()
