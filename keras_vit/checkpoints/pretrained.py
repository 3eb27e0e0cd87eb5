"""Builds a model from pretrained weights in any known format."""

import os
import re
from typing import Any

import h5py

from keras_vit.checkpoints import catalogue
from keras_vit.checkpoints.download import resolve
from keras_vit.checkpoints.formats.files import SUFFIXES
from keras_vit.checkpoints.formats.keras_files import load_keras, open_h5
from keras_vit.checkpoints.formats.tensors import naming, parsing
from keras_vit.checkpoints.imagenet import NUM_CLASSES as IMAGENET_CLASSES
from keras_vit.checkpoints.imagenet import imagenet_labels
from keras_vit.checkpoints.loading import log, new_model, open_checkpoint
from keras_vit.config import ViTConfig
from keras_vit.presets import PRESETS, nearest_presets
from keras_vit.vision_transformer import VisionTransformer

# Weights that differ from a preset in one of these belong to another model.
DIMENSIONS = ("hidden_dim", "num_layers", "num_heads", "mlp_dim", "mlp", "patch_size", "stem")


def from_pretrained(
    source: str | os.PathLike[str], *, resample: str | None = None, ema: bool | None = None, **overrides: Any
) -> VisionTransformer:
    """Builds the Vision Transformer that a checkpoint holds, and loads it.

    The architecture comes from the checkpoint's config.json, if there is one, else from the names and shapes of its tensors. Formats:
    Hugging Face transformers, timm, Meta's DeiT, DeiT-III, MAE, DINO and DINOv2, Google's and big_vision's npz, and our own `.keras`.
    Checkpoints of training code are read, too, with wrappers in the names, heads and optimizers. A file without a configuration leaves
    some arguments open. They are assumed, and one logged line names them.

    Args:
        source: str or path-like. A file or folder, `hf://owner/repository[@revision]`, or an https URL.
        resample: str or None. How positions and the patch kernel are resampled if their sizes change, see
            `keras_vit.layers.PositionEmbedding`. None takes the method of the checkpoint's family. Defaults to None.
        ema: bool or None. Which weights to read from a file that also holds their running average, or a teacher beside its student: True
            reads the average, False the others, None the average if there is one (a logged line says so). Defaults to None.
        **overrides: arguments of `VisionTransformer` that replace the checkpoint's, such as `num_classes`, `input_shape`,
            `drop_path_rate`. A head for another number of classes starts at zero. A file without a configuration needs `num_heads`
            if its heads are not 64 wide, `input_shape` or `position_grid` if its images were not square, and `preprocessing` if its
            images were normalized otherwise than the logged line says.

    Returns:
        A `VisionTransformer`.

    Raises:
        ValueError: if the source does not exist or is no such checkpoint, or if its tensors do not fit, listing all that do not.

    Example:
    >>> model = keras_vit.from_pretrained("hf://timm/vit_small_patch14_dinov2.lvd142m", num_classes=10)  # doctest: +SKIP
    """
    return load(source, {}, overrides, resample, ema)


def load(
    source: str | os.PathLike[str],
    expected: dict[str, Any],
    overrides: dict[str, Any],
    resample: str | None = None,
    ema: bool | None = None,
    sha256: str | None = None,
    size: int | None = None,
) -> VisionTransformer:
    """Loads a checkpoint as `from_pretrained` does, and checks that it fits a preset.

    Args:
        expected: dict. Arguments of the preset, whose dimensions the weights must have; empty to allow any dimensions.
    """
    if isinstance(source, str) and re.fullmatch(r"[\w.-]+(:\w+)?", source) and not os.path.exists(source):
        _check_name(source)
    known = catalogue.find(source)
    if known and known.license in catalogue.NON_COMMERCIAL:
        log.warning("%s is not for commercial use: its license is %s", source, known.license)
    if known and known.license in catalogue.TERMS:
        log.warning("%s has a license of its own, %s: %s", source, known.license, catalogue.TERMS[known.license])
    path = resolve(source, sha256=sha256, size=size)
    if (path / "model.keras").is_file():
        path = path / "model.keras"  # the folder of a run
    if resample is not None:
        overrides = {"position_resample": resample, **overrides}
    if ema is not None and path.name.endswith((".keras", ".h5")):
        raise ValueError(f"`ema` chooses between weights in other libraries' files; Keras's have one set. Received: ema={ema}, {path}")
    if path.name.endswith(".keras"):
        return _load_keras(path, expected, overrides)
    if path.name.endswith(".weights.h5"):
        return _load_h5(path, expected, overrides)
    with open_checkpoint(path, overrides, expected, ema) as checkpoint, naming(path):
        # For what the file does not state, the preset is better than an assumption.
        known_better = set(checkpoint.assumed) & set(expected) - {"preprocessing", "position_grid"}
        found = {name: value for name, value in checkpoint.arguments.items() if name not in known_better}
        _check_dimensions(expected, checkpoint.arguments, overrides, path)
        arguments = ViTConfig.of({**expected, **found}).to_dict()
        published = known.preprocessing if known and not known.source.startswith("hf://") else {}  # the Hub's files have a configuration
        arguments["preprocessing"] = _preprocessing(expected, checkpoint, published)
        imagenet = known and known.classes == IMAGENET_CLASSES == found.get("num_classes")
        arguments["class_names"] = imagenet_labels() if imagenet else found.get("class_names")
        told = {*overrides, *known_better, *(["preprocessing"] if published else [])}
        told |= {"position_grid"} if "input_shape" in overrides else set()
        assumed = [name for name in checkpoint.assumed if name not in told]
        if assumed:
            _say_assumed(path, {name: arguments[name] for name in assumed})
        arguments = _overridden(arguments, overrides)
        if "position_grid" not in overrides and None not in tuple(arguments["input_shape"]):
            arguments["position_grid"] = None  # the grid of the image: positions are resampled once, here
        return new_model(checkpoint, arguments, resample)


