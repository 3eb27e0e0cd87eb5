"""Makes `google/`: tiny random checkpoints in the forms of vit_jax and big_vision, with what Google's own code computes from them.

    pip install jax==0.10.2 flax==0.12.8 tensorflow-cpu==2.21.0 ml_collections einops pandas scipy tqdm
    git clone https://github.com/google-research/vision_transformer   # made at c6de1e5
    git clone https://github.com/google-research/big_vision           # made at 0127fb6
    python make_google.py vision_transformer big_vision

The last line gets the folders of the two checkouts. Everything is seeded: the same versions give the same numbers.

A fixture is a folder:
    checkpoint.npz  under the names of published files
    ours.json       the arguments of keras_vit.VisionTransformer that differ from its defaults
    expected.npz    images (2, H, W, 3), normalized; tokens (2, N, D), after the final norm; pooled (2, D), what the head reads, after
                    pre_logits where there is one; logits (2, C) where there is a head; for FlexiViT all of it again for other patches
"""

import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

sys.path[:0] = sys.argv[1:3]

from big_vision.models import vit  # noqa: E402
from big_vision.models.proj.flexi import vit as flexi  # noqa: E402
from big_vision.models.proj.image_text import two_towers  # noqa: E402
from vit_jax import checkpoint, models_vit  # noqa: E402

HERE = Path(__file__).parent / "google"

OURS = {
    "input_shape": [32, 32, 3],
    "patch_size": 8,
    "hidden_dim": 32,
    "num_layers": 2,
    "num_heads": 4,
    "mlp_dim": 64,
    "num_classes": 7,
    "activation": "gelu_tanh",
}
NO_CLASS = {"class_token": False, "prefix_positions": False}

TRANSFORMER = {"num_layers": 2, "mlp_dim": 64, "num_heads": 4, "dropout_rate": 0.0, "attention_dropout_rate": 0.0}
VIT_JAX = {"num_classes": 7, "hidden_size": 32, "transformer": TRANSFORMER}
BIG_VISION = {"width": 32, "depth": 2, "mlp_dim": 64, "num_heads": 4}
TEXT = {"width": 8, "depth": 1, "mlp_dim": 8, "num_heads": 2, "vocab_size": 12}
NO_STATE = {}
STATE = {"opt/state/step": np.int64(100), "epoch": np.int64(1)}  # flax.optim
OPTAX = {"opt/0/count": np.int32(100), "opt/0/mu/head/bias": np.ones(7, "float32")}

# name: (patch, ResNet, classifier and representation_size, prefix of the names, what else the file holds, ours)
VIT_JAX_FIXTURES = {
    "vit": (8, None, {}, "", NO_STATE, {}),
    "vit_opt_target": (8, None, {}, "opt/target/", STATE, {}),
    "vit_params": (8, None, {}, "params/", OPTAX, {}),
    "vit_pre_logits": (8, None, {"representation_size": 24}, "", NO_STATE, {"representation_size": 24}),
    "vit_gap": (8, None, {"classifier": "gap"}, "", NO_STATE, {**NO_CLASS, "pooling": "gap"}),
    "hybrid": (
        1,
        {"num_layers": (2, 1), "width_factor": 0.5},
        {},
        "",
        NO_STATE,
        {"patch_size": 1, "stem": {"kind": "resnet", "block_counts": [2, 1], "width": 32, "num_groups": 32}},
    ),
    "hybrid_root": (
        2,
        {"num_layers": (), "width_factor": 0.5},
        {},
        "",
        NO_STATE,
        {"patch_size": 2, "stem": {"kind": "resnet", "block_counts": [], "width": 32, "num_groups": 32}},
    ),
}

# name: (model, prefix of the names, whether the file is bfloat16, ours)
BIG_VISION_FIXTURES = {
    "big_vision_gap": ({"pool_type": "gap"}, "", False, {**NO_CLASS, "pooling": "gap"}),
    "big_vision_tok": ({"pool_type": "tok"}, "params/", False, {"prefix_positions": False}),
    "big_vision_map": ({"pool_type": "map"}, "params/", False, {**NO_CLASS, "pooling": "map"}),
    "big_vision_sincos2d": (
        {"pool_type": "gap", "posemb": "sincos2d", "rep_size": True},
        "params/",
        False,
        {**NO_CLASS, "pooling": "gap", "position_embedding": "sincos2d", "representation_size": 32},
    ),
    "big_vision_scan": ({"pool_type": "tok", "scan": True}, "params/", False, {"prefix_positions": False}),
    "big_vision_bfloat16": ({"pool_type": "gap"}, "params/", True, {**NO_CLASS, "pooling": "gap"}),
}

