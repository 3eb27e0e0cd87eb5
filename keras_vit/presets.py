"""The published configurations: a name, and the arguments of `VisionTransformer` that differ from its defaults."""

import fnmatch
import re

from keras_vit.names import nearest

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
WHOLE = {"crop_fraction": 1.0, "crop_mode": "squash"}
CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
TIPS = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), **WHOLE, "interpolation": "bilinear"}

# hidden_dim, num_layers, num_heads, mlp_dim: the letters of the papers.
SIZES = {
    "Ti": (192, 12, 3, 768),
    "S": (384, 12, 6, 1536),
    "M": (512, 12, 8, 2048),
    "B": (768, 12, 12, 3072),
    "L": (1024, 24, 16, 4096),
    "H": (1280, 32, 16, 5120),
    "g": (1408, 40, 16, 6144),
    "gopt": (1536, 40, 16, 6144),
    "G": (1664, 48, 16, 8192),
    "So400m": (1152, 27, 16, 4304),
    "e": (1792, 56, 16, 15360),
    "PEG": (1536, 50, 16, 8960),
}


def _size(hidden_dim, num_layers, num_heads, mlp_dim, patch_size=16, **more):
    dims = dict(hidden_dim=hidden_dim, num_layers=num_layers, num_heads=num_heads, mlp_dim=mlp_dim, patch_size=patch_size)
    return {**dims, **more}


def _vit(letter, patch_size, **more):
    return _size(*SIZES[letter], patch_size, **more)


def _hybrid(letter, *block_counts, patch_size=1, **more):
    return _vit(letter, patch_size, stem=dict(kind="resnet", block_counts=block_counts), **more)


def _deit(letter, **more):
    return _vit(letter, 16, preprocessing={**IMAGENET, "crop_fraction": 0.9}, **more)


def _deit3(letter, patch_size=16):
    form = dict(prefix_positions=False, layer_scale_init=1e-6, drop_path_schedule="constant")
    return _vit(letter, patch_size, preprocessing={**IMAGENET, "crop_fraction": 1.0}, **form)


def _dinov2(letter, num_register_tokens=0):
    form = dict(input_shape=(518, 518, 3), include_top=False, layer_scale_init=1e-5, preprocessing={**IMAGENET, "crop_fraction": 1.0})
    dims, mlp = ((1536, 40, 24, 4096), "swiglu") if letter == "g" else (SIZES[letter], "mlp")
    return _size(*dims, 14, mlp=mlp, num_register_tokens=num_register_tokens, **form)


def _tipsv2(letter):
    form: dict = dict(input_shape=(448, 448, 3), include_top=False, num_register_tokens=1, layer_scale_init=1.0)
    form.update(position_resample="bilinear_antialias", preprocessing=TIPS)
    dims, mlp = ((1536, 40, 24, 4096), "swiglu") if letter == "g" else (SIZES[letter], "mlp")
    return _size(*dims, 14, mlp=mlp, **form)


def _ijepa(letter, patch_size, side=224):
    form: dict = dict(include_top=False, class_token=False, prefix_positions=False, pooling="gap", position_resample="bicubic")
    return _vit(letter, patch_size, input_shape=(side, side, 3), preprocessing={**IMAGENET, "crop_fraction": 0.9}, **form)


EVA = dict(qkv_bias="query_value", preprocessing={**CLIP, "crop_fraction": 1.0})
EVA02 = dict(**EVA, mlp="swiglu", rotary=dict(native_grid=(16, 16)))
FC_NORM = dict(pooling="gap", norm_after_pooling=True)


def _eva02(*dims, side, mlp_norm=False):
    return _size(*dims, 14, input_shape=(side, side, 3), mlp_norm=mlp_norm, **FC_NORM, **EVA02)


def _projection(size, bias=False):
    return dict(include_top=False, representation_size=size, representation_activation="linear", representation_bias=bias)


