"""Makes tests/golden/original: tiny random checkpoints of EVA, EVA-02, Perception Encoder, TIPSv2 and AIMv2, with what
their own code computes.

    git clone https://github.com/baaivision/EVA                          # made at 5623d08
    git clone https://github.com/facebookresearch/perception_models      # made at 3e352cc
    git clone https://github.com/google-deepmind/tips                    # made at 4db271d
    git clone https://github.com/apple/ml-aim                            # made at bd9e068
    pip install einops                                                   # make_timm.py says what else
    python tests/golden/make_original.py EVA perception_models tips ml-aim [names of fixtures, default all]

The last line gets the folders of the four checkouts. Runs are repeatable. EVA-02's code imports apex and xformers: it gets torch's layer
normalization for apex's, and its own attention without xformers', whose SwiGLU is written out here.
"""

import importlib.util
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import torch
from gradients import write_gradients
from make_timm import AIMV2, OURS, generator, random_images, timm, to_torch, write_json, write_npz
from safetensors.torch import save_file
from torch import nn

ROOT = Path(__file__).parent / "original"
EVA, PERCEPTION, TIPS, AIM = map(Path, sys.argv[1:5])


def module(name, path, *imports):
    """Imports a file, in whose folder are the modules that it imports by name."""
    sys.path[:0] = map(str, imports)
    spec = importlib.util.spec_from_file_location(name, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    del sys.path[: len(imports)]
    return found


class PackedSwiGLU(nn.Module):
    """What xformers' SwiGLU computes: the gate is the first half."""

    def __init__(self, in_features, hidden_features):
        super().__init__()
        self.w12, self.w3 = nn.Linear(in_features, 2 * hidden_features), nn.Linear(hidden_features, in_features)

    def forward(self, x):
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(nn.functional.silu(gate) * value)


STANDINS = {
    "xformers": {},
    "xformers.ops": {"SwiGLU": PackedSwiGLU},
    "apex": {},
    "apex.normalization": {"FusedLayerNorm": nn.LayerNorm},
    "timm.models.registry": {"register_model": lambda model: model},
}
for name, content in STANDINS.items():
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(content)
sys.modules["xformers"].ops = sys.modules["xformers.ops"]
sys.modules["timm.models.layers"] = timm.layers
eva01 = module("eva01", EVA / "EVA-01/eva/modeling_finetune.py").VisionTransformer
eva02 = module("eva02", EVA / "EVA-02/asuka/modeling_finetune.py", EVA / "EVA-02/asuka").VisionTransformer
perception = module("perception", PERCEPTION / "core/vision_encoder/pe.py", PERCEPTION).VisionTransformer
tips = module("tips", TIPS / "pytorch/image_encoder.py").VisionTransformer
sys.path[:0] = [f"{AIM}/aim-v1", f"{AIM}/aim-v2"]
aimv2 = importlib.import_module("aim.v2.torch.models").AIMv2VisionEncoder

SHAPE = dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4)
EVA_TINY = dict(
    **SHAPE, num_classes=7, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6), use_checkpoint=False, stop_grad_conv1=False
)
EVA02 = dict(**EVA_TINY, mlp_ratio=4 * 2 / 3, rope=True, pt_hw_seq_len=16, intp_freq=True)
PE = dict(image_size=32, patch_size=8, width=32, layers=2, heads=4, mlp_ratio=4.0)
TIPS_TINY = dict(**{**SHAPE, "img_size": 40}, num_register_tokens=1, block_chunks=0, init_values=1.0)
TIPS_TINY.update(interpolate_antialias=True, interpolate_offset=0.0)
AIM_TINY = dict(img_size=32, patch_size=8, embed_dim=32, mlp_hidden_dim=64, num_blocks=2, num_heads=4)

ROTARY = {"coordinates": "index", "base": 10000.0, "axes": "yx", "offset": 0.0, "native_grid": [16, 16]}
PE_ROTARY = {**ROTARY, "axes": "xy", "native_grid": None}
OURS_EVA = {"pooling": "gap", "norm_after_pooling": True, "qkv_bias": "query_value", "position_resample": "bicubic"}
OURS_EVA02 = {**OURS_EVA, "mlp": "swiglu", "mlp_dim": 85, "rotary": ROTARY}
OURS_PE = {"num_classes": 0, "norm_embeddings": True, "patch_bias": False, "position_resample": "bilinear"}
MAP = {"pooling": "map", "pooling_num_heads": 8, "pooling_mlp_dim": 128, "pooling_prefix_tokens": True}
OURS_AIM = {"num_classes": 0, **AIMV2}
OURS_TIPS = {"num_classes": 0, "input_shape": [40, 40, 3], "num_register_tokens": 1, "position_resample": "bilinear_antialias"}

