"""Compares full-size models with those of timm and Hugging Face transformers, in both directions, and prints one table.

    pip install torch==2.13.0 transformers==5.24.0 safetensors pyyaml tensorflow-cpu
    pip install --no-deps timm==1.0.31
    python benchmarks/parity.py --markdown > parity.md

The other library (the peer) creates a model with random weights and saves it in its own format. `keras_vit.from_pretrained` loads the
file, `keras_vit.checkpoints.save` writes it again, and the peer reads that. Nothing is downloaded. Outputs for two random images are
compared:

    loaded    keras_vit's outputs (float32) against the peer's (float64)
    saved     the outputs of the model that the peer reads from our file against those of its own model (both float32)
    rounding  the peer's outputs in float32 against its own in float64: the rounding error of any implementation

Each number is the largest difference, divided by the largest output. If the rounding error of the peer exceeds 1e-5, `loaded` is measured
with keras_vit in float64, and marked. The exit status is 1 if `loaded` or `saved` exceeds 1e-5 in any row, or if the index of the largest
logit (or feature, for a model without head) differs.
"""

import argparse
import fnmatch
import gc
import pathlib
import re
import sys
import tempfile
import zlib

import keras
import numpy as np
import torch
import transformers
from torchvision_stub import TorchvisionStub

# transformers looks for torchvision too, and must not find a stub.
transformers.utils.import_utils.is_torchvision_available()
sys.meta_path.append(TorchvisionStub())

import timm  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from timm.models._hub import save_config_for_hf  # noqa: E402

import keras_vit  # noqa: E402

TOLERANCE = 1e-5

TIMM = {
    "ViT-Ti/16": "vit_tiny_patch16_224",
    "ViT-S/32": "vit_small_patch32_224",
    "ViT-S/16": "vit_small_patch16_224",
    "ViT-B/32": "vit_base_patch32_224",
    "ViT-B/16": "vit_base_patch16_224",
    "ViT-B/8": "vit_base_patch8_224",
    "ViT-L/32": "vit_large_patch32_224",
    "ViT-L/16": "vit_large_patch16_224",
    "R+ViT-Ti/16": "vit_tiny_r_s16_p8_224",
    "R26+ViT-S/32": "vit_small_r26_s32_224",
    "R50+ViT-B/16": "vit_base_r50_s16_224",
    "R50+ViT-L/32": "vit_large_r50_s32_224",
    "DeiT-Ti/16": "deit_tiny_patch16_224",
    "DeiT-S/16 distilled": "deit_small_distilled_patch16_224",
    "DeiT-B/16 distilled": "deit_base_distilled_patch16_224",
    "DeiT-III-S/16": "deit3_small_patch16_224",
    "DeiT-III-M/16": "deit3_medium_patch16_224",
    "DeiT-III-B/16": "deit3_base_patch16_224",
    "DeiT-III-L/16": "deit3_large_patch16_224",
    "DINOv2-S/14, 518 px": "vit_small_patch14_dinov2",
    "DINOv2-B/14, 518 px": "vit_base_patch14_dinov2",
    "DINOv2-L/14, 518 px": "vit_large_patch14_dinov2",
    "DINOv2-g/14, 518 px": "vit_giant_patch14_dinov2",
    "DINOv2-S/14 reg4, 518 px": "vit_small_patch14_reg4_dinov2",
    "DINOv2-B/14 reg4, 518 px": "vit_base_patch14_reg4_dinov2",
    "DINOv2-L/14 reg4, 518 px": "vit_large_patch14_reg4_dinov2",
    "DINOv3-S/16, 256 px": "vit_small_patch16_dinov3",
    "DINOv3-S+/16, 256 px": "vit_small_plus_patch16_dinov3_qkvb",
    "DINOv3-B/16, 256 px": "vit_base_patch16_dinov3_qkvb",
    "DINOv3-L/16, 256 px": "vit_large_patch16_dinov3_qkvb",
    "EVA-02-Ti/14, 336 px": "eva02_tiny_patch14_336",
    "EVA-02-S/14, 336 px": "eva02_small_patch14_336",
    "EVA-02-B/14, 224 px": "eva02_base_patch14_224",
    "EVA-02-L/14, 224 px": "eva02_large_patch14_224",
    "EVA-02-CLIP-B/16": "eva02_base_patch16_clip_224",
    "PE-Core-Ti/16, 384 px": "vit_pe_core_tiny_patch16_384",
    "PE-Core-S/16, 384 px": "vit_pe_core_small_patch16_384",
    "PE-Core-B/16": "vit_pe_core_base_patch16_224",
    "PE-Spatial-B/16, 512 px": "vit_pe_spatial_base_patch16_512",
    "TIPSv2-B/14, 448 px": "vit_base_patch14_reg1_tipsv2",
    "AIMv2-L/14": "aimv2_large_patch14_224",
    "RoPE-ViT-S/16": "vit_small_patch16_rope_224",
    "RoPE-ViT-B/16 mixed": "vit_base_patch16_rope_mixed_224",
    "RoPE-ViT-B/16 mixed, APE": "vit_base_patch16_rope_mixed_ape_224",
    "SBB Betwixt RoPE reg4, 256 px": "vit_betwixt_patch16_rope_reg4_gap_256",
    "SigLIP-B/16": "vit_base_patch16_siglip_224",
    "SigLIP-So400m/14": "vit_so400m_patch14_siglip_224",
    "CLIP-B/16": "vit_base_patch16_clip_224",
    "CLIP-B/16, quick GELU": "vit_base_patch16_clip_quickgelu_224",
    "SBB Little reg1, 256 px": "vit_little_patch16_reg1_gap_256",
    "SBB Medium reg4, 256 px": "vit_medium_patch16_reg4_gap_256",
    "SBB So150m2 reg1, 256 px": "vit_so150m2_patch16_reg1_gap_256",
    "FlexiViT-B, 240 px": "flexivit_base",
}