def _check_name(name):
    """Raises a ValueError that shows how to load a preset or a tag, if the name is one and not a file."""
    model, _, tag = name.partition(":")
    if model in PRESETS:
        weights = repr(tag) if tag else "TAG"
        raise ValueError(
            f"{model} is a preset: `keras_vit.{model}(weights={weights})` loads its weights. Its tags: {catalogue.tags(model)}. "
            f"Received: {name}"
        )
    is_file = name.endswith((*SUFFIXES, ".keras", ".h5", ".bin"))
    if not is_file and (catalogue.other_model(name) or len(nearest_presets(name)) == 1):
        catalogue.find_preset(name)


def _preprocessing(expected, checkpoint, published):
    """Returns the preprocessing of a checkpoint. Later sources win: assumptions, the preset, the file, the catalogue."""
    found = checkpoint.arguments
    height, width = (found.get("input_shape") or (None, None))[:2]
    preset = expected.get("preprocessing") or {}
    told, guessed = (found["preprocessing"], {}) if "preprocessing" not in checkpoint.assumed else ({}, found["preprocessing"])
    return {"size": height if height == width else None, **guessed, **preset, **told, **published}


def _say_assumed(path, values):
    listed = ", ".join(f"{name}={value!r}" for name, value in values.items())
    rows, columns = values.get("position_grid") or (0, 0)
    square = rows and (
        f". {rows * columns} positions are taken for a square, as in most models: if the images were not square, pass "
        "`input_shape=(height, width, channels)` or `position_grid=(rows, columns)`"
    )
    log.warning(
        "%s does not say, so these are assumed: %s. Pass `%s=` and the like to replace them%s",
        path,
        listed,
        list(values)[-1],
        square if rows else "",
    )


def _overridden(arguments, overrides):
    implied = {"include_top": True} if "num_classes" in overrides else {}
    if overrides.get("num_classes", arguments["num_classes"]) != arguments["num_classes"]:
        implied["class_names"] = None  # the names belong to other classes
    return {**arguments, **implied, **overrides}


def _check_dimensions(expected, found, overrides, path):
    if not expected:
        return
    expected, found = ViTConfig.of(expected).to_dict(), ViTConfig.of(found).to_dict()
    names = [name for name in DIMENSIONS if name not in overrides]
    differ = [name for name in names if _comparable(expected[name]) != _comparable(found[name])]
    if differ:
        listed = ", ".join(f"{name}={found[name]} where the model has {expected[name]}" for name in differ)
        raise ValueError(f"These are the weights of another model: {listed}. `keras_vit.from_pretrained` builds theirs. Received: {path}")


def _comparable(value):
    """Returns a value without the epsilons of a stem, which may differ between checkpoints of one preset."""
    if isinstance(value, dict):
        return {
            key: tuple(item) if isinstance(item, list) else item
            for key, item in value.items()
            if key in ("kind", "block_counts", "filters")
        }
    return tuple(value) if isinstance(value, list) else value


def _load_keras(path, expected, overrides):
    model = load_keras(path)
    _check_dimensions(expected, model.get_config(), overrides, path)
    return model.adapt(**overrides)


def _load_h5(path, expected, overrides):
    if not expected:
        raise ValueError(f"A `.weights.h5` file does not say which model it is of: give it as `weights` of a preset. Received: {path}")
    arguments = _overridden(ViTConfig.of(expected).to_dict(), overrides)
    saved = VisionTransformer(**{**arguments, "num_classes": _saved_classes(path, arguments)})
    with parsing(path):
        saved.load_weights(path)
    return saved.adapt(num_classes=arguments["num_classes"]) if saved.config.num_classes != arguments["num_classes"] else saved


def _saved_classes(path, arguments):
    """Returns the number of classes in a Keras weights file, which names layers by class and number: the head is a "dense"."""
    head = "dense_1" if arguments["representation_size"] else "dense"
    with open_h5(path) as file:
        kernel = file.get(f"layers/{head}/vars/0") if arguments["include_top"] else None
        return kernel.shape[1] if isinstance(kernel, h5py.Dataset) and len(kernel.shape) == 2 else arguments["num_classes"]
