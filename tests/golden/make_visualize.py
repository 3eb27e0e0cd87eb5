"""Makes tests/golden/visualize.npz: attention rollout and relevance of timm's tiny models in tests/golden/timm.

    pip install torch==2.13.0
    pip install --no-deps timm==1.0.31
    pip install numpy safetensors huggingface_hub pyyaml
    python tests/golden/make_visualize.py

The attention weights and their gradients are those that torch keeps while timm's own code runs. From them the two methods are computed as
their authors' repositories do: samiraabnar/attention_flow (`compute_joint_attention`, with the residual connection) and
hila-chefer/Transformer-MM-Explainability (rules 5 and 6 of the paper, one image at a time). All in float64.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from torchvision_stub import TorchvisionStub

sys.meta_path.append(TorchvisionStub())

import timm  # noqa: E402

ROOT = Path(__file__).parent
TARGET = 3
FIXTURES = ("plain", "non_square_image", "deit3", "qk_norm", "gap", "dinov2_registers")


def attentions_of(model, images):
    """Returns the logits and each block's attention, of which torch will keep the gradient."""
    kept = []

    def keep(module, inputs):
        inputs[0].retain_grad()
        kept.append(inputs[0])

    for block in model.blocks:
        block.attn.fused_attn = False
    handles = [block.attn.attn_drop.register_forward_pre_hook(keep) for block in model.blocks]
    output = model(images)
    for handle in handles:
        handle.remove()
    return output, kept


def rollout(attentions):
    """Attention rollout of one image: the product of the blocks' mean attention, with the identity added and rows made to sum to one."""
    joint = torch.eye(attentions[0].shape[-1], dtype=torch.float64)
    for attention in attentions:
        matrix = attention.mean(dim=0) + torch.eye(attention.shape[-1])
        joint = (matrix / matrix.sum(dim=-1, keepdim=True)) @ joint
    return joint


def relevance(attentions, gradients):
    """Relevance of one image: R = R + mean over heads of (gradient * attention)+, times R."""
    found = torch.eye(attentions[0].shape[-1], dtype=torch.float64)
    for attention, gradient in zip(attentions, gradients):
        found = found + (gradient * attention).clamp(min=0).mean(dim=0) @ found
    return found


def make(name):
    folder = ROOT / "timm" / name
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval().double()
    images = torch.from_numpy(np.load(folder / "expected.npz")["images"]).permute(0, 3, 1, 2).double()
    found = {"attention": [], "rollout": [], "relevance": []}
    for image in images:
        output, attentions = attentions_of(model, image[None])
        found["attention"].append(torch.stack([attention[0] for attention in attentions]))
        found["rollout"].append(rollout([attention[0] for attention in attentions]))
        if model.num_classes:
            output[0, TARGET].backward()
            found["relevance"].append(relevance([a[0] for a in attentions], [a.grad[0] for a in attentions]))
    return {f"{name}_{key}": torch.stack(value).detach().float().numpy() for key, value in found.items() if value}


if __name__ == "__main__":
    torch.set_num_threads(1)
    arrays = {}
    for fixture in FIXTURES:
        arrays |= make(fixture)
        print(fixture)
    np.savez_compressed(ROOT / "visualize.npz", target=TARGET, **arrays)