CLASSES = {"num_labels": 1000}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
GIANT = {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True}

# The class and what differs from its configuration's defaults, which are those of its B/16 (DINOv2: B/14, CLIP: B/32).
HUGGING_FACE = {
    "ViT-B/16": ("ViTForImageClassification", CLASSES),
    "ViT-B/16, pooler": ("ViTModel", {}),
    "ViT-L/16": ("ViTForImageClassification", {**CLASSES, **LARGE, "intermediate_size": 4096}),
    "DeiT-B/16 distilled": ("DeiTForImageClassificationWithTeacher", CLASSES),
    "DINOv2-B/14": ("Dinov2Model", {}),
    "DINOv2-B/14, classifier": ("Dinov2ForImageClassification", CLASSES),
    "DINOv2-L/14": ("Dinov2Model", LARGE),
    "DINOv2-g/14": ("Dinov2Model", GIANT),
    "DINOv2-B/14 reg4": ("Dinov2WithRegistersModel", {"patch_size": 14}),
    "DINOv3-S/16": ("DINOv3ViTModel", {"num_register_tokens": 4}),
    "DINOv3-S+/16": ("DINOv3ViTModel", {"num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu"}),
    "TIPSv2-B/14, 448 px": ("Tipsv2VisionModel", {}),
    "I-JEPA-B/16": ("IJepaModel", {}),
    "AIMv2-L/14": ("Aimv2VisionModel", {"use_head": False}),
    "AIMv2-L/14 native": ("Aimv2VisionModel", {"use_head": False, "is_native": True}),
    "SigLIP-B/16": ("SiglipVisionModel", {}),
    "CLIP-B/16": ("CLIPVisionModel", {"patch_size": 16}),
    "CLIP-L/14": ("CLIPVisionModel", {**LARGE, "intermediate_size": 4096, "patch_size": 14}),
    "MAE-B/16 encoder": ("ViTMAEModel", {"mask_ratio": 0.0}),
}

# The first pattern found in a tensor's name says how it is drawn, such that nothing is 0 or 1 and activations neither vanish nor grow;
# kernels come last, by their fan-in. Embeddings are as small as in published files, so that the epsilon of the first norm shows.
DRAWS = {
    r"freqs$": lambda tensor, normal: 0.5 * normal,
    r"gamma(_\d)?$|lambda1$": lambda tensor, normal: 0.5 + 0.2 * normal,
    r"norm\w*\.weight$": lambda tensor, normal: 1 + 0.1 * normal,
    r"(tokens?|class_embedding|pos_embed|position_embeddings|position_embedding\.weight)$": lambda tensor, normal: 0.1 * normal,
    r"patch_embed\w*\.(proj|projection)?\.?(weight|bias)$": lambda tensor, normal: 0.1 * normal * tensor[0].numel() ** -0.5,
    r"latent$|probe$": lambda tensor, normal: normal,
    r"bias$": lambda tensor, normal: 0.1 * normal,
    r"weight$": lambda tensor, normal: normal * tensor[0].numel() ** -0.5,
}


class Timm:
    """Models of timm."""

    name, format = "timm", "timm"

    def __init__(self, architecture):
        self.architecture = architecture

    def build(self):
        projects = re.search("eva02.*clip|_pe_core_", self.architecture)
        classes = 0 if re.search("dinov[23]|siglip|tipsv2|aimv2|_pe_", self.architecture) else 1000
        return timm.create_model(self.architecture, **({} if projects else {"num_classes": classes}))

    def save(self, model, folder):
        save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
        save_config_for_hf(model, folder / "config.json")

    def open(self, folder):
        return timm.create_model(f"local-dir:{folder}", pretrained=True)

    def outputs(self, model, pixels):
        return model(pixels)

    def image_size(self, model):
        return model.patch_embed.img_size


