"""Finds the Vision Transformer among the tensors of a file, which may also hold wrappers, heads, copies and optimizer states."""

import collections
import difflib
import logging
import re
from typing import Any, NamedTuple

from keras_vit.checkpoints.formats import google, huggingface, perception_encoder, timm
from keras_vit.checkpoints.formats.files import KNOWN_FORMATS
from keras_vit.checkpoints.formats.mapping import renaming
from keras_vit.config import PREPROCESSING, ViTConfig

log = logging.getLogger("keras_vit")

MOST_MODELS = 64  # in one file: a model, its average, teachers, encoders of several views

FORMATS = {format.NAME: format for format in (huggingface, timm, google, perception_encoder)}

# Key parts of wrappers: data-parallel, compiled, sharded and checkpointed modules.
TRANSPARENT = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Names of running averages of weights. A teacher averages its student, a momentum or target encoder the trained encoder.
AVERAGED = re.compile(r"(?:^|[._])(?:ema|swa|avg|averaged?|shadow|teacher|target|momentum|encoder_k)(?=[._])")
# Training state that is skipped without a message.
TRAINING_STATE = re.compile(r"(optim|sched|lr_|scaler|amp|epoch|step|iter|loop|callback|rng|loss|criterion|n_averaged|args|metric|best)")

# Key patterns of unsupported libraries and models, for the error message.
OTHERS = {
    r"(.*\.)?blocks\.0\.(attns|ffns)\.0\..*": "timm's Vision Transformers with parallel blocks (such as vit_small_patch16_18x2_224)",
    r".*relative_position_bias.*|.*rel_pos.*": "models with relative positions, such as BEiT, Swin and SAM",
    r"(.*\.)?conv_proj\.weight": "torchvision",
    r"(.*\.)?transformer\.resblocks\.0\..*": "OpenAI's CLIP and open_clip (hf://timm and hf://openai have the same image towers)",
    r"(.*\.)?to_patch_embedding\..*": "vit-pytorch",
    r"(.*\.)?patch_embed\.projection\.weight": "mmpretrain",
    r"(.*\.)?layers\.0\.blocks\.0\..*": "hierarchical models, such as Swin",
    r".*(lora_[AB]|base_layer)\..*": "PEFT's adapters (merge them first: `merge_and_unload()`)",
}


class Found(NamedTuple):
    """Names the tensors of one model in a file.

    Attributes:
        format: module of its format.
        root: str. Prefix that wrappers put before each key.
        names: dict. The file's key of each canonical key.
        keys: dict. The same without the prefix of wrappers.
    """

    format: object
    root: str
    names: dict
    keys: dict


def recognize(tensors: Any, ema: bool | None = None) -> Found:
    """Finds the one model in a file.

    Args:
        tensors: Tensors. The open file.
        ema: bool or None. Which weights to read if the file also holds their running average: True reads the average, False the weights
            themselves, None the average if there is one. Defaults to None.

    Returns:
        A `Found`.

    Raises:
        ValueError: if the file holds no model in a known format, or several.
    """
    keys = {}
    for key, shape in tensors.shapes.items():
        if shape == () and TRAINING_STATE.match(key):
            continue  # a counter
        clean = TRANSPARENT.sub("", key)
        if clean in keys:
            raise ValueError(f"Two tensors have one name but for their wrappers: {keys[clean]!r}, {key!r}. Received: {tensors.path}")
        keys[clean] = key
    models = [found for format in FORMATS.values() for found in _models(format, keys)]
    if not models:
        raise _unknown(tensors.path, keys)
    model = _chosen(tensors.path, models, ema)
    strange = _whose(model.keys.values())
    if strange and model.format is not perception_encoder:  # whose names are those of OpenAI's CLIP
        raise ValueError(f"The tensor {strange[0]!r} is one of {strange[1]}, which are not read. Received: {tensors.path}")
    _say(tensors.path, model, models, keys)
    return model


def _models(format, keys):
    """Yields a `Found` for each model of a format."""
    roots = _roots(format, keys)
    rename = renaming(format.RENAMES)
    for root in roots:
        inner = tuple(other for other in roots if other != root and other.startswith(root))
        names, short = {}, {}
        for key in keys:
            if key.startswith(root) and not key.startswith(inner):
                short_key = key.removeprefix(root)
                name = rename(short_key)
                names[name], short[name] = keys[key], short_key
        if format.recognizes(names):
            yield Found(format, root, names, short)


