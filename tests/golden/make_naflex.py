"""Makes `naflex/`: tiny random NaFlex checkpoints, with what transformers, timm and big_vision compute from them for mixed shapes.

    pip install torch==2.13.0 transformers==5.24.0 timm==1.0.31
    python make_naflex.py torch

    pip install jax==0.10.2 flax==0.12.8 tensorflow-cpu==2.21.0 ml_collections einops
    git clone https://github.com/google-research/big_vision           # made at 0127fb6
    python make_naflex.py big_vision

The last line gets the folder of the checkout. Everything is seeded: the same versions give the same numbers.

A fixture is a folder with the checkpoint and `expected.npz`: patches (4, 18, 48), grid (4, 2), mask (4, 18); tokens (4, 18, D), after
the final norm; pooled (4, D), or logits (4, C); and `gradient:KEY` of the mean of squares of pooled or logits, for each parameter.
`sizes.npz` holds the sizes that the rules of transformers and big_vision give to images of many shapes.
"""

import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent / "naflex"
GRIDS, LENGTH, PATCH = ((4, 4), (2, 7), (5, 3), (1, 1)), 18, 4
SIZES = [(rows, columns) for rows in (1, 37, 224, 480, 1000, 2200) for columns in (16, 100, 333, 640, 1700)]
LENGTHS = (64, 256, 576)


def inputs():
    random = np.random.default_rng(0)
    grid = np.array(GRIDS, "int32")
    mask = np.arange(LENGTH) < grid.prod(-1, keepdims=True)
    patches = random.uniform(-1, 1, (len(grid), LENGTH, PATCH * PATCH * 3)).astype("float32") * mask[..., None]
    return patches.astype("float32"), grid, mask


def value(key, shape, random):
    """Returns the values of a parameter that keep activations at about one, and no parameter at 0 or 1."""
    if "norm" in key.lower() and key.endswith(("weight", "scale")) or key.endswith("gamma"):
        return (1 + 0.3 * random.standard_normal(shape)).astype("float32")
    kernel = len(shape) > 1 and not any(name in key for name in ("pos", "probe", "latent", "token"))
    return (random.standard_normal(shape) * (0.7 / np.sqrt(shape[-1]) if kernel else 0.4)).astype("float32")


def set_values(model):
    import torch

    random = np.random.default_rng(1)
    with torch.no_grad():
        for key, parameter in sorted(model.named_parameters()):
            parameter.copy_(torch.tensor(value(key, tuple(parameter.shape), random)))
    return model.eval()


def with_gradients(model, output):
    model.zero_grad()
    output.square().mean().backward()
    return {f"gradient:{key}": p.grad.numpy() for key, p in model.named_parameters() if p.grad is not None}


def make_transformers(name, with_text=False):
    import torch
    import transformers

    patches, grid, mask = inputs()
    shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=PATCH, num_patches=16)
    model_class = getattr(transformers, name)
    config = shape
    if name != "Siglip2VisionModel":
        text = dict(vocab_size=12, hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
        config = dict(vision_config=shape, text_config={**text, "max_position_embeddings": 4, "projection_size": 16})
        config |= {"num_labels": 5} if "Classification" in name else {}
    model = set_values(model_class(model_class.config_class(**config)))
    folder = HERE / f"transformers_{name}"
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    colors = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3, do_rescale=True, rescale_factor=1 / 255, do_normalize=True)
    processor = dict(image_processor_type="Siglip2ImageProcessor", do_resize=True, resample=2, max_num_patches=LENGTH, patch_size=PATCH)
    (folder / "preprocessor_config.json").write_text(json.dumps({**processor, **colors}, indent=2) + "\n")
    given = dict(pixel_values=torch.tensor(patches), pixel_attention_mask=torch.tensor(mask.astype("int32")))
    given["spatial_shapes"] = torch.tensor(grid).long()
    tower = getattr(model, "vision_model", model)
    seen = tower(*given.values())
    found = dict(patches=patches, grid=grid, mask=mask, tokens=seen.last_hidden_state.detach().numpy())
    if "Classification" in name:
        output = model(**given).logits
        found["logits"] = output.detach().numpy()
    else:
        output = seen.pooler_output
        found["pooled"] = output.detach().numpy()
    np.savez_compressed(folder / "expected.npz", **found, **with_gradients(model, output))