# name: (model, its arguments, what differs from OURS, another image size)
FIXTURES = {
    "eva01": (eva01, EVA_TINY, OURS_EVA, None),
    "eva02": (eva02, {**EVA02, "swiglu": True}, OURS_EVA02, None),
    "eva02_sub_ln": (eva02, {**EVA02, "naiveswiglu": True, "subln": True}, {**OURS_EVA02, "mlp_norm": True}, None),
    "pe_core": (
        perception,
        {**PE, "use_cls_token": True, "output_dim": 16},
        {**OURS_PE, **MAP, "representation_size": 16, "representation_bias": False, "rotary": {**PE_ROTARY, "offset": 1.0}},
        (24, 48),
    ),
    "pe_lang": (
        perception,
        {**PE, "use_ln_post": False, "pool_type": "none", "output_dim": None, "ls_init_value": 0.1},
        {**OURS_PE, "class_token": False, "pooling": "gap", "final_norm": False, "layer_scale_init": 0.1, "rotary": PE_ROTARY},
        (48, 40),
    ),
    "tipsv2": (tips, TIPS_TINY, OURS_TIPS, (32, 56)),
    "aimv2": (aimv2, AIM_TINY, OURS_AIM, None),
    "aimv2_native": (aimv2, {**AIM_TINY, "pos_embed_type": "sincos"}, {**OURS_AIM, "position_embedding": "sincos2d_mae"}, (24, 48)),
}


@torch.no_grad()
def randomize(model, name):
    """As in make_timm.py; what that does not know is drawn by its fan-in."""
    names = {key: tensor for key, tensor in model.state_dict().items() if "rope" not in key}
    random = generator(f"original {name}")
    for key, tensor in sorted(names.items()):
        normal = torch.randn(tensor.shape, generator=random)
        if key.endswith(("gamma",)):
            drawn = 0.5 + 0.2 * normal
        elif key.endswith("bias"):
            drawn = 0.1 * normal
        elif tensor.ndim == 1 and key.endswith("weight"):
            drawn = 1 + 0.1 * normal
        elif tensor.ndim >= 2 and key.endswith(("weight", "proj")):
            fan_in = tensor.shape[0] if key == "proj" else tensor[0].numel()
            scale = 0.1 if key.startswith(("patch_embed", "conv1", "preprocessor")) else 2.0 if "qkv" in key or "in_proj" in key else 1.0
            drawn = scale * normal * fan_in**-0.5
        else:
            drawn = 0.1 * normal  # tokens, positions, the probe
        tensor.copy_(drawn)


def pooled(name, model, images):
    """What a model without classes ends with here, or its logits."""
    model, images = model.double(), to_torch(np.asarray(images, "float64"))
    if name == "pe_lang":
        return model.forward_features(images, norm=True).mean(1)
    if name == "tipsv2":
        return model(images)[0].reshape(len(images), -1)
    return model(images).mean(1) if name.startswith("aimv2") else model(images)


@torch.no_grad()
def outputs(name, model, images):
    model, images = model.double(), to_torch(np.asarray(images, "float64"))
    if name.startswith("aimv2"):
        return {"features": model(images)}
    if name.startswith("pe"):
        found = {"features": model.forward_features(images, norm=True)}
        return found | ({"logits": model(images)} if name == "pe_core" else {})
    if name == "tipsv2":
        first, registers, patches = model(images)
        first = first if first.ndim == 3 else first[:, None]
        return {"features": torch.cat([first, registers, patches], dim=1), "pooled": first[:, 0]}
    tokens = []
    hook = model.norm.register_forward_hook(lambda *a: tokens.append(a[-1]))
    logits = model(images)
    hook.remove()
    return {"features": tokens[0], "logits": logits}


def make(name):
    build, arguments, ours, other = FIXTURES[name]
    folder = ROOT / name
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = build(**arguments).eval()
    randomize(model, name)
    weights = {key: value.clone().contiguous() for key, value in model.state_dict().items()}
    if name == "tipsv2":
        np.savez_compressed(folder / "model.npz", **{key: value.numpy() for key, value in weights.items()})
    else:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    ours = {**OURS, **ours}
    images = random_images(f"original {name}", *ours["input_shape"])
    found = {"images": images, **outputs(name, model, images)}
    if other:
        found["images_other"] = random_images(f"original {name}", *other)
        found["features_other"] = outputs(name, model, found["images_other"])["features"]
    write_npz(folder / "expected.npz", {key: np.asarray(value, "float32") for key, value in found.items()})
    write_json(folder / "ours.json", ours)
    write_gradients(folder, model, pooled(name, model, images))
    print(name, sum(file.stat().st_size for file in folder.iterdir()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for fixture in sys.argv[5:] or FIXTURES:
        make(fixture)
