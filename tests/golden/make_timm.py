"""Makes tests/golden/timm: tiny random models in timm's own files, with what timm 1.0.31 computes from them.

    pip install torch==2.13.0
    pip install --no-deps timm==1.0.31
    pip install numpy safetensors huggingface_hub pyyaml
    python tests/golden/make_timm.py [names of fixtures, default all]

Runs are repeatable: the same versions give the same bytes.
"""

import json
import re
import sys
import zlib
from collections import OrderedDict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from gradients import write_gradients
from torch import nn

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from torchvision_stub import TorchvisionStub

sys.meta_path.append(TorchvisionStub())

import timm  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from timm.layers import GroupNormAct, HybridEmbed, StdConv2dSame, resample_abs_pos_embed  # noqa: E402
from timm.layers.patch_embed import resample_patch_embed  # noqa: E402
from timm.models._hub import save_config_for_hf  # noqa: E402
from timm.models.resnetv2 import ResNetV2  # noqa: E402

ROOT = Path(__file__).parent / "timm"

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 7}
TINIER = {"embed_dim": 16, "depth": 1, "num_heads": 2}
OURS = {"input_shape": [32, 32, 3], "patch_size": 8, "hidden_dim": 32, "num_layers": 2, "num_heads": 4, "mlp_dim": 128, "num_classes": 7}
OURS_TINIER = {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "mlp_dim": 64}

REGISTERS_GAP = {"pooling": "gap", "norm_after_pooling": True, "class_token": False, "layer_scale_init": 1e-5}
CLIP = {"norm_embeddings": True, "patch_bias": False, "norm_epsilon": 1e-5}
MAP = {"pooling": "map", "class_token": False}
ROTARY = {"coordinates": "index", "base": 10000.0, "axes": "yx", "offset": 0.0, "native_grid": [16, 16]}
EVA = {"pooling": "gap", "norm_after_pooling": True, "qkv_bias": "query_value"}
EVA02 = {"mlp": "swiglu", "mlp_dim": 85, "rotary": ROTARY}
PROJECTION = {"num_classes": 0, "representation_size": 512, "representation_activation": "linear"}
PE_POOLING = {"pooling": "map", "pooling_num_heads": 8, "pooling_prefix_tokens": True}
PE_ROTARY = {**ROTARY, "axes": "xy", "offset": 1.0}
PE_TINIER = {**OURS_TINIER, **CLIP, "num_classes": 0, "rotary": {**PE_ROTARY, "native_grid": [32, 32]}}
PE_G = {**PE_TINIER, **PE_POOLING, "class_token": False, "mlp_dim": 93, "rotary": {**PE_TINIER["rotary"], "offset": 0.0}}
PE_LANG = {**PE_TINIER, "pooling": "gap", "final_norm": False, "layer_scale_init": 0.1}
AIMV2 = {"class_token": False, "prefix_positions": False, "pooling": "gap", "norm": "rms", "norm_embeddings": "patches"}
AIMV2.update({"norm_epsilon": 1e-5, "mlp": "swiglu", "mlp_dim": 64, "qkv_bias": False, "projection_bias": False})