def make_timm():
    import timm
    import torch
    from safetensors.torch import save_file

    patches, grid, mask = inputs()
    common = dict(embed_dim=16, depth=2, num_heads=2, mlp_ratio=2.0, patch_size=PATCH, pos_embed_grid_size=(4, 4))
    for architecture, more in (
        ("naflexvit_base_patch16_siglip", dict(num_classes=0)),
        ("naflexvit_base_patch16_gap", dict(num_classes=5, reg_tokens=2)),
    ):
        arguments = {**common, **more}
        model = set_values(timm.create_model(architecture, **arguments))
        folder = HERE / f"timm_{architecture}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        save_file(model.state_dict(), folder / "model.safetensors")
        trained = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "crop_pct": 1.0, "input_size": [3, 16, 16]}
        arguments["pos_embed_grid_size"] = [4, 4]
        content = dict(architecture=architecture, num_classes=more["num_classes"], model_args=arguments, pretrained_cfg=trained)
        (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n")
        at = np.arange(LENGTH)
        coordinates = np.stack([at // grid[:, 1:], at % grid[:, 1:]], -1) * mask[..., None]
        given = dict(patches=torch.tensor(patches), patch_coord=torch.tensor(coordinates).long(), patch_valid=torch.tensor(mask))
        output = model(given)
        key = "pooled" if not more["num_classes"] else "logits"
        found = {"patches": patches, "grid": grid, "mask": mask, key: output.detach().numpy()}
        np.savez_compressed(folder / "expected.npz", **found, **with_gradients(model, output))


def make_sizes():
    from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches as size

    found = {f"{length}": [size(*image, PATCH * 4, length) for image in SIZES] for length in LENGTHS}
    np.savez_compressed(HERE / "sizes.npz", images=SIZES, **{key: np.array(value) for key, value in found.items()})


def make_big_vision(checkout):
    sys.path.insert(0, checkout)
    # It imports what newer JAX lacks, to divide a batch between devices. Here there is one.
    one_device = types.ModuleType("big_vision.models.proj.image_text.utils")
    one_device.batch_shmap = lambda function, *arrays: function(*arrays)
    sys.modules[one_device.__name__] = one_device
    from big_vision.models.proj.image_text import naflex_vit

    common = dict(width=16, depth=2, mlp_dim=32, num_heads=2, nposemb=4, posemb="learn_2d(16)")
    make_one_of_big_vision("map", naflex_vit.Model(pool_type="map", scan=True, **common))
    make_one_of_big_vision("gap", naflex_vit.Model(pool_type="gap", num_classes=5, head_zeroinit=False, **common))


def make_one_of_big_vision(name, model):
    import jax
    from flax.traverse_util import flatten_dict, unflatten_dict

    patches, grid, mask = inputs()
    at = np.arange(LENGTH)
    y, x = ((at // grid[:, 1:]) * mask).astype("int32"), ((at % grid[:, 1:]) * mask).astype("int32")
    given = (patches, mask.astype("int32"), y, x)
    random = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: model.init(jax.random.PRNGKey(0), given))["params"]
    values = {"/".join(key): value("/".join(key), leaf.shape, random) for key, leaf in sorted(flatten_dict(shapes).items())}
    params = unflatten_dict({tuple(key.split("/")): array for key, array in values.items()})
    output, out = model.apply({"params": params}, given)
    gradients = jax.grad(lambda params: (model.apply({"params": params}, given)[0] ** 2).mean())(params)
    folder = HERE / f"big_vision_{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    others = {"params/t": np.float32([2.3]), "params/b": np.float32([-9.5]), "params/txt/head/bias": np.ones(3, "float32")}
    np.savez_compressed(folder / "checkpoint.npz", **{f"params/img/{key}": array for key, array in values.items()}, **others)
    found = {"patches": patches, "grid": grid, "mask": mask, "tokens": out["encoded"]}
    found["logits" if model.num_classes else "pooled"] = output
    found |= {f"gradient:params/img/{'/'.join(key)}": array for key, array in flatten_dict(gradients).items()}
    np.savez_compressed(folder / "expected.npz", **{key: np.asarray(array) for key, array in found.items()})


if __name__ == "__main__":
    if sys.argv[1] == "torch":
        for name in ("Siglip2VisionModel", "Siglip2Model", "Siglip2ForImageClassification"):
            make_transformers(name)
        make_timm()
        make_sizes()
    else:
        make_big_vision(sys.argv[1])