def _eva02_clip(*dims, patch_size, projection, side=224):
    norms: dict = dict(mlp_norm=True, attention_norm=True)
    return _size(*dims, patch_size, input_shape=(side, side, 3), **norms, **_projection(projection, bias=True), **EVA02)


def _pe(dims, patch_size, side, class_token=True, layer_scale_init=None, projection=None):
    rotary = dict(axes="xy", offset=1.0 if class_token else 0.0)
    form: dict = dict(input_shape=(side, side, 3), class_token=class_token, layer_scale_init=layer_scale_init, rotary=rotary)
    form.update(norm_embeddings=True, patch_bias=False, norm_epsilon=1e-5, prefix_positions=class_token, position_resample="bilinear")
    form.update(preprocessing=dict(**WHOLE, interpolation="bilinear"))
    if projection is None:  # Lang and Spatial
        return _size(*dims, patch_size, include_top=False, pooling="gap", final_norm=False, **form)
    pooling: dict = dict(pooling="map", pooling_num_heads=8, pooling_prefix_tokens=True)
    if dims[3] != 4 * dims[0]:
        pooling["pooling_mlp_dim"] = 4 * dims[0]
    return _size(*dims, patch_size, **pooling, **_projection(projection), **form)


def _siglip(letter, patch_size, side=224):
    form = dict(include_top=False, class_token=False, prefix_positions=False, pooling="map", activation="gelu_tanh")
    return _vit(letter, patch_size, input_shape=(side, side, 3), preprocessing={"crop_fraction": 1.0}, **form)


def _naflex(letter, patch_size):
    form = dict(naflex=True, position_grid=(16, 16), position_resample="bilinear_antialias")
    return {**_siglip(letter, patch_size, 16 * patch_size), **form, "preprocessing": {"crop_fraction": 1.0, "interpolation": "bilinear"}}


def _clip(hidden_dim, num_layers, num_heads, patch_size, side=224):
    form = dict(norm_embeddings=True, patch_bias=False, norm_epsilon=1e-5, preprocessing={**CLIP, "crop_fraction": 1.0})
    return _size(hidden_dim, num_layers, num_heads, 4 * hidden_dim, patch_size, input_shape=(side, side, 3), include_top=False, **form)


def _conv(hidden_dim, num_layers, num_heads, mlp_dim, filters, strides):
    stem = dict(kind="conv", filters=filters, strides=strides)
    return _size(hidden_dim, num_layers, num_heads, mlp_dim, 1, stem=stem, norm_epsilon=1e-5, preprocessing=IMAGENET)


def _patchify(hidden_dim, num_layers, num_heads, mlp_dim):
    return _size(hidden_dim, num_layers, num_heads, mlp_dim, norm_epsilon=1e-5, preprocessing=IMAGENET)


def _sbb(hidden_dim, num_layers, num_heads, mlp_dim, num_register_tokens, **more):
    form: dict = dict(input_shape=(256, 256, 3), class_token=False, num_register_tokens=num_register_tokens, pooling="gap")
    form.update(norm_after_pooling=True, layer_scale_init=1e-5, prefix_positions=False, preprocessing={"crop_fraction": 0.95})
    return _size(hidden_dim, num_layers, num_heads, mlp_dim, **{**form, **more})


DINOV3 = dict(coordinates="normalized", base=100.0, rescale=2.0)
ROPE_AXIAL, ROPE_MIXED = dict(base=100.0, axes="xy"), dict(base=10.0, axes="xy", frequencies="learned")


def _dinov3(hidden_dim, num_layers, num_heads, mlp_dim, mlp="mlp", qkv_bias: bool | str = "query_value"):
    form: dict = dict(input_shape=(256, 256, 3), include_top=False, num_register_tokens=4, layer_scale_init=1e-5, norm_epsilon=1e-5)
    form.update(position_embedding="none", rotary=DINOV3, preprocessing={**IMAGENET, "crop_fraction": 1.0, "crop_mode": "squash"})
    return _size(hidden_dim, num_layers, num_heads, mlp_dim, mlp=mlp, qkv_bias=qkv_bias, **form)


