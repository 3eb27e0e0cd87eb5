"""Makes tests/golden/meta: tiny random checkpoints in the forms of Meta's repositories, with what their own code computes from them.

    git clone https://github.com/facebookresearch/dinov2   # made at b8931f7
    git clone https://github.com/facebookresearch/deit     # made at 7e160fe
    git clone https://github.com/facebookresearch/mae      # made at efb2a80
    python tests/golden/make_meta.py dinov2 deit mae

The last line gets the folders of the three checkouts; make_timm.py says what to install. Runs are repeatable.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from make_timm import OURS, check, generator, random_images, randomize, timm, to_torch, write_json, write_npz
from torch import nn

# MAE was written for timm 0.3 and an older numpy
float = float
timm_block = timm.models.vision_transformer.Block
timm.models.vision_transformer.Block = lambda *args, qk_scale=None, **kwargs: timm_block(*args, **kwargs)
sys.path[:0] = sys.argv[1:4]

import models as deit  # noqa: E402
import models_mae as mae  # noqa: E402
import models_v2 as deit3  # noqa: E402
import models_vit as mae_finetune  # noqa: E402
from dinov2.models.vision_transformer import DinoVisionTransformer  # noqa: E402
from util.pos_embed import get_2d_sincos_pos_embed  # noqa: E402

ROOT = Path(__file__).parent / "meta"

SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
TINY = {**SHAPE, "norm_layer": partial(nn.LayerNorm, eps=1e-6), "mlp_ratio": 4}
VIT = {**TINY, "qkv_bias": True, "num_classes": 7}
DINO = {**SHAPE, "img_size": 40, "init_values": 1.0, "block_chunks": 0}
DINO_REGISTERS = {"num_register_tokens": 4, "interpolate_antialias": True, "interpolate_offset": 0.0}
OURS_DINO = {"input_shape": [40, 40, 3], "num_classes": 0, "layer_scale_init": 1.0}
DECODER = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}

pretraining = partial(mae.MaskedAutoencoderViT, **TINY, **DECODER)
encoder = partial(mae_finetune.VisionTransformer, **{**VIT, "num_classes": 0})


def encoder_only(weights):
    return {key: value for key, value in weights.items() if "decoder" not in key and key != "mask_token"}


def in_model(weights):
    return {"model": weights}


# name: (the model that is saved, the one that computes, the last module of its trunk, form of the checkpoint, what differs from OURS)
FIXTURES = {
    "deit": (partial(deit.VisionTransformer, **VIT), None, "norm", in_model, {}),
    "deit_distilled": (partial(deit.DistilledVisionTransformer, **VIT), None, "norm", in_model, {"distillation_token": True}),
    "deit3": (
        partial(deit3.vit_models, **VIT, block_layers=deit3.Layer_scale_init_Block),
        None,
        "norm",
        in_model,
        {"layer_scale_init": 1e-4, "prefix_positions": False},
    ),
    "mae_encoder": (pretraining, encoder, "norm", lambda weights: in_model(encoder_only(weights)), {"num_classes": 0}),
    "mae_with_decoder": (pretraining, encoder, "norm", in_model, {"num_classes": 0}),
    "mae_finetuned": (
        partial(mae_finetune.VisionTransformer, **VIT, global_pool=True),
        None,
        "blocks",
        in_model,
        {"pooling": "gap", "norm_after_pooling": True},
    ),
    "dinov2": (partial(DinoVisionTransformer, **DINO), None, "norm", dict, OURS_DINO),
    "dinov2_registers": (
        partial(DinoVisionTransformer, **DINO, **DINO_REGISTERS),
        None,
        "norm",
        dict,
        {**OURS_DINO, "num_register_tokens": 4},
    ),
    "dinov2_swiglu": (
        partial(DinoVisionTransformer, **DINO, ffn_layer="swiglufused"),
        None,
        "norm",
        dict,
        {**OURS_DINO, "mlp": "swiglu", "mlp_dim": 88},
    ),
}
OTHER_GRIDS = ((7, 7), (4, 6))


@torch.no_grad()
def outputs(model, trunk, images):
    last = model.get_submodule(trunk)
    last = last[-1] if isinstance(last, nn.ModuleList | nn.Sequential) else last
    features = []
    hook = last.register_forward_hook(lambda module, inputs, output: features.append(output))
    pooled = model.forward_features(to_torch(images))
    hook.remove()
    found = {"features": features[0]}
    match pooled:
        case {"x_norm_clstoken": token}:
            found["pooled"] = token
        case (token, distilled):
            heads = model.head(token), model.head_dist(distilled)
            found |= {"pooled": (token + distilled) / 2, "logits": model(to_torch(images))}
            found |= {"logits_head": heads[0], "logits_dist": heads[1]}
        case _ if pooled.ndim == 3:  # a class of today's timm, with its own forward_head
            found |= {"pooled": model.forward_head(pooled, pre_logits=True), "logits": model(to_torch(images))}
        case _:
            found |= {"pooled": pooled, "logits": model.head(pooled)}
    if not getattr(model, "num_classes", 0):
        found.pop("logits", None)
    return {key: value.numpy() for key, value in found.items()}


def all_outputs(model, trunk, arrays):
    """Outputs for the images of every size: the names of other grids end in _<rows>x<columns>."""
    found = {}
    for key in [key for key in arrays if key.startswith("images")]:
        end = key.removeprefix("images")
        found |= {name + end: value for name, value in outputs(model, trunk, arrays[key]).items()}
        if isinstance(model, DinoVisionTransformer) and end:
            found["positions" + end] = positions(model, *map(int, end[1:].split("x")))
    return found


@torch.no_grad()
def positions(model, rows, columns):
    tokens = torch.zeros(1, 1 + rows * columns, model.embed_dim)
    return model.interpolate_pos_encoding(tokens, rows * model.patch_size, columns * model.patch_size).numpy()


def make(name):
    saved, computing, trunk, form, ours = FIXTURES[name]
    folder = ROOT / name
    folder.mkdir(parents=True, exist_ok=True)
    ours = {**OURS, **ours}

    model = saved()
    # MAE's positions are fixed; its trained encoder keeps them
    randomize(model, name, keep=("pos_embed", "decoder_pos_embed") if saved is pretraining else ())
    torch.save(form(model.state_dict()), folder / "checkpoint.pth")

    def computes():
        weights = torch.load(folder / "checkpoint.pth")
        model = (computing or saved)().eval()
        expected = set(model.state_dict())
        weights = weights.get("model", weights)
        model.load_state_dict({key: value for key, value in weights.items() if key in expected})
        return model

    height, width = ours["input_shape"][:2]
    arrays = {"images": random_images(name, height, width)}
    if saved.func is DinoVisionTransformer:
        for rows, columns in OTHER_GRIDS:
            arrays[f"images_{rows}x{columns}"] = random_images(name, rows * 8, columns * 8)
    write_npz(folder / "expected.npz", arrays | all_outputs(computes(), trunk, arrays))
    write_json(folder / "ours.json", ours)
    check(np.load(folder / "expected.npz"), all_outputs(computes(), trunk, arrays))


def make_dinov2_positions():
    """The source has a class token and a 5x5 grid; results are positions_<rows>x<columns>[_offset][_antialias]."""
    model = DinoVisionTransformer(**{**DINO, "embed_dim": 8, "depth": 1})
    model.pos_embed.data = torch.randn(model.pos_embed.shape, generator=generator("positions"))
    arrays = {"source": model.pos_embed.detach()}
    for offset in (0.1, 0.0):
        for antialias in (False, True):
            model.interpolate_offset, model.interpolate_antialias = offset, antialias
            end = "_offset" * bool(offset) + "_antialias" * antialias
            for rows, columns in ((7, 7), (3, 3), (4, 6), (9, 2)):
                arrays[f"positions_{rows}x{columns}{end}"] = positions(model, rows, columns)
    write_npz(ROOT / "dinov2_positions.npz", arrays)


def make_sincos():
    """MAE's fixed positions as <grid>_<width>, the class token's zeros first."""
    write_npz(ROOT / "sincos.npz", {f"{grid}_{width}": get_2d_sincos_pos_embed(width, grid, True) for grid, width in ((4, 32), (7, 16))})


if __name__ == "__main__":
    torch.set_num_threads(1)
    for fixture in FIXTURES:
        make(fixture)
        print(fixture)
    make_dinov2_positions()
    make_sincos()