def _roots(format, keys):
    """Returns the key prefix of each model, such as "" or "teacher.backbone."."""
    anchors = [match["root"] for key in keys if (match := re.fullmatch(rf"(?P<root>(?:.*[./])?){format.ANCHOR}", key))]
    if len(anchors) > MOST_MODELS:  # each is compared with all keys
        raise ValueError(f"A file may hold {MOST_MODELS} models at most. Received: {len(anchors)} of the format {format.NAME!r}")
    if format is google:
        return [""] if anchors else []  # `RENAMES` lists its few prefixes
    family = re.compile(rf"(?P<parent>(?:.*\.)?){format.FAMILY}")
    parents = {root: match["parent"] if (match := family.fullmatch(root)) else root for root in anchors}
    roots = []
    for root, parent in parents.items():
        # The last part is a wrapper's name or the family's own. It is the family's if only keys of transformers stand beside it.
        others = tuple(other for other in parents.values() if other != parent and other.startswith(parent))
        beside = [key.removeprefix(parent) for key in keys if key.startswith(parent) and not key.startswith((root, *others))]
        roots.append(parent if all(re.fullmatch(f"{format.BESIDE}|{format.IGNORED}", key) for key in beside) else root)
    return roots


def _chosen(path, models, ema):
    averaged = [model for model in models if AVERAGED.search(model.root)]
    raw = [model for model in models if model not in averaged]
    if ema is not None and not (averaged if ema else raw):
        which = "no running average of weights beside the model" if ema else "nothing but a running average of weights"
        raise ValueError(f"The file has {which}. Received: ema={ema}, {path}")
    models = (averaged or raw) if ema is None else averaged if ema else raw
    if len(models) > 1:
        roots = ", ".join(repr(model.root) for model in models)
        raise ValueError(f"The file holds several models; write the one that is meant to a file of its own. Received: {path} with {roots}")
    return models[0]


def _say(path, model, models, keys):
    """Logs in one line which model was chosen, and which tensors were left out."""
    said = []
    if others := [other for other in models if other is not model]:
        averaged = bool(AVERAGED.search(model.root))
        kind = "running average" if averaged else "last weights"
        said.append(f"the {kind} under {model.root!r} (`ema={not averaged}` reads {others[0].root!r})")
    elif model.root:
        said.append(f"the model under {model.root!r}")
    roots = [other.root for other in models]
    beside = [key for key in keys if keys[key] not in model.names.values() and not any(root and key.startswith(root) for root in roots)]
    wrappers = {part for root in roots for part in root.split(".")}
    counts = collections.Counter(_part(key, wrappers) for key in beside if not TRAINING_STATE.match(key))
    if counts:
        said.append(f"leaving out {', '.join(f'{part!r} ({number} tensors)' for part, number in counts.items())}")
    if others or counts:
        log.warning("From %s: %s", path, "; ".join(said))


def _part(key, wrappers):
    """Returns the module that a key belongs to, such as "teacher.head"."""
    parts = re.split(r"[./]", key)
    depth = next((i for i, part in enumerate(parts) if part not in wrappers), 0)
    return ".".join(parts[: depth + 1])


def _whose(keys):
    """Returns `(key, model)` for the first key of an unsupported library or model, or None."""
    return next(((key, what) for pattern, what in OTHERS.items() for key in keys if re.fullmatch(pattern, key)), None)


def _unknown(path, keys):
    """Returns the error for a file of an unknown format. It names the model, or the nearest format and how the file differs."""
    if strange := _whose(keys):
        return ValueError(f"The tensor {strange[0]!r} is one of {strange[1]}, which are not read. Received: {path}")
    shape = lambda key: re.sub(r"\d+", "N", key)  # noqa: E731
    there = list(dict.fromkeys(map(shape, keys)))
    expected = {name: list(dict.fromkeys(map(shape, _keys_of(format)))) for name, format in FORMATS.items()}
    shared = {name: sum(any(key.endswith(part) for key in there) for part in parts) for name, parts in expected.items()}
    ratio = {name: difflib.SequenceMatcher(None, " ".join(there[:20]), " ".join(parts)).ratio() for name, parts in expected.items()}
    nearest = max(FORMATS, key=lambda name: (shared[name], ratio[name]))
    missing = [part for part in expected[nearest] if not any(key.endswith(part) for key in there)]
    other = [key for key in keys if not any(shape(key).endswith(part) for part in expected[nearest])]
    return ValueError(
        "The tensors' names are those of no Vision Transformer of timm's, Meta's, Hugging Face's, Google's or big_vision's. "
        f"The nearest format is {nearest!r}; it has {', '.join(missing[:4])}, and the file has {', '.join(other[:4])}. "
        f"Files may be {KNOWN_FORMATS}. Received: {path}"
    )


def _keys_of(format):
    """Returns the keys of a small model in a format."""
    form = dict(patch_size=(16, 16), position_grid=(14, 14), activation="gelu_tanh", preprocessing=PREPROCESSING)
    file = format.file({**ViTConfig.of({"num_layers": 1, "include_top": False}).to_dict(), **form})
    return [file.key(key) for row in format.rows(file.arguments) for key in row.keys]