def _rope_vit(letter, rotary, positions="none"):
    form: dict = dict(position_embedding=positions, prefix_positions=False, layer_scale_init=1e-5)
    return _vit(letter, 16, rotary=rotary, preprocessing={**IMAGENET, "crop_fraction": 0.9}, **form)


def _rope_sbb(*dims, **more):
    return _sbb(*dims, position_embedding="none", rotary=dict(native_grid=(16, 16)), **{"qkv_bias": "query_value", **more})


def _flexivit(letter):
    return _vit(letter, 16, input_shape=(240, 240, 3), prefix_positions=False, preprocessing={"crop_fraction": 0.95})


STRIDES_4 = (2, 2, 2, 2)
FILTERS_6, STRIDES_6 = (64, 128, 128, 256, 256, 512), (2, 2, 1, 2, 1, 2)
SIMPLE = dict(class_token=False, prefix_positions=False, pooling="gap", position_embedding="sincos2d")
NANO = dict(input_shape=(28, 28, 3), **SIMPLE)

PRESETS = {
    # Dosovitskiy et al., 2020; Steiner et al., 2021; Zhai et al., 2021 (g, G); Alabdulmohsin et al., 2023 (So400m); Chen et al., 2022 (e).
    "ViTTi16": _vit("Ti", 16),
    "ViTS32": _vit("S", 32),
    "ViTS16": _vit("S", 16),
    "ViTS8": _vit("S", 8),
    "ViTM16": _vit("M", 16),
    "ViTB32": _vit("B", 32),
    "ViTB16": _vit("B", 16),
    "ViTB8": _vit("B", 8),
    "ViTL32": _vit("L", 32),
    "ViTL16": _vit("L", 16),
    "ViTL14": _vit("L", 14),
    "ViTH16": _vit("H", 16),
    "ViTH14": _vit("H", 14),
    "ViTg14": _vit("g", 14),
    "ViTG14": _vit("G", 14),
    "ViTSo400m14": _vit("So400m", 14),
    "ViTe14": _vit("e", 14),
    # Beyer et al., "Better plain ViT baselines for ImageNet-1k", 2022.
    "SimpleViTS16": _vit("S", 16, **SIMPLE, activation="gelu_tanh"),
    # The hybrids. R+Ti/16 is named after its patches of 8 on a map of stride 4 as if that made 16; it makes 32.
    "RViTTi16": _hybrid("Ti", patch_size=8),
    "R26ViTS32": _hybrid("S", 2, 2, 2, 2),
    "R26ViTB32": _hybrid("B", 2, 2, 2, 2),
    "R50ViTB16": _hybrid("B", 3, 4, 9),
    "R50ViTB32": _hybrid("B", 3, 4, 6, 3),
    "R50ViTL16": _hybrid("L", 3, 4, 9),
    "R50ViTL32": _hybrid("L", 3, 4, 6, 3),
    # Touvron et al., "Training data-efficient image transformers", 2021.
    "DeiTTi16": _deit("Ti"),
    "DeiTS16": _deit("S"),
    "DeiTB16": _deit("B"),
    "DeiTTi16Distilled": _deit("Ti", distillation_token=True),
    "DeiTS16Distilled": _deit("S", distillation_token=True),
    "DeiTB16Distilled": _deit("B", distillation_token=True),
    # Touvron et al., "DeiT III: Revenge of the ViT", 2022.
    "DeiT3S16": _deit3("S"),
    "DeiT3M16": _deit3("M"),
    "DeiT3B16": _deit3("B"),
    "DeiT3L16": _deit3("L"),
    "DeiT3H14": _deit3("H", 14),
    # Oquab et al., "DINOv2", 2023; Darcet et al., "Vision Transformers Need Registers", 2023.
    "DINOv2S14": _dinov2("S"),
    "DINOv2B14": _dinov2("B"),
    "DINOv2L14": _dinov2("L"),
    "DINOv2g14": _dinov2("g"),
    "DINOv2S14Reg4": _dinov2("S", 4),
    "DINOv2B14Reg4": _dinov2("B", 4),
    "DINOv2L14Reg4": _dinov2("L", 4),
    "DINOv2g14Reg4": _dinov2("g", 4),
    # Cao et al., "TIPSv2", 2026: DINOv2's form with one register.
    "TIPSv2B14": _tipsv2("B"),
    "TIPSv2L14": _tipsv2("L"),
    "TIPSv2So400m14": _tipsv2("So400m"),
    "TIPSv2g14": _tipsv2("g"),
    # Assran et al., "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture", 2023.
    "IJEPAH14": _ijepa("H", 14),
    "IJEPAH16": _ijepa("H", 16, 448),
    "IJEPAg16": _ijepa("g", 16),
    # Fang et al., "EVA", 2022, and "EVA-02", 2023; Sun et al., "EVA-CLIP", 2023: the image towers.
    "EVAg14": _vit("g", 14, **FC_NORM, **EVA),
    "EVACLIPg14": _vit("g", 14, **_projection(1024, bias=True), **EVA),
    "EVA02Ti14": _eva02(192, 12, 3, 512, side=336),
    "EVA02S14": _eva02(384, 12, 6, 1024, side=336),
    "EVA02B14": _eva02(768, 12, 12, 2048, side=448, mlp_norm=True),
    "EVA02L14": _eva02(1024, 24, 16, 2730, side=448, mlp_norm=True),
    "EVA02CLIPB16": _eva02_clip(768, 12, 12, 2048, patch_size=16, projection=512),
    "EVA02CLIPL14": _eva02_clip(1024, 24, 16, 2730, patch_size=14, projection=768),
    "EVA02CLIPE14": _size(1792, 64, 16, 15360, 14, norm_first=False, norm_branches=True, **_projection(1024, bias=True), **EVA),
    # Bolya et al., "Perception Encoder", 2025.
    "PECoreTi16": _pe(SIZES["Ti"], 16, 384, projection=512),
    "PECoreS16": _pe(SIZES["S"], 16, 384, projection=512),
    "PECoreB16": _pe(SIZES["B"], 16, 224, projection=1024),
    "PECoreL14": _pe(SIZES["L"], 14, 336, projection=1024),
    "PECoreG14": _pe(SIZES["PEG"], 14, 448, class_token=False, projection=1280),
    "PELangL14": _pe((1024, 23, 16, 4096), 14, 448, layer_scale_init=0.1),
    "PELangG14": _pe((1536, 47, 16, 8960), 14, 448, class_token=False, layer_scale_init=0.1),
    "PESpatialTi16": _pe(SIZES["Ti"], 16, 512),
    "PESpatialS16": _pe(SIZES["S"], 16, 512),
    "PESpatialB16": _pe(SIZES["B"], 16, 512),
    "PESpatialL14": _pe(SIZES["L"], 14, 448),
    "PESpatialG14": _pe(SIZES["PEG"], 14, 448, class_token=False, layer_scale_init=0.1),
    # Siméoni et al., "DINOv3", 2025.
    "DINOv3S16": _dinov3(384, 12, 6, 1536),
    "DINOv3SPlus16": _dinov3(384, 12, 6, 1536, "swiglu"),
    "DINOv3B16": _dinov3(768, 12, 12, 3072),
    "DINOv3L16": _dinov3(1024, 24, 16, 4096),
    "DINOv3LPlus16": _dinov3(1024, 24, 16, 4096, "swiglu"),
    "DINOv3HPlus16": _dinov3(1280, 32, 20, 5120, "swiglu"),
    "DINOv3_7B16": _dinov3(4096, 40, 32, 8192, "swiglu", qkv_bias=False),
    # EUPE, 2026: DINOv3's architecture.
    "EUPETi16": _dinov3(192, 12, 3, 768),
    "EUPES16": _dinov3(384, 12, 6, 1536),
    "EUPEB16": _dinov3(768, 12, 12, 3072),
    # Heo et al., "Rotary Position Embedding for Vision Transformer", 2024; APE: with learned positions, too.
    "RoPEViTS16": _rope_vit("S", ROPE_AXIAL),
    "RoPEViTB16": _rope_vit("B", ROPE_AXIAL),
    "RoPEViTL16": _rope_vit("L", ROPE_AXIAL),
    "RoPEViTS16APE": _rope_vit("S", ROPE_AXIAL, "learned"),
    "RoPEViTB16APE": _rope_vit("B", ROPE_AXIAL, "learned"),
    "RoPEViTL16APE": _rope_vit("L", ROPE_AXIAL, "learned"),
    "RoPEViTS16Mixed": _rope_vit("S", ROPE_MIXED),
    "RoPEViTB16Mixed": _rope_vit("B", ROPE_MIXED),
    "RoPEViTL16Mixed": _rope_vit("L", ROPE_MIXED),
    "RoPEViTS16MixedAPE": _rope_vit("S", ROPE_MIXED, "learned"),
    "RoPEViTB16MixedAPE": _rope_vit("B", ROPE_MIXED, "learned"),
    "RoPEViTL16MixedAPE": _rope_vit("L", ROPE_MIXED, "learned"),
    # Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023: the image towers.
    "SigLIPB16": _siglip("B", 16),
    "SigLIPB32": _siglip("B", 32, 256),
    "SigLIPL16": _siglip("L", 16, 256),
    "SigLIPSo400m14": _siglip("So400m", 14),
    "SigLIPSo400m16": _siglip("So400m", 16, 256),
    "SigLIPgopt16": _siglip("gopt", 16, 256),
    # Tschannen et al., "SigLIP 2", 2025: the image towers for images in their own aspect ratios.
    "SigLIPB16NaFlex": _naflex("B", 16),
    "SigLIPSo400m16NaFlex": _naflex("So400m", 16),
    # Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021: the image towers.
    "CLIPB32": _clip(768, 12, 12, 32),
    "CLIPB16": _clip(768, 12, 12, 16),
    "CLIPL14": _clip(1024, 24, 16, 14),
    # Xiao et al., "Early Convolutions Help Transformers See Better", 2021.
    "ViTP1GF": _patchify(192, 12, 3, 576),
    "ViTP4GF": _patchify(384, 12, 6, 1152),
    "ViTP18GF": _patchify(768, 12, 12, 3072),
    "ViTP36GF": _patchify(1024, 14, 16, 4096),
    "ViTC1GF": _conv(192, 11, 3, 576, (24, 48, 96, 192), STRIDES_4),
    "ViTC4GF": _conv(384, 11, 6, 1152, (48, 96, 192, 384), STRIDES_4),
    "ViTC18GF": _conv(768, 11, 12, 3072, FILTERS_6, STRIDES_6),
    "ViTC36GF": _conv(1024, 13, 16, 4096, FILTERS_6, STRIDES_6),
    # timm's "searching for better ViT baselines" (SBB).
    "ViTWee16Reg1": _sbb(256, 14, 4, 1280, 1),
    "ViTLittle16Reg1": _sbb(320, 14, 5, 1792, 1),
    "ViTMedium16Reg4": _sbb(512, 12, 8, 2048, 4),
    "ViTMediumD16Reg4": _sbb(512, 20, 8, 2048, 4),
    "ViTBetwixt16Reg4": _sbb(640, 12, 10, 2560, 4),
    "ViTSo150m2Reg1": _sbb(832, 21, 13, 2176, 1, qkv_bias=False),
    "RoPEViTMedium16Reg1": _rope_sbb(512, 12, 8, 2048, 1),
    "RoPEViTMediumD16Reg1": _rope_sbb(512, 20, 8, 2048, 1, qkv_bias=False),
    "RoPEViTBetwixt16Reg4": _rope_sbb(640, 12, 10, 2560, 4),
    "RoPEViTBase16Reg1": _rope_sbb(768, 12, 12, 3072, 1),
    # Beyer et al., "FlexiViT: One Model for All Patch Sizes", 2023.
    "FlexiViTS": _flexivit("S"),
    "FlexiViTB": _flexivit("B"),
    "FlexiViTL": _flexivit("L"),
    # Ours, for small images: digits, Fashion-MNIST, CIFAR.
    "ViTMicro4": _size(96, 6, 3, 192, 4, input_shape=(32, 32, 3)),
    "ViTNano4": _size(128, 4, 4, 256, 4, **NANO),
    "ViTNanoC4": _size(128, 2, 4, 256, 1, stem=dict(kind="conv", filters=(32, 32, 64, 64, 128, 128), strides=(1, 2, 1, 1, 2, 1)), **NANO),
}