# name: (timm's model, what differs from TINY, what differs from OURS)
FIXTURES = {
    "plain": ("vit_base_patch16_224", {}, {}),
    "non_square_image": ("vit_base_patch16_224", {"img_size": [32, 48]}, {"input_shape": [32, 48, 3]}),
    "non_square_patch": ("vit_base_patch16_224", {"patch_size": [8, 4]}, {"patch_size": [8, 4]}),
    "headless": ("vit_base_patch16_224", {**TINIER, "num_classes": 0}, {**OURS_TINIER, "num_classes": 0}),
    "no_pooling": (
        "vit_base_patch16_224",
        {**TINIER, "num_classes": 0, "global_pool": ""},
        {**OURS_TINIER, "num_classes": 0, "pooling": None},
    ),
    "gap": ("vit_base_patch16_224", {"global_pool": "avg"}, {"pooling": "gap", "norm_after_pooling": True}),
    "gap_no_fc_norm": ("vit_base_patch16_siglip_gap_224", {}, {"pooling": "gap", "class_token": False}),
    "gap_medium": (
        "vit_medium_patch16_gap_240",
        {},
        {"pooling": "gap", "class_token": False, "qkv_bias": False, "layer_scale_init": 1e-6},
    ),
    "no_class_token": (
        "vit_base_patch16_224",
        {"class_token": False, "global_pool": "avg"},
        {"class_token": False, "pooling": "gap", "norm_after_pooling": True},
    ),
    "dinov2": ("vit_small_patch14_dinov2", {"num_classes": 0}, {"num_classes": 0, "layer_scale_init": 1e-5}),
    "dinov2_registers": (
        "vit_small_patch14_reg4_dinov2",
        {"num_classes": 0},
        {"num_classes": 0, "layer_scale_init": 1e-5, "num_register_tokens": 4, "prefix_positions": False},
    ),
    # the ratio which gives the hidden width of Meta's own rule, (int(128 * 2 / 3) + 7) // 8 * 8, twice over
    "dinov2_swiglu": (
        "vit_giant_patch14_dinov2",
        {"num_classes": 0, "mlp_ratio": 5.5},
        {"num_classes": 0, "layer_scale_init": 1e-5, "mlp": "swiglu", "mlp_dim": 88},
    ),
    "sbb_wee": (
        "vit_wee_patch16_reg1_gap_256",
        {},
        {**REGISTERS_GAP, "mlp_dim": 160, "num_register_tokens": 1, "prefix_positions": False},
    ),
    "sbb_little": (
        "vit_little_patch16_reg1_gap_256",
        {},
        {**REGISTERS_GAP, "mlp_dim": 179, "num_register_tokens": 1, "prefix_positions": False},
    ),
    "sbb_medium": (
        "vit_medium_patch16_reg4_gap_256",
        {},
        {**REGISTERS_GAP, "num_register_tokens": 4, "prefix_positions": False},
    ),
    # registers with positions of their own
    "sbb_so150m2": (
        "vit_so150m2_patch16_reg1_gap_256",
        {},
        {**REGISTERS_GAP, "mlp_dim": 83, "num_register_tokens": 1, "qkv_bias": False},
    ),
    "map_registers": (
        "vit_so150m_patch16_reg4_map_256",
        {},
        {**MAP, "mlp_dim": 82, "num_register_tokens": 4},
    ),
    "qk_norm": ("vit_base_patch16_224", {"qk_norm": True}, {"qk_norm": True}),
    "siglip": ("vit_base_patch16_siglip_224", {"num_classes": 0}, {**MAP, "num_classes": 0}),
    "siglip_tanh": ("vit_so400m_patch16_siglip_256", {}, {**MAP, "mlp_dim": 119, "activation": "gelu_tanh"}),
    "clip": ("vit_base_patch16_clip_224", {}, CLIP),
    "clip_quickgelu": ("vit_base_patch16_clip_quickgelu_224", {}, {**CLIP, "activation": "quick_gelu"}),
    "deit_distilled": ("deit_tiny_distilled_patch16_224", {}, {"distillation_token": True}),
    "deit3": ("deit3_small_patch16_224", {}, {"layer_scale_init": 1e-6, "prefix_positions": False}),
    "flexivit": ("flexivit_small", {"img_size": 40}, {"input_shape": [40, 40, 3], "prefix_positions": False}),
    # timm dropped this layer after 0.5; files of that age still hold it
    "pre_logits": ("vit_base_patch16_224", {}, {"representation_size": 24}),
    "hybrid_r": (
        "vit_tiny_r_s16_p8_224",
        {"patch_size": 2},
        {"patch_size": 2, "stem": {"kind": "resnet", "block_counts": [], "width": 64, "num_groups": 32}},
    ),
    "hybrid_r26": (
        "vit_small_r26_s32_224",
        {"img_size": 64, "patch_size": 1},
        {
            "input_shape": [64, 64, 3],
            "patch_size": 1,
            "stem": {"kind": "resnet", "block_counts": [2, 2, 2, 2], "width": 8, "num_groups": 8},
        },
    ),
    "hybrid_r50": (
        "vit_base_r50_s16_224",
        {"img_size": 64, "patch_size": 1},
        {
            "input_shape": [64, 64, 3],
            "patch_size": 1,
            "stem": {"kind": "resnet", "block_counts": [3, 4, 9], "width": 8, "num_groups": 8},
        },
    ),
    "conv_stem_xiao": (
        "vit_base_patch16_224",
        {"patch_size": 1},
        {"patch_size": 1, "norm_epsilon": 1e-5, "stem": {"kind": "conv", "filters": [8, 12, 12, 16], "strides": [2, 2, 1, 2]}},
    ),
    "aimv2": ("aimv2_large_patch14_224", {"mlp_ratio": 2.0}, AIMV2),
    # timm's class `Eva`
    "eva01": ("eva_giant_patch14_224", {}, {**EVA, "mlp_dim": 139}),
    "eva02": ("eva02_tiny_patch14_224", {}, {**EVA, **EVA02}),
    "eva02_sub_ln": ("eva02_base_patch14_224", {"img_size": [32, 48]}, {**EVA, **EVA02, "mlp_norm": True, "input_shape": [32, 48, 3]}),
    "eva02_clip": (
        "eva02_base_patch16_clip_224",
        {**TINIER, "num_classes": 512},
        {**OURS_TINIER, **EVA02, **PROJECTION, "mlp_dim": 42, "qkv_bias": "query_value", "mlp_norm": True, "attention_norm": True},
    ),
    "eva02_e": (
        "eva02_enormous_patch14_clip_224",
        {**TINIER, "num_classes": 512},
        {**OURS_TINIER, **PROJECTION, "mlp_dim": 137, "qkv_bias": "query_value", "norm_first": False, "norm_branches": True},
    ),
    "pe_core": (
        "vit_pe_core_base_patch16_224",
        {"num_classes": 512},
        {**CLIP, **PROJECTION, **PE_POOLING, "rotary": {**PE_ROTARY, "native_grid": [14, 14]}},
    ),
    "pe_core_g": ("vit_pe_core_gigantic_patch14_448", {**TINIER, "num_classes": 0}, PE_G),
    "pe_lang": ("vit_pe_lang_large_patch14_448", {**TINIER, "num_classes": 0}, PE_LANG),
    "file_bfloat16": ("vit_base_patch16_224", TINIER, OURS_TINIER),
    "file_float16": ("vit_base_patch16_224", TINIER, OURS_TINIER),
    "file_pth": ("vit_base_patch16_224", TINIER, OURS_TINIER),
    "file_pth_model": ("vit_base_patch16_224", TINIER, OURS_TINIER),
    "file_bin": ("vit_base_patch16_224", TINIER, OURS_TINIER),
}
DTYPES = {"file_bfloat16": torch.bfloat16, "file_float16": torch.float16}
FILES = {
    "file_pth": ("model.pth", torch.save),
    "file_pth_model": ("model.pth", lambda weights, path: torch.save({"model": weights}, path)),
    "file_bin": ("pytorch_model.bin", torch.save),
}