# patch: image size that makes the grid; the kernel's own is 8, the positions' own grid 4x4
FLEXI_PATCHES = {8: 32, 16: 48, 6: 30}

PRE_LINEN = {"MultiHeadDotProductAttention_0": "MultiHeadDotProductAttention_1", "LayerNorm_1": "LayerNorm_2", "MlpBlock_0": "MlpBlock_3"}


def spread(path, shape):
    """Mean and standard deviation of a parameter that keep activations at about one, and no parameter at 0 or 1."""
    module, name = ("", *path)[-2:]
    if name == "scale":
        return 1.0, 0.3
    if name == "bias":
        return 0.0, 0.02 if module == "embedding" else 0.5
    if name == "kernel" and module.startswith("conv"):
        return 0.05, 0.1  # raw: only the code standardizes it
    # As small as in published files, where LayerNorm's epsilon shows.
    if name in ("cls", "pos_embedding"):
        return 0.0, 0.01
    if name != "kernel":
        return 0.0, 0.5
    # flax keeps heads apart: (D, heads, d) into query, key and value, (heads, d, D) out of them
    fan_in = shape[-3] if module in ("query", "key", "value") else np.prod(shape[-3:-1] if module == "out" else shape[:-1])
    return 0.0, (0.02 if module == "embedding" else 1.0) / np.sqrt(fan_in)


def random_parameters(model, *inputs, **arguments):
    shapes = jax.eval_shape(lambda: model.init(jax.random.PRNGKey(0), *inputs, **arguments))["params"]
    generator = np.random.default_rng(0)
    parameters = {}
    for path, array in sorted(flatten_dict(shapes).items()):
        shape = array.shape[1:] if "encoderblock" in path else array.shape  # scanned blocks are stacked
        mean, deviation = spread(path, shape)
        parameters[path] = (mean + deviation * generator.standard_normal(array.shape)).astype("float32")
    return unflatten_dict(parameters)


def random_images(size):
    pixels = np.random.default_rng(size).integers(0, 256, (2, size, size, 3))
    return (pixels / 127.5 - 1).astype("float32")


def named(parameters, prefix="", names=None):
    """Flattens to the names of a file."""
    return {prefix + "/".join((names or {}).get(part, part) for part in path): value for path, value in flatten_dict(parameters).items()}


def save(name, ours, arrays, expected):
    folder = HERE / name
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "checkpoint.npz", **arrays)
    np.savez_compressed(folder / "expected.npz", **expected)
    (folder / "ours.json").write_text(json.dumps({**OURS, **ours}, indent=2) + "\n")
    for key, value in expected.items():
        assert np.isfinite(value).all() and 0.1 < value.std() < 10, (name, key, value.std())
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{name}: {size / 1000:.0f} kB", {key: value.shape for key, value in expected.items()})
    return str(folder / "checkpoint.npz")


def same(expected, outputs):
    for key, value in outputs.items():
        np.testing.assert_allclose(value, expected[key], atol=2e-5, err_msg=key)


def vit_jax_outputs(model, parameters, images):
    kept = "token_unpooled" if model.classifier == "token" else "unpooled"
    whole = {"tokens": {"classifier": kept, "representation_size": None, "num_classes": 0}, "pooled": {"num_classes": 0}, "logits": {}}
    run = {key: model.clone(**changes).apply({"params": parameters}, images, train=False) for key, changes in whole.items()}
    return jax.tree.map(np.asarray, run)


def vit_jax_model(patch, resnet, head):
    patches = ml_collections.ConfigDict({"size": (patch, patch)})
    return models_vit.VisionTransformer(patches=patches, resnet=resnet and ml_collections.ConfigDict(resnet), **VIT_JAX, **head)


def make_vit_jax(name):
    patch, resnet, head, prefix, others, ours = VIT_JAX_FIXTURES[name]
    model, images = vit_jax_model(patch, resnet, head), random_images(32)
    parameters = random_parameters(model, images, train=False)
    arrays = named(parameters, prefix, PRE_LINEN)
    if name == "hybrid":  # as published: flax once kept GroupNorm's arrays with the axes that they are broadcast along
        arrays = {key: value.reshape(1, 1, 1, -1) if re.search("gn[^/]*/", key) else value for key, value in arrays.items()}
    expected = {"images": images, **vit_jax_outputs(model, parameters, images)}
    path = save(name, ours, {**arrays, **others}, expected)
    if not prefix:
        same(expected, vit_jax_outputs(model, checkpoint.load(path), images))
    if not resnet and not head.get("classifier"):
        # big_vision reads these files too, adding the first position to the class token.
        renamed = vit._Model(7, (8, 8), pool_type="tok", rep_size=head.get("representation_size"), **BIG_VISION)
        same(expected, big_vision_outputs(renamed, vit.load(None, path, {}), images))
    return model, parameters, images