def list_models(pattern: str = "*") -> list[str]:
    """Returns the names of the presets that match a wildcard pattern, without regard to case, in natural order.

    Args:
        pattern: str, such as "*B16*".

    Returns:
        List of str, each a function of `keras_vit`.

    Example:
    >>> keras_vit.list_models("deit3*b*")
    ['DeiT3B16']
    """
    names = [name for name in PRESETS if fnmatch.fnmatchcase(name.lower(), pattern.lower())]
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def preset(name: str) -> dict:
    """Returns a copy of the arguments of `VisionTransformer` that a preset's name stands for.

    Raises:
        ValueError: if there is no such preset, naming the nearest ones.
    """
    if name in PRESETS:
        return dict(PRESETS[name])
    near = nearest_presets(name)
    raise ValueError(
        f"There is no preset of that name. The nearest are {', '.join(near)}; `keras_vit.list_models()` lists all. Received: {name!r}"
    )


FAMILIES = ("eva02", "eva", "tipsv2", "ijepa", "dinov3", "eupe", "dinov2", "deit3", "deit", "siglip", "clip", "flexivit")
LETTERS = {"tiny": "ti", "small": "s", "medium": "m", "base": "b", "large": "l", "huge": "h", "giant": "g"}


def nearest_presets(name):
    """Returns the preset that a name stands for, including names of other libraries, or the three nearest presets.

    Example:
    >>> nearest_presets("vit_base_patch16_224")
    ['ViTB16']
    """
    plain = {_plain(known): known for known in PRESETS}
    wanted = _plain(str(name))
    return [plain[wanted]] if wanted in plain else [plain[near] for near in nearest(wanted, plain)[:3]]


