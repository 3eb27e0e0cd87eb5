"""The published weights: the checkpoints of each preset, their sources, and their preprocessing."""

import logging
import os
import re
from typing import Any, NamedTuple

from keras_vit.checkpoints.formats.files import SUFFIXES
from keras_vit.checkpoints.formats.timm import OTHER_MODELS
from keras_vit.checkpoints.published import (
    AIMV2,
    AIMV2_HUB,
    BIG_VISION,
    DINOV3,
    DINOV3_HUB,
    GOOGLE,
    HALF,
    HUGGING_FACE,
    IJEPA,
    SIGLIP2,
    SQUASH_BILINEAR,
    TIMM,
)
from keras_vit.presets import PRESETS, list_models, nearest_presets, preset

log = logging.getLogger("keras_vit")

# Licenses that forbid commercial use.
NON_COMMERCIAL = ("CC-BY-NC-4.0", "FAIR-Noncommercial-Research-License", "Apple-AMLR")
# Licenses with terms of their own, and what they say in short.
TERMS = {"DINOv3-License": "redistribution under the same terms only, trade controls, no military or nuclear use"}


class Weights(NamedTuple):
    """Describes one published checkpoint of a preset.

    Args:
        model: str. Name of the preset.
        tag: str. Value of the preset's `weights` argument.
        source: str. Value of the `source` argument of `keras_vit.from_pretrained`.
        resolution: int. Side, in pixels, of the images in the last stage of training.
        classes: int. Outputs of the head: 1000 for ImageNet-1k, 21843 for ImageNet-21k, 0 without a head.
        top1: float or None. Accuracy on ImageNet-1k's validation images in percent, as published.
        parameters: float. Millions of parameters.
        license: str. SPDX identifier, or the license's name where it has none.
        preprocessing: dict. Value of the `preprocessing` argument of `keras_vit.VisionTransformer`.
    """

    model: str
    tag: str
    source: str
    resolution: int
    classes: int
    top1: float | None
    parameters: float
    license: str
    preprocessing: dict

    @property
    def megabytes(self) -> int:
        """Size of the float32 weights in megabytes."""
        return round(4 * self.parameters)

    @property
    def licence(self) -> str:
        """`license`, by its name in version 0.1."""
        return self.license


def _weights(model, tag, source, resolution, classes, top1, parameters, colors, crop, license="Apache-2.0", **more):
    preprocessing = {"size": resolution, "interpolation": "bicubic", "crop_fraction": crop, "crop_mode": "center", **colors, **more}
    return Weights(model, tag, source, resolution, classes, top1, parameters, license, preprocessing)


def _timm_weights(model, repository, resolution, *columns):
    *columns, more = columns if isinstance(columns[-1], dict) else (*columns, {})
    tag = repository.partition(".")[2]
    if resolution != PRESETS[model].get("input_shape", (224,))[0] and not PRESETS[model].get("naflex"):
        tag += f"_{resolution}"
    return _weights(model, tag, f"hf://timm/{repository}", resolution, *columns, **more)


def _google_weights(folder, model, tag, file, *columns, **more):
    return _weights(model, tag, f"https://storage.googleapis.com/{folder}/{file}.npz", *columns, HALF, **more)


def _hugging_face_weights(*row):
    return _weights(*row, HALF, 1.0, **SQUASH_BILINEAR)


def _ijepa_weights(*row):
    return _weights(*row, 1.0, license="CC-BY-NC-4.0", **SQUASH_BILINEAR)


CATALOGUE = [
    *(_timm_weights(*row) for row in TIMM),
    *(_google_weights("vit_models", *row, crop=1.0, **SQUASH_BILINEAR) for row in GOOGLE),
    *(_google_weights("big_vision", *row, crop=0.875, interpolation="area") for row in BIG_VISION),
    *(_google_weights("big_vision/siglip2", *row, crop=1.0, **SQUASH_BILINEAR) for row in SIGLIP2),
    *(_hugging_face_weights(*row) for row in HUGGING_FACE),
    *(_ijepa_weights(*row) for row in IJEPA),
    *(_weights(*row, 1.0, **SQUASH_BILINEAR, **DINOV3) for row in DINOV3_HUB),
    *(_weights(*row, 1.0, **AIMV2) for row in AIMV2_HUB),
]


