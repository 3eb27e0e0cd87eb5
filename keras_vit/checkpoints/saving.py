"""Saves a model as a checkpoint in another library's format."""

import contextlib
import json
import math
import os
import pathlib
import struct
import zipfile

import numpy as np
from keras import ops

from keras_vit.checkpoints.arguments import all_arguments
from keras_vit.checkpoints.card import CARDS, README, is_ours, model_card
from keras_vit.checkpoints.formats import dinov3_meta
from keras_vit.checkpoints.loading import _variables, log
from keras_vit.checkpoints.recognition import FORMATS as READ
from keras_vit.files import replacing, require_space
from keras_vit.layers import checks
from keras_vit.vision_transformer import VisionTransformer

FORMATS = {**READ, dinov3_meta.NAME: dinov3_meta}  # Meta's files of DINOv3 are read as timm's are


def save(
    model: VisionTransformer,
    path: str | os.PathLike[str],
    format: str,
    source: str | os.PathLike[str] | None = None,
    license: str | None = None,
) -> None:
    """Saves a model as a checkpoint that other libraries open.

    Weights are written in float32, with the configuration that the other library builds its model from. Where the other library has
    another form, the weights are converted so that the outputs stay equal: computed positions become a table, a bias that the model
    lacks becomes zeros, the position of a class token is added to the token. The names of the classes and the preprocessing are saved
    too; Google's format stores them in the archive's comment. No file appears before all are complete.

    In the formats "huggingface" and "timm" a model card, README.md, comes with the weights: what the model is, its data, recipe, metrics
    and license as far as `source` and `license` tell, and how to load it. A README.md of your own stays as it is.

    Args:
        model: VisionTransformer. The model to save.
        path: str or path-like. A file `*.npz` for "google"; a folder for the others, created if it does not exist.
        format: str. "timm" (`timm.create_model("local-dir:PATH", pretrained=True)` opens it), "huggingface" (`from_pretrained` of the class
            that its config.json names; a model without a head has no pooler either, unless it has a `representation_size`: pass
            `add_pooling_layer=False`), "google" (vit_jax; big_vision if only patches have positions, or pooling is "map"),
            "perception_encoder" or "dinov3" (the names of Meta's own code, for models of those families: `load_state_dict` of what
            `safetensors.torch.load_file` reads).
        source: str, path-like or None. Where the model comes from, for the card: the folder of the run that trained it, or `MODEL:TAG`.
            Defaults to None.
        license: str or None. Identifier of the license in the model card, such as "apache-2.0". Defaults to None, that of the published
            weights of `source`.

    Raises:
        OSError: if the disk is full, naming the path and the space.
        ValueError: if the format has no equivalent model, naming the arguments that it cannot hold and the formats that can.

    Example:
    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/mine"
    >>> model = keras_vit.VisionTransformer((32, 32, 3), 8, 64, 2, 1, 128, num_classes=10)
    >>> keras_vit.checkpoints.save(model, path, format="timm")
    >>> keras_vit.from_pretrained(path).output_shape
    (None, 10)
    """
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"`model` must be a VisionTransformer. Received: model={model}")
    checks.one_of("format", format, FORMATS)
    a, form, path = all_arguments(model), FORMATS[format], pathlib.Path(path).expanduser()
    if lacks := form.lacks(a):
        others = [name for name, other in FORMATS.items() if not other.lacks(a)]
        able = f"The format{'s' * (len(others) > 1)} {' and '.join(map(repr, others))} can" if others else "None of the formats can"
        raise ValueError(
            f"The format {format!r} has no model with {'; '.join(lacks)}. {able}; `model.save('model.keras')` keeps every model. "
            f"Received: format={format!r}"
        )
    if not form.IS_FOLDER and path.suffix != ".npz":
        raise ValueError(f"A file in the format {format!r} must be named `*.npz`. Received: path={path}")
    if form.IS_FOLDER and path.is_file():
        raise ValueError(f"A checkpoint in the format {format!r} is a folder. Received: path={path}, which is a file")

    file = form.file(a)
    rows = form.rows(file.arguments, **file.details)
    weights = _weights(model, a, file.arguments)
    needed = {p for row in rows for p in row.paths}
    if without := sorted(weights.keys() - needed):
        raise ValueError(f"These weights have no place in the format {format!r}: {', '.join(without)}. Received: format={format!r}")

    def tensors(read):
        """Yields (key, array) row by row, so that at most one row is in memory twice."""
        for row in rows:
            arrays = row.layout.write(*map(read, row.paths))
            yield from zip(map(file.key, row.keys), arrays if isinstance(arrays, tuple) else (arrays,))
        yield from file.extra.items()

    def read(p):
        return np.asarray(ops.convert_to_numpy(weights[p]), "float32")

    shapes = {key: array.shape for key, array in tensors(lambda p: np.broadcast_to(np.int8(0), weights[p].shape))}
    require_space(path, 4 * sum(map(math.prod, shapes.values())))
    with contextlib.ExitStack() as stack:
        if form.IS_FOLDER:
            # All files are complete before the first gets its name. The contexts end in reverse order, so the weights are renamed last.
            _write_safetensors(stack.enter_context(replacing(path / "model.safetensors")), shapes, tensors(read))
            for name, content in file.configs.items():
                stack.enter_context(replacing(path / name)).write_text(json.dumps(content, indent=2) + "\n")
            if format in CARDS and is_ours(path / README):
                card = model_card(model, path, source, format, license)
                stack.enter_context(replacing(path / README)).write_text(card, encoding="utf-8")
        else:
            _write_npz(stack.enter_context(replacing(path)), tensors(read), file.comment)


