"""Checks that the families' own code reads what `keras_vit.checkpoints.save` writes, with the tiny models of tests/golden.

    pip install torch==2.13.0 transformers==5.24.0 safetensors pyyaml tensorflow-cpu
    pip install --no-deps timm==1.0.31
    git clone https://github.com/facebookresearch/dinov3              # 6876159
    git clone https://github.com/facebookresearch/perception_models   # 3e352cc; pip install einops
    python benchmarks/read_back.py --dinov3 dinov3 --perception perception_models

keras_vit reads a checkpoint of the family and saves it in each format that can hold the model. The other library reads that by its own
loader, which refuses missing and unexpected tensors. Both predict the same images: the number is the largest difference, divided by the
largest output. Without the two folders, only timm and transformers are asked. The exit status is 1 if a difference exceeds 1e-5.
"""

import argparse
import json
import pathlib
import re
import sys
import tempfile

import keras
import numpy as np
import torch
import transformers
from torchvision_stub import TorchvisionStub

# transformers looks for torchvision too, and must not find a stub.
transformers.utils.import_utils.is_torchvision_available()
sys.meta_path.append(TorchvisionStub())

import timm  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

import keras_vit  # noqa: E402

GOLDEN = pathlib.Path(__file__).parents[1] / "tests" / "golden"
FAMILIES = r"eva|pe_|tipsv2|ijepa|dinov3|eupe|rope|aimv2"
FIXTURES = [path.parent for path in sorted(GOLDEN.glob("*/*/ours.json")) if re.match(FAMILIES, path.parent.name)]
FIXTURES += [path.parent for path in sorted(GOLDEN.glob("naflex/*/expected.npz"))]
OF_IMAGES = ("patches", "grid", "mask")
TOLERANCE = 1e-5


def load(folder):
    """Returns the model of a fixture, and what it takes."""
    golden, told = np.load(folder / "expected.npz"), {"num_heads": 2}
    if (folder / "ours.json").is_file():
        ours = json.loads((folder / "ours.json").read_text())
        told = {key: ours[key] for key in ("num_heads", "norm_epsilon", "rotary") if key in ours}
        if ours.get("position_embedding", "learned") != "learned":
            told["input_shape"] = ours["input_shape"]
    files = [path for path in folder.iterdir() if path.suffix in (".npz", ".pth") and path.name not in ("expected.npz", "gradients.npz")]
    told |= dict(include_preprocessing=False, classifier_activation=None)
    model = keras_vit.from_pretrained(files[0] if len(files) == 1 else folder, **told)
    return model, {key: golden[key] for key in OF_IMAGES} if model.config.naflex else golden["images"]


def pixels(inputs):
    return torch.from_numpy(inputs.transpose(0, 3, 1, 2))


def by_timm(path, config, inputs):
    model = timm.create_model(f"local-dir:{path}", pretrained=True).eval()
    if not config.naflex:
        return model(pixels(inputs))
    grid, mask = inputs["grid"], inputs["mask"]
    at = np.arange(mask.shape[1])
    places = np.stack([at // grid[:, 1:], at % grid[:, 1:]], -1) * mask[..., None]
    given = dict(patches=inputs["patches"], patch_coord=places, patch_valid=mask)
    return model({key: torch.from_numpy(value) for key, value in given.items()})


def by_transformers(path, config, inputs):
    name = json.loads((path / "config.json").read_text())["architectures"][0]
    model, loading = getattr(transformers, name).from_pretrained(path, output_loading_info=True)
    if any(loading.values()):
        raise ValueError(f"transformers does not read back what it should: {loading}")
    if config.naflex:
        given = dict(pixel_values=inputs["patches"], pixel_attention_mask=inputs["mask"].astype("int32"))
        given["spatial_shapes"] = inputs["grid"].astype("int64")
        seen = model.eval()(**{key: torch.from_numpy(value) for key, value in given.items()})
        return seen.logits if "logits" in seen else seen.pooler_output
    tokens = model.eval()(pixels(inputs)).last_hidden_state
    return tokens[:, 0] if config.pooling == "token" else tokens.mean(1)


def sizes(config):
    return dict(patch_size=config.patch[0], depth=config.num_layers, num_heads=config.num_heads, embed_dim=config.hidden_dim)


def by_dinov3(path, config, inputs):
    from dinov3.models.vision_transformer import DinoVisionTransformer

    form = dict(ffn_layer="swiglu" if config.mlp == "swiglu" else "mlp", mask_k_bias=config.qkv_bias == "query_value")
    ratio = config.mlp_dim / config.hidden_dim * (1.5 if config.mlp == "swiglu" else 1.0)
    form |= dict(n_storage_tokens=config.num_register_tokens, layerscale_init=1e-5, norm_layer="layernormbf16", ffn_ratio=ratio)
    model = DinoVisionTransformer(**sizes(config), **form, qkv_bias=bool(config.qkv_bias), pos_embed_rope_dtype="fp32")
    model.load_state_dict(load_file(path / "model.safetensors"), strict=True)
    return model.eval()(pixels(inputs))


def by_perception_models(path, config, inputs):
    from core.vision_encoder.pe import VisionTransformer

    form = dict(image_size=config.image_size[0], patch_size=config.patch[0], width=config.hidden_dim, layers=config.num_layers)
    form |= dict(heads=config.num_heads, mlp_ratio=config.mlp_dim / config.hidden_dim, use_cls_token=config.class_token)
    form |= dict(use_ln_post=config.final_norm, pool_type="attn" if config.pooling == "map" else "none")
    model = VisionTransformer(**form, output_dim=config.representation_size, ls_init_value=config.layer_scale_init)
    model.load_state_dict(load_file(path / "model.safetensors"), strict=True)
    return model.eval()(pixels(inputs)) if config.pooling == "map" else model.forward_features(pixels(inputs), norm=True).mean(1)


READERS = {"timm": by_timm, "huggingface": by_transformers, "dinov3": by_dinov3, "perception_encoder": by_perception_models}


@torch.no_grad()
def compare(folder, formats):
    """Yields (format, difference) for each of the formats that can hold the model of a fixture."""
    model, inputs = load(folder)
    ours = keras.ops.convert_to_numpy(model(inputs))
    for format in formats:
        with tempfile.TemporaryDirectory() as path:
            path = pathlib.Path(path, "model")
            try:
                keras_vit.checkpoints.save(model, path, format)
            except ValueError as error:
                if "has no model with" not in str(error):
                    raise
                continue
            theirs = READERS[format](path, model.config, inputs).numpy()
        yield format, float(np.abs(theirs - ours).max() / np.abs(ours).max())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dinov3", metavar="FOLDER", help="checkout of facebookresearch/dinov3")
    parser.add_argument("--perception", metavar="FOLDER", help="checkout of facebookresearch/perception_models")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    sys.path[:0] = filter(None, (options.dinov3, options.perception))
    formats = ["timm", "huggingface", *["dinov3"] * bool(options.dinov3), *["perception_encoder"] * bool(options.perception)]

    failed = []
    print("|", " | ".join(["fixture", *formats]), "|")
    print("| --- |", " | ".join("---:" for _ in formats), "|")
    for folder in FIXTURES:
        name, found = f"{folder.parent.name}/{folder.name}", dict(compare(folder, formats))
        print("|", " | ".join([name, *(f"{found[format]:.0e}" if format in found else "" for format in formats)]), "|", flush=True)
        failed += [name] * (max(found.values()) > TOLERANCE)
    if failed:
        sys.exit(f"Beyond {TOLERANCE}: {', '.join(failed)}")


if __name__ == "__main__":
    main()