def list_weights(model: str | None = None) -> list[Weights]:
    """Returns the published weights of one preset, of the presets that match a pattern, or of all presets.

    Args:
        model: str or None. Name of a preset or wildcard pattern such as "DeiT3*"; case is ignored. None means all presets. Defaults to
            None.

    Returns:
        List of `Weights`: named tuples with model, tag, source, resolution, classes, top1, parameters, megabytes, license and
        preprocessing. `keras_vit.<model>(weights=<tag>)` loads them.

    Raises:
        ValueError: if no preset matches.

    Example:
    >>> [(weights.tag, weights.top1) for weights in keras_vit.list_weights("ViTB8")]
    [('augreg2_in21k_ft_in1k', 86.25)]
    """
    names = list_models("*" if model is None else model)
    if model is not None and not names:
        find_preset(model)
    return [weights for name in names for weights in CATALOGUE if weights.model == name]


def find_preset(name: str) -> dict:
    """Returns the arguments of a preset. The error for an unknown name shows the tags of the nearest preset.

    Raises:
        ValueError: if there is no such preset.
    """
    if name in PRESETS:
        return preset(name)
    if what := other_model(name):
        raise ValueError(f"timm's {name} {what}, which is not read. Received: {name!r}")
    meant = nearest_presets(name)
    if row := next((row for row in CATALOGUE if row.source.endswith(f"/{name}")), None):
        meaning = f"This is the preset {row.model} with `weights={row.tag!r}`"
    elif len(meant) == 1:
        meaning = f"This model is called {meant[0]} here. Its weights: {tags(meant[0])}"
    else:
        meaning = f"There is no preset of that name. The nearest are {', '.join(meant)}; `keras_vit.list_models()` lists all"
    raise ValueError(f"{meaning}. Received: {name!r}")


def other_model(name: str) -> str | None:
    """Returns why a model of timm's is not read although its name is like a Vision Transformer's, or None."""
    return next((what for pattern, what in OTHER_MODELS.items() if re.search(pattern, str(name))), None)


def tags(model: str) -> str:
    """Returns the tags of a preset as text, the most accurate first, with their accuracy on ImageNet-1k."""
    rows = sorted((row for row in CATALOGUE if row.model == model), key=lambda row: -(row.top1 or 0))
    accuracy = lambda row: f" ({row.top1:.2f} %)" if row.top1 else " (features)" if not row.classes else ""  # noqa: E731
    return ", ".join(f"{row.tag}{accuracy(row)}" for row in rows) or "none is published"


def find(source: str | os.PathLike[str]) -> Weights | None:
    """Returns the `Weights` of a source, or None."""
    return next((weights for weights in CATALOGUE if weights.source == str(source).rstrip("/")), None)


def source(model: str, weights: Any) -> dict[str, Any]:
    """Returns the keyword argument `source` of `pretrained.load` for the `weights` argument of a preset.

    Args:
        model: str. Name of the preset.
        weights: str or path-like. A tag, a path or a URL. "imagenet" means the tag with the best accuracy on ImageNet-1k.

    Raises:
        ValueError: if `weights` is neither a tag of the preset, nor a path or URL.
    """
    rows = [row for row in CATALOGUE if row.model == model]
    path = os.fspath(weights) if isinstance(weights, (str, os.PathLike)) else ""
    known = {row.tag: row.source for row in rows}
    if path in known:
        return {"source": known[path]}
    classifiers = [row for row in rows if row.top1]
    if path == "imagenet" and classifiers:
        best = max(classifiers, key=lambda row: row.top1)
        log.warning('weights="imagenet" means %s of %s here, for images of %d pixels', best.tag, model, best.resolution)
        return {"source": best.source}
    if "/" in path or "\\" in path or path.endswith((*SUFFIXES, ".keras", ".h5", ".bin", ".index.json")) or os.path.exists(path):
        return {"source": path}
    tag, listed = (f"a tag of {model}, ", f" Its tags, with their accuracy on ImageNet-1k: {tags(model)}.") if rows else ("", "")
    raise ValueError(f"`weights` must be {tag}a path, `hf://owner/repository` or an https URL.{listed} Received: weights={weights!r}")