def make_gradients(model, parameters, images):
    labels = jnp.array([1, 3])

    def loss(parameters):
        logits = model.apply({"params": parameters}, images, train=False)
        return -jax.nn.log_softmax(logits)[jnp.arange(2), labels].mean()

    value, gradients = jax.value_and_grad(loss)(parameters)
    np.savez_compressed(HERE / "gradients.npz", loss=value, labels=labels, **named(gradients, names=PRE_LINEN))


def big_vision_outputs(model, parameters, images, **arguments):
    _, out = model.apply({"params": parameters}, images, **arguments)
    found = {"tokens": out["encoded"], "pooled": out["pre_logits"], "logits": out.get("logits")}
    return {key: np.asarray(value) for key, value in found.items() if value is not None}


def make_big_vision(name):
    settings, prefix, bfloat16, ours = BIG_VISION_FIXTURES[name]
    model, images = vit._Model(7, (8, 8), **BIG_VISION, **settings), random_images(32)
    parameters = random_parameters(model, images)
    arrays = named(parameters, prefix)
    if bfloat16:
        parameters = jax.tree.map(lambda array: np.asarray(array, jnp.bfloat16).astype("float32"), parameters)
        arrays = {key: np.asarray(array, jnp.bfloat16).view("V2") for key, array in arrays.items()}
    expected = {"images": images, **big_vision_outputs(model, parameters, images)}
    path = save(name, ours, arrays, expected)
    loaded = jax.tree.map(lambda array: np.asarray(array, "float32"), vit.load(None, path, settings))
    same(expected, big_vision_outputs(model, loaded, images))


def make_siglip():
    image = {"patch_size": (8, 8), "pool_type": "map", **BIG_VISION}
    model = two_towers.Model(image=image, text=TEXT, out_dim=(None, 32), temperature_init=10.0, bias_init=-10.0)
    images, text = random_images(32), np.ones((2, 4), "int32")
    parameters = random_parameters(model, images, text)
    tower = vit._Model(None, **image)
    expected = {"images": images, **big_vision_outputs(tower, parameters["img"], images)}
    # The model returns the pooled vector divided by its length.
    unit = model.apply({"params": parameters}, images)[0]
    np.testing.assert_allclose(expected["pooled"] / np.linalg.norm(expected["pooled"], axis=1, keepdims=True), unit, atol=1e-5)
    path = save("siglip", {**NO_CLASS, "pooling": "map", "num_classes": 0}, named(parameters, "params/"), expected)
    same(expected, big_vision_outputs(tower, vit.load(None, path + ":img", {}), images))


def make_flexivit():
    model = flexi._Model(7, patch_size=(8, 8), posemb_size=(4, 4), pool_type="tok", **BIG_VISION)
    parameters = random_parameters(model, random_images(32))
    expected = {}
    for patch, size in FLEXI_PATCHES.items():
        images = random_images(size)
        outputs = {"images": images, **big_vision_outputs(model, parameters, images, seqhw=size // patch)}
        expected |= {key if patch == 8 else f"{key}_patch{patch}": value for key, value in outputs.items()}
    path = save("flexivit", {"prefix_positions": False}, named(parameters, "params/"), expected)
    same(expected, big_vision_outputs(model, vit.load(None, path, {}), expected["images"], seqhw=4))


def make_resampling():
    positions = np.random.default_rng(0).standard_normal((1, 17, 8), "float32")
    patches, grid = positions[:, 1:], positions[:, 1:].reshape(1, 4, 4, 8)
    arrays = {"positions": positions}
    for n in (7, 2, 6):
        arrays[f"vit_jax_{n}x{n}"] = checkpoint.interpolate_posembed(positions, n * n + 1, True)
        arrays[f"big_vision_{n}x{n}"] = vit.resample_posemb(patches, np.zeros((1, n * n, 8)))
    for n in (7, 2, 5):
        arrays[f"flexivit_{n}x{n}"] = jax.image.resize(grid, (1, n, n, 8), "linear").reshape(1, n * n, 8)
    np.savez_compressed(HERE / "resample_positions.npz", **arrays)

    kernel = np.random.default_rng(1).standard_normal((8, 8, 3, 8), "float32")
    resized = {f"patch{n}": flexi.resample_patchemb(kernel, (n, n)) for n in (4, 6, 12, 16)}
    np.savez_compressed(HERE / "resample_patch.npz", kernel=kernel, **resized)


if __name__ == "__main__":
    for name in VIT_JAX_FIXTURES:
        made = make_vit_jax(name)
        if name == "vit":
            make_gradients(*made)
    for name in BIG_VISION_FIXTURES:
        make_big_vision(name)
    make_siglip()
    make_flexivit()
    make_resampling()