# the first pattern found in a tensor's name says how it is drawn; kernels come last, by their fan-in
# embeddings are small so that the epsilon of the first norm shows, queries and keys large so that attention is sharp
DRAWS = {
    r"num_batches_tracked$": lambda tensor, normal: tensor,
    r"running_var$": lambda tensor, normal: 0.5 + torch.special.ndtr(normal),
    r"gamma(_\d)?$": lambda tensor, normal: 0.5 + 0.2 * normal,
    r"(tokens?|pos_embed)$": lambda tensor, normal: 0.1 * normal,
    r"patch_embed\.proj\.": lambda tensor, normal: 0.1 * normal * tensor[0].numel() ** -0.5,
    r"latent$": lambda tensor, normal: normal,
    r"(qkv|\.q|\.kv|[qk]_proj)\.weight$": lambda tensor, normal: 2 * normal * tensor[0].numel() ** -0.5,
    r"(bias|running_mean)$": lambda tensor, normal: 0.1 * normal,
    r"weight$": lambda tensor, normal: 1 + 0.1 * normal if tensor.ndim == 1 else normal * tensor[0].numel() ** -0.5,
}


class XiaoStem(nn.Module):
    """The stem of "Early Convolutions Help Transformers See Better", in the place of timm's PatchEmbed."""

    def __init__(self, img_size, patch_size, in_chans, embed_dim, filters, strides, **unused):
        super().__init__()
        widths = [in_chans, *filters]
        self.stem = nn.Sequential(
            *[
                nn.Sequential(nn.Conv2d(i, o, 3, s, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
                for i, o, s in zip(widths[:-1], filters, strides, strict=True)
            ]
        )
        self.proj = nn.Conv2d(filters[-1], embed_dim, 1)
        self.num_patches = (img_size // int(np.prod(strides))) ** 2

    def forward(self, x):
        return self.proj(self.stem(x)).flatten(2).transpose(1, 2)


def stem_arguments(stem):
    """Arguments of timm's VisionTransformer which no config.json can hold."""
    if stem["kind"] == "conv":
        embed = partial(XiaoStem, filters=stem["filters"], strides=stem["strides"])
        return {"embed_layer": embed, "norm_layer": partial(nn.LayerNorm, eps=1e-5)}
    if stem["width"] == 64:
        return {}  # as timm builds it
    backbone = ResNetV2(
        layers=stem["block_counts"],
        channels=[stem["width"] * 4 * 2**i for i in range(len(stem["block_counts"]))],
        stem_chs=stem["width"],
        num_classes=0,
        global_pool="",
        preact=False,
        stem_type="same",
        conv_layer=partial(StdConv2dSame, eps=1e-8),
        norm_layer=partial(GroupNormAct, num_groups=stem["num_groups"]),
    )
    return {"embed_layer": partial(HybridEmbed, backbone=backbone)}


def pre_logits_size(ours):
    """The width of the layer with tanh; a projection is timm's head."""
    return None if "representation_activation" in ours else ours.get("representation_size")


def build(name):
    architecture, arguments, ours = FIXTURES[name]
    extra = stem_arguments(ours["stem"]) if "stem" in ours else {}
    model = timm.create_model(architecture, **{**TINY, **arguments}, **extra)
    for key in extra:
        del model._model_args[key]
    if size := pre_logits_size(ours):
        model.pre_logits = nn.Sequential(OrderedDict(fc=nn.Linear(model.embed_dim, size), act=nn.Tanh()))
        model.head = nn.Linear(size, model.num_classes)
        model.head.register_forward_pre_hook(lambda head, inputs: model.pre_logits(*inputs))
    return model.eval()


def generator(name):
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def randomize(model, name, keep=()):
    random = generator(name)
    weights = model.state_dict()
    for key in sorted(set(weights) - set(keep)):
        draw = next(draw for pattern, draw in DRAWS.items() if re.search(pattern, key))
        weights[key].copy_(draw(weights[key], torch.randn(weights[key].shape, generator=random)))


def random_images(name, height, width, channels=3):
    """In steps of 1/16, which compress well."""
    return (16 * torch.randn((2, height, width, channels), generator=generator("images of " + name))).round().numpy() / 16


def to_torch(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@torch.no_grad()
def outputs(model, images):
    """In float64, so that what is compared with them is the only rounding there is."""
    model, images = model.double(), np.asarray(images, "float64")
    features = model.forward_features(to_torch(images))
    pooled = model.forward_head(features, pre_logits=True)
    found = {"features": features, "pooled": pooled}
    if model.num_classes:
        found["logits"] = model(to_torch(images))
    if hasattr(model, "pre_logits"):
        found["representation"] = model.pre_logits(pooled)
    if hasattr(model, "head_dist"):
        found |= {"logits_head": model.head(features[:, 0]), "logits_dist": model.head_dist(features[:, 1])}
    return {key: value.float().numpy() for key, value in found.items()}


def write_json(path, content):
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_npz(path, arrays):
    np.savez_compressed(path, **{key: np.asarray(value) for key, value in arrays.items()})


WITH_GRADIENTS = r"eva|pe_|dinov3|rope|aimv2"


def check(expected, found):
    for key, value in found.items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-5, atol=1e-5, err_msg=key)


def make(name):
    folder = ROOT / name
    folder.mkdir(parents=True, exist_ok=True)
    ours = {**OURS, **FIXTURES[name][2]}
    model = build(name)
    randomize(model, name)

    weights = {key: value.to(DTYPES.get(name, value.dtype)).contiguous() for key, value in model.state_dict().items()}
    model.load_state_dict(weights)
    file, save = FILES.get(name, ("model.safetensors", partial(save_file, metadata={"format": "pt"})))
    save(weights, folder / file)
    size = pre_logits_size(ours)
    save_config_for_hf(model, folder / "config.json", model_args={"representation_size": size} if size else None)

    images = random_images(name, *ours["input_shape"])
    write_npz(folder / "expected.npz", {"images": images, **outputs(model, images)})
    write_json(folder / "ours.json", ours)
    if re.match(WITH_GRADIENTS, name):
        write_gradients(folder, model, model(to_torch(images.astype("float64"))))

    if size or ours.get("stem", {}).get("width") != 64 and "stem" in ours:
        again = build(name)
        again.load_state_dict(load_file(folder / file))
    else:
        again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    check(np.load(folder / "expected.npz"), outputs(again, images))


def make_gradients():
    model = timm.create_model(f"local-dir:{ROOT / 'plain'}", pretrained=True).eval()
    images = np.load(ROOT / "plain" / "expected.npz")["images"]
    labels = torch.tensor([1, 3])
    loss = nn.functional.cross_entropy(model(to_torch(images)), labels)
    loss.backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    write_npz(ROOT / "gradients.npz", {"labels": labels, "loss": loss.detach(), **gradients})


METHODS = {"bicubic": ("bicubic", True), "bilinear": ("bilinear", False)}


def make_resample_positions():
    """Sources by name, results as <source>_<rows>x<columns>_<method>."""
    random = generator("positions")
    prefixes = {"class": (1, (4, 4)), "plain": (0, (4, 4)), "wide": (1, (3, 5))}
    arrays = {}
    for source, (prefix, grid) in prefixes.items():
        arrays[source] = torch.randn((1, prefix + grid[0] * grid[1], 8), generator=random)
        for rows, columns in ((7, 7), (2, 2), (5, 3), (6, 9)):
            for method, (interpolation, antialias) in METHODS.items():
                arrays[f"{source}_{rows}x{columns}_{method}"] = resample_abs_pos_embed(
                    arrays[source], [rows, columns], grid, prefix, interpolation=interpolation, antialias=antialias
                )
    write_npz(ROOT / "resample_positions.npz", arrays)


def make_resample_patch():
    """Kernels in torch's order (out, in, rows, columns); results as <rows>x<columns>_<method>."""
    arrays = {"kernel": torch.randn((8, 3, 8, 8), generator=generator("patch"))}
    for rows, columns in ((4, 4), (6, 6), (12, 12), (16, 16), (6, 10)):
        for method, (interpolation, antialias) in METHODS.items():
            arrays[f"{rows}x{columns}_{method}"] = resample_patch_embed(
                arrays["kernel"], [rows, columns], interpolation=interpolation, antialias=antialias
            )
    write_npz(ROOT / "resample_patch.npz", arrays)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for fixture in sys.argv[1:] or FIXTURES:
        make(fixture)
        print(fixture)
    if not sys.argv[1:]:
        make_gradients()
        make_resample_positions()
        make_resample_patch()
