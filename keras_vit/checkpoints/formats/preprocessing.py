"""Converts the preprocessing in other libraries' configurations to the `preprocessing` of `VisionTransformer`, and back.

A missing entry takes the default of its library. An unsupported value is an error that names it.
"""

import logging
import re
from typing import Any

from keras_vit.families import CLIP, IMAGENET

log = logging.getLogger("keras_vit")

HALF = {"mean": 0.5, "std": 0.5}
PLAIN = {"mean": 0.0, "std": 1.0}

# Filters by Pillow's numbers, as in transformers, and by timm's names.
PILLOW_FILTERS = {0: "nearest", 1: "lanczos3", 2: "bilinear", 3: "bicubic", 4: "area"}
TIMM_FILTERS = {"nearest": "nearest", "bilinear": "bilinear", "bicubic": "bicubic", "lanczos": "lanczos3", "box": "area"}

# transformers' image processors: the colors, the filter, whether one number for `size` is the shorter edge, and `size` and `crop_size`.
_CLIP = dict(colors=CLIP, resample=3, shortest=True, size=224, crop_size=224)
PROCESSORS = {
    "ViT": dict(colors=HALF, resample=2, shortest=False, size=224, crop_size=None),
    "DeiT": dict(colors=HALF, resample=3, shortest=False, size=256, crop_size=224),
    "Beit": dict(colors=HALF, resample=3, shortest=False, size=256, crop_size=224),
    "DINOv3ViT": dict(colors=IMAGENET, resample=2, shortest=False, size=224, crop_size=None),
    "Siglip": dict(colors=HALF, resample=3, shortest=False, size=224, crop_size=None),
    "Siglip2": dict(colors=HALF, resample=2, shortest=False, size=256, crop_size=None),
    "CLIP": _CLIP,
    "Bit": _CLIP,
    "ViTHybrid": _CLIP,
    "Tipsv2": dict(colors=PLAIN, resample=2, shortest=False, size=448, crop_size=None),
}

# For each model type of transformers: its image processor, and the colors of its published weights.
MODEL_TYPES = {
    "vit": ("ViT", HALF),
    "vit_mae": ("ViT", IMAGENET),
    "vit_msn": ("ViT", IMAGENET),
    "vit-hybrid": ("ViTHybrid", HALF),
    "deit": ("DeiT", IMAGENET),
    "dinov2": ("Bit", IMAGENET),
    "dinov2_with_registers": ("Bit", IMAGENET),
    "dinov3_vit": ("DINOv3ViT", IMAGENET),
    "ijepa": ("ViT", IMAGENET),
    "tipsv2_vision_model": ("Tipsv2", PLAIN),
    "siglip": ("Siglip", HALF),
    "siglip_vision_model": ("Siglip", HALF),
    "siglip2": ("Siglip2", HALF),
    "siglip2_vision_model": ("Siglip2", HALF),
    "aimv2": ("CLIP", CLIP),
    "aimv2_vision_model": ("CLIP", CLIP),
    "clip": ("CLIP", CLIP),
    "clip_vision_model": ("CLIP", CLIP),
}


