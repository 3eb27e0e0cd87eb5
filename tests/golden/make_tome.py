"""Makes tests/golden/tome.npz: what the authors' token merging (facebookresearch/ToMe) computes from checkpoints in tests/golden/timm.

    pip install torch==2.13.0 && pip install --no-deps timm==1.0.31 && pip install numpy safetensors huggingface_hub pyyaml tqdm
    git clone https://github.com/facebookresearch/ToMe
    PYTHONPATH=ToMe python tests/golden/make_tome.py

Only the numbers are kept, none of the authors' code, whose license forbids commercial use.
"""

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from torchvision_stub import TorchvisionStub

sys.meta_path.append(TorchvisionStub())

import timm  # noqa: E402
from tome.patch import mae  # noqa: E402
from tome.patch import timm as plain  # noqa: E402

ROOT = Path(__file__).parent
R = [5, 3]  # tokens that the two blocks merge

arrays = {"r": np.array(R)}
for name in ("plain", "deit_distilled", "no_class_token", "gap"):
    images = torch.tensor(np.load(ROOT / "timm" / name / "expected.npz")["images"]).permute(0, 3, 1, 2) / 255
    model = timm.create_model(f"local-dir:{ROOT / 'timm' / name}", pretrained=True).eval()
    mean, std = (torch.tensor(model.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    patch = mae if name == "gap" else plain  # MAE's pools in proportion to the sizes of tokens
    patch(model, prop_attn=True)
    model.r = R
    with torch.no_grad():
        if name == "gap":
            model._tome_info |= {"r": list(R), "size": None, "source": None}
            logits = model.head(model.forward_features((images - mean) / std))
        else:
            logits = model((images - mean) / std)
            model._tome_info |= {"r": list(R), "size": None, "source": None}
            arrays[f"{name}/tokens"] = model.forward_features((images - mean) / std).numpy()
    if name != "no_class_token":  # there the authors' code weights all tokens alike
        arrays[f"{name}/logits"] = logits.numpy()
np.savez_compressed(ROOT / "tome.npz", **arrays)
print({key: value.shape for key, value in arrays.items()})