def _plain(name):
    """Returns family, size and patch of a name, such as "dinov2s14", without owner, resolution and tag."""
    name = re.sub(r"^.*/(?=[a-z])|\..*$|patch|[-_]\d{3,}", "", name.lower())
    name = re.sub(rf"(?<![a-z])({'|'.join(LETTERS)})(?![a-z])", lambda match: LETTERS[match[0]], name)
    family = next((family for family in FAMILIES if family in name), "")
    rest = name.replace(family, "").replace("vit", "") if family else name
    return re.sub(r"[^a-z0-9]", "", family + rest)


def num_heads_of(hidden_dim, num_layers, mlp_dim, mlp="mlp"):
    """Returns the number of heads of the published model with these dimensions, or else one head per 64 channels.

    The weights do not show it: their shapes are the same for any number of heads.

    Raises:
        ValueError: if 64 does not divide `hidden_dim` and no preset has it.
    """
    same_width = [p for p in PRESETS.values() if p["hidden_dim"] == hidden_dim]
    if same_width:
        differs = lambda p: (p["num_layers"] != num_layers, p["mlp_dim"] != mlp_dim, p.get("mlp", "mlp") != mlp)  # noqa: E731
        return min(same_width, key=differs)["num_heads"]
    if hidden_dim % 64:
        raise ValueError(f"The weights do not show the number of heads: pass `num_heads`. Received: hidden_dim={hidden_dim}")
    return hidden_dim // 64