class HuggingFace:
    """Models of transformers."""

    name, format = "transformers", "huggingface"

    def __init__(self, model_class, config):
        self.model_class, self.config = getattr(transformers, model_class), config

    def build(self):
        return self.model_class(self.model_class.config_class(**self.config))

    def save(self, model, folder):
        model.save_pretrained(folder)

    def open(self, folder):
        # After pre-training, a MAE model is used as a plain encoder.
        mae = self.model_class is transformers.ViTMAEModel
        model_class, more = (transformers.ViTModel, {"add_pooling_layer": False}) if mae else (self.model_class, {})
        model, loading = model_class.from_pretrained(folder, output_loading_info=True, **more)
        if any(loading.values()):
            raise ValueError(f"transformers does not read back what it should: {loading}")
        return model

    def outputs(self, model, pixels):
        if isinstance(model, transformers.ViTMAEModel):  # it sorts its patches by this noise, even if it masks none
            return model(pixels, noise=torch.arange(196.0).tile(len(pixels), 1)).last_hidden_state[:, 0]
        found = model(pixels)
        if "logits" in found:
            return found.logits
        name = type(model).__name__
        if name.startswith(("IJepa", "Aimv2")):  # without a class token
            return found.last_hidden_state.mean(1)
        has_pooler = found.get("pooler_output") is not None and not name.startswith(("Dinov2", "DINOv3", "Tipsv2"))
        return found.pooler_output if has_pooler else found.last_hidden_state[:, 0]

    def image_size(self, model):
        return (model.config.image_size,) * 2


PEERS = [(name, Timm(architecture)) for name, architecture in TIMM.items()]
PEERS += [(name, HuggingFace(*arguments)) for name, arguments in HUGGING_FACE.items()]


def randomize(model, seed):
    random = torch.Generator().manual_seed(seed)
    for key, tensor in sorted(model.named_parameters()):
        draw = next(draw for pattern, draw in DRAWS.items() if re.search(pattern, key))
        tensor.data.copy_(draw(tensor, torch.randn(tensor.shape, generator=random)))


@torch.no_grad()
def peer_outputs(peer, model, images, precision):
    model = model.to(precision).eval()
    return peer.outputs(model, torch.from_numpy(images.transpose(0, 3, 1, 2)).to(precision)).numpy()


def difference(found, expected):
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def compare(name, peer):
    """Returns the row of one model: a dict with its name, parameters, differences, and whether the largest outputs are the same."""
    seed = zlib.crc32(f"{peer.name} {name}".encode())
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = pathlib.Path(folder, "theirs"), pathlib.Path(folder, "ours")
        theirs.mkdir()
        model = peer.build()
        randomize(model, seed)
        peer.save(model, theirs)
        images = np.random.default_rng(seed).standard_normal((2, *peer.image_size(model), 3)).astype("float32")
        single = peer_outputs(peer, model, images, torch.float32)
        expected = peer_outputs(peer, model, images, torch.float64)
        del model
        gc.collect()

        in_float64 = difference(single, expected) > TOLERANCE
        given = dict(include_preprocessing=False, classifier_activation=None, dtype="float64" if in_float64 else "float32")
        model = keras_vit.from_pretrained(theirs, **given)
        parameters = model.count_params()
        loaded = keras.ops.convert_to_numpy(model(images))
        keras_vit.checkpoints.save(model, ours, format=peer.format)
        del model
        gc.collect()

        saved = peer_outputs(peer, peer.open(ours), images, torch.float32)
        gc.collect()
    return {
        "model": name,
        "peer": peer.name,
        "parameters": parameters,
        "loaded": difference(loaded, expected),
        "saved": difference(saved, single),
        "rounding": difference(single, expected),
        "in_float64": in_float64,
        "argmax": all((found.argmax(-1) == expected.argmax(-1)).all() for found in (loaded, saved)),
    }


def cells(row):
    numbers = [f"{row[key]:.1e}" for key in ("loaded", "saved", "rounding")]
    numbers[0] += " (float64)" if row["in_float64"] else ""
    return [row["model"], row["peer"], f"{row['parameters']:,}", *numbers, "equal" if row["argmax"] else "different"]


def print_row(cells, markdown):
    if markdown:
        print("|", " | ".join(cells), "|", flush=True)
    else:
        widths = (26, 13, 14, 17, 9, 9, 9)
        print(" ".join(cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(cells, widths))), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PATTERN", default="*", help='models whose name matches, such as "DINOv2*" or "*B/16*"')
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument(
        "--large", action="store_true", help="also models of more than a billion parameters (needs 17 GB of memory instead of 8)"
    )
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    print_row(["model", "peer", "parameters", "loaded", "saved", "rounding", "argmax"], options.markdown)
    if options.markdown:
        print("| --- | --- | ---: | ---: | ---: | ---: | --- |")
    failed = []
    for name, peer in PEERS:
        if fnmatch.fnmatch(name, options.only) and (options.large or "-g/" not in name):
            row = compare(name, peer)
            print_row(cells(row), options.markdown)
            if max(row["loaded"], row["saved"]) > TOLERANCE or not row["argmax"]:
                failed.append(name)
    if failed:
        sys.exit(f"Beyond {TOLERANCE}: {', '.join(failed)}")


if __name__ == "__main__":
    main()