def _weights(model, a, target):
    """Returns `{path: variable or array}` of the equivalent model that has the arguments `target`."""
    weights = dict(_variables(model))
    width, grid = a["hidden_dim"], a["position_grid"]
    weights.pop("position_embedding/table", None)
    weights.pop("position_embedding/prefix_table", None)
    prefix, table = _positions(model, a)
    if target["position_embedding"] == "learned":
        weights["position_embedding/table"] = np.reshape(table, (*grid, width))
    if len(prefix) and target["position_embedding"] == "learned":
        if target["prefix_positions"]:
            weights["position_embedding/prefix_table"] = prefix
        else:
            weights["class_token/token"] = ops.convert_to_numpy(weights["class_token/token"]) + prefix
    if target["patch_bias"] and not a["patch_bias"]:
        weights["patch_embedding/bias"] = np.zeros(width)
    if target["qkv_bias"] is True and a["qkv_bias"] is not True:
        for path in [f"block_{i}/attention/qkv/bias" for i in range(a["num_layers"])]:
            query, value = np.split(ops.convert_to_numpy(weights[path]), 2) if a["qkv_bias"] else np.zeros((2, width))
            weights[path] = np.concatenate([query, np.zeros(width), value])
    if target["representation_size"] and target["representation_bias"] and not a["representation_bias"]:
        weights["pre_logits/bias"] = np.zeros(a["representation_size"])
    if target["pooling"] == "token_gap" != a["pooling"]:
        parts = [ops.convert_to_numpy(weights["head/kernel"]), np.zeros((width, a["num_classes"]))]
        weights["head/kernel"] = np.concatenate(parts if a["pooling"] == "token" else parts[::-1])
    return weights


def _positions(model, a):
    """Returns the positions of the class tokens and of the patches, each of shape (number, D)."""
    count, patches = a["class_token"] + a["distillation_token"], math.prod(a["position_grid"])
    if a["position_embedding"] == "none":
        return np.zeros((count, a["hidden_dim"])), np.zeros((patches, a["hidden_dim"]))
    layer = model.get_layer("position_embedding")
    prefix = layer.num_prefix_tokens
    # `call` rather than `__call__`, which would round to the half precision of the layer.
    tokens, grid = ops.zeros((1, prefix + patches, a["hidden_dim"]), "float32"), ops.zeros((1, *a["position_grid"], 1))
    positions = ops.convert_to_numpy(layer.call(tokens, grid))[0]
    return positions[:prefix] if prefix else np.zeros((count, a["hidden_dim"])), positions[prefix:]


def _write_safetensors(path, shapes, tensors):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for key, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": (start, end)}
    header = json.dumps(header).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for _, array in tensors:
            file.write(np.ascontiguousarray(array, "<f4").data)


def _write_npz(path, tensors, comment):
    """Writes an npz file, with the class names and preprocessing in the archive's comment, which other readers ignore."""
    text = json.dumps(comment).encode()
    if len(text) > zipfile.ZIP_MAX_COMMENT:
        log.warning("The names of %d classes are too long for a file in Google's format, and are left out", len(comment["class_names"]))
        text = json.dumps({**comment, "class_names": None}).encode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = text
        for key, array in tensors:
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