def from_timm(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns `preprocessing` for the settings of a timm config: those under "pretrained_cfg", or at the top of older files.

    Raises:
        ValueError: if a value is not supported.
    """
    filter, mode = settings.get("interpolation") or "bicubic", settings.get("crop_mode") or "center"
    if filter not in TIMM_FILTERS:
        raise _unknown("interpolation", filter, TIMM_FILTERS)
    if mode not in ("center", "squash"):
        raise _unknown("crop_mode", mode, ("center", "squash"))
    return {
        "mean": _values(settings.get("mean", IMAGENET["mean"])),
        "std": _values(settings.get("std", IMAGENET["std"])),
        "interpolation": TIMM_FILTERS[filter],
        "crop_fraction": settings.get("crop_pct") or 0.875,
        "crop_mode": mode,
    }


def to_timm(preprocessing: dict[str, Any]) -> dict[str, Any]:
    """Returns the entries of a timm config for a complete `preprocessing`."""
    return dict(
        interpolation=_key_of(TIMM_FILTERS, preprocessing["interpolation"]),
        crop_pct=preprocessing["crop_fraction"],
        crop_mode=preprocessing["crop_mode"],
        mean=preprocessing["mean"],
        std=preprocessing["std"],
    )


def timm_config(
    a: dict[str, Any], architecture: str, model_args: dict[str, Any], first_conv: str, classifier: Any = "head"
) -> dict[str, Any]:
    """Returns the config.json of a timm model.

    Args:
        a: dict, all arguments of the model.
        architecture: str. The timm architecture whose `model_args` differ.
        model_args: dict. The arguments of timm's constructor.
        first_conv: str. Name of the layer that reads the pixels.
        classifier: str or list of str. Names of the heads.
    """
    *size, channels = a["input_shape"]
    pretrained_cfg = dict(
        custom_load=False,
        input_size=[channels, *size],
        fixed_input_size=True,
        **to_timm(a["preprocessing"]),
        num_classes=model_args["num_classes"],
        pool_size=None,
        first_conv=first_conv,
        classifier=classifier,
    )
    config = dict(
        architecture=architecture,
        num_classes=model_args["num_classes"],
        num_features=a["hidden_dim"],
        global_pool=model_args["global_pool"],
        model_args=model_args,
        pretrained_cfg=pretrained_cfg,
    )
    return config | ({"label_names": list(a["class_names"])} if a["class_names"] and a["include_top"] else {})


def from_processor(file: dict[str, Any], model_type: str) -> dict[str, Any]:
    """Returns `preprocessing` for the content of a preprocessor_config.json, new or old.

    Args:
        file: dict. The content of the file.
        model_type: str. The `model_type` of config.json, which gives the processor if the file does not.

    Raises:
        ValueError: if a value is not supported.
    """
    stated = file.get("image_processor_type") or file.get("feature_extractor_type") or ""
    name = re.sub(r"(FeatureExtractor|ImageProcessor)(Fast|Pil)?$", "", stated) or MODEL_TYPES.get(model_type, ("ViT",))[0]
    if name not in PROCESSORS:
        raise _unknown("image_processor_type", stated, [f"{known}ImageProcessor" for known in PROCESSORS])
    default = PROCESSORS[name]

    resample = file.get("resample", default["resample"])
    if resample not in PILLOW_FILTERS:
        raise _unknown("resample", resample, PILLOW_FILTERS)
    found = {"interpolation": PILLOW_FILTERS[resample], **_colors(file, default["colors"])}
    if not file.get("do_resize", True):
        log.warning("do_resize=false in preprocessor_config.json: images of another size are resized here all the same")

    size = file.get("size") or default["size"]
    if isinstance(size, int):
        size = {"shortest_edge": size} if default["shortest"] else {"height": size, "width": size}
    elif isinstance(size, (list, tuple)) and len(size) == 2:
        size = dict(zip(("height", "width"), size))
    size = {key: side for key, side in size.items() if side is not None} if isinstance(size, dict) else {}
    if set(size) not in ({"height", "width"}, {"shortest_edge"}):
        raise _unknown("size", file["size"], ['{"height": ..., "width": ...}', '{"shortest_edge": ...}', "one number"])
    squash = "height" in size
    found["crop_mode"] = "squash" if squash else "center"

    crop: Any = file.get("crop_size", default["crop_size"])
    if not file.get("do_center_crop", default["crop_size"] is not None) or crop is None:
        return {**found, "crop_fraction": 1.0}
    if isinstance(crop, dict):
        crop = (crop.get("height") or crop.get("shortest_edge"), crop.get("width") or crop.get("shortest_edge"))
    rows, columns = (crop, crop) if isinstance(crop, int) else crop
    fractions = {rows / size["height"], columns / size["width"]} if squash else {min(rows, columns) / size["shortest_edge"]}
    if len(fractions) > 1 or max(fractions) > 1:
        raise _unknown("crop_size", file.get("crop_size"), ["as large as `size` or smaller", "in the proportions of `size`"])
    return {**found, "crop_fraction": fractions.pop()}


def _colors(file, default):
    """Returns the mean and std of a processor, for pixels between 0 and 1."""
    scale = 255 * file.get("rescale_factor", 1 / 255) if file.get("do_rescale", True) else 255
    scale = 1 if abs(scale - 1) < 1e-6 else scale
    mean, std = (file.get(f"image_{key}") or default[key] for key in ("mean", "std"))
    if not file.get("do_normalize", True):
        mean, std = 0.0, 1.0
    divided = lambda value: tuple(v / scale for v in value) if isinstance(value, tuple) else value / scale  # noqa: E731
    return {"mean": divided(_values(mean)), "std": divided(_values(std))}


def to_processor(preprocessing: dict[str, Any], size: tuple[int, int], cut: Any = None) -> dict[str, Any]:
    """Returns the content of a preprocessor_config.json for a complete `preprocessing` and images of (rows, columns).

    `cut` is the patch size of a model that takes patches (NaFlex), or None. Defaults to None.
    """
    height, width = size
    fraction = preprocessing["crop_fraction"]
    crop = dict(do_center_crop=True, crop_size=dict(height=height, width=width))
    if cut is not None:
        form = dict(image_processor_type="Siglip2ImageProcessor", patch_size=cut, max_num_patches=256)
    elif preprocessing["crop_mode"] == "center":
        form = dict(image_processor_type="BitImageProcessor", size=dict(shortest_edge=round(min(size) / fraction)), **crop)
    elif fraction == 1:
        form = dict(image_processor_type="ViTImageProcessor", size=dict(height=height, width=width))
    else:
        resized = dict(height=round(height / fraction), width=round(width / fraction))
        form = dict(image_processor_type="DeiTImageProcessor", size=resized, **crop)
    resample = _key_of(PILLOW_FILTERS, preprocessing["interpolation"])
    mean, std = preprocessing["mean"], preprocessing["std"]
    colors = dict(do_rescale=True, rescale_factor=1 / 255, do_normalize=_one(mean) != 0 or _one(std) != 1, image_mean=mean, image_std=std)
    return dict(**form, do_resize=True, resample=resample, **colors)


def _one(values):
    """Returns the number that all channels share, or None."""
    numbers = set(values) if isinstance(values, (list, tuple)) else {values}
    return numbers.pop() if len(numbers) == 1 else None


def _key_of(filters, name):
    name = "lanczos3" if name == "lanczos" else name
    return next(key for key, ours in filters.items() if ours == name)


def _values(value):
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _unknown(key, value, known):
    return ValueError(
        f"The checkpoint's preprocessing has {key}={value!r}, which is not supported; known are {', '.join(map(str, known))}. "
        f"Pass `preprocessing=` in its place. Received: {key}={value!r}"
    )
