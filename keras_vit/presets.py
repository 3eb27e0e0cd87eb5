"""The published configurations: a name, and the arguments of `VisionTransformer` that differ from its defaults."""

import fnmatch
import re

from keras_vit import families
from keras_vit.names import nearest

PRESETS = {
    # Dosovitskiy et al., 2020; Steiner et al., 2021; Zhai et al., 2021 (g, G); Alabdulmohsin et al., 2023 (So400m); Chen et al., 2022 (e).
    "ViTTi16": families.vit("Ti", 16),
    "ViTS32": families.vit("S", 32),
    "ViTS16": families.vit("S", 16),
    "ViTS8": families.vit("S", 8),
    "ViTM16": families.vit("M", 16),
    "ViTB32": families.vit("B", 32),
    "ViTB16": families.vit("B", 16),
    "ViTB8": families.vit("B", 8),
    "ViTL32": families.vit("L", 32),
    "ViTL16": families.vit("L", 16),
    "ViTL14": families.vit("L", 14),
    "ViTH16": families.vit("H", 16),
    "ViTH14": families.vit("H", 14),
    "ViTg14": families.vit("g", 14),
    "ViTG14": families.vit("G", 14),
    "ViTSo400m14": families.vit("So400m", 14),
    "ViTe14": families.vit("e", 14),
    # Beyer et al., "Better plain ViT baselines for ImageNet-1k", 2022.
    "SimpleViTS16": families.vit("S", 16, **families.SIMPLE, activation="gelu_tanh"),
    # The hybrids. R+Ti/16 is named after its patches of 8 on a map of stride 4 as if that made 16; it makes 32.
    "RViTTi16": families.hybrid("Ti", patch_size=8),
    "R26ViTS32": families.hybrid("S", 2, 2, 2, 2),
    "R26ViTB32": families.hybrid("B", 2, 2, 2, 2),
    "R50ViTB16": families.hybrid("B", 3, 4, 9),
    "R50ViTB32": families.hybrid("B", 3, 4, 6, 3),
    "R50ViTL16": families.hybrid("L", 3, 4, 9),
    "R50ViTL32": families.hybrid("L", 3, 4, 6, 3),
    # Touvron et al., "Training data-efficient image transformers", 2021.
    "DeiTTi16": families.deit("Ti"),
    "DeiTS16": families.deit("S"),
    "DeiTB16": families.deit("B"),
    "DeiTTi16Distilled": families.deit("Ti", distillation_token=True),
    "DeiTS16Distilled": families.deit("S", distillation_token=True),
    "DeiTB16Distilled": families.deit("B", distillation_token=True),
    # Touvron et al., "DeiT III: Revenge of the ViT", 2022.
    "DeiT3S16": families.deit3("S"),
    "DeiT3M16": families.deit3("M"),
    "DeiT3B16": families.deit3("B"),
    "DeiT3L16": families.deit3("L"),
    "DeiT3H14": families.deit3("H", 14),
    # Oquab et al., "DINOv2", 2023; Darcet et al., "Vision Transformers Need Registers", 2023.
    "DINOv2S14": families.dinov2("S"),
    "DINOv2B14": families.dinov2("B"),
    "DINOv2L14": families.dinov2("L"),
    "DINOv2g14": families.dinov2("g"),
    "DINOv2S14Reg4": families.dinov2("S", 4),
    "DINOv2B14Reg4": families.dinov2("B", 4),
    "DINOv2L14Reg4": families.dinov2("L", 4),
    "DINOv2g14Reg4": families.dinov2("g", 4),
    # Cao et al., "TIPSv2", 2026: DINOv2's form with one register.
    "TIPSv2B14": families.tipsv2("B"),
    "TIPSv2L14": families.tipsv2("L"),
    "TIPSv2So400m14": families.tipsv2("So400m"),
    "TIPSv2g14": families.tipsv2("g"),
    # Assran et al., "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture", 2023.
    "IJEPAH14": families.ijepa("H", 14),
    "IJEPAH16": families.ijepa("H", 16, 448),
    "IJEPAg16": families.ijepa("g", 16),
    # Fini et al., "Multimodal Autoregressive Pre-training of Large Vision Encoders" (AIMv2), 2024.
    "AIMv2L14": families.aimv2(1024, 8, 2816),
    "AIMv2H14": families.aimv2(1536, 12, 4096),
    "AIMv2_1B14": families.aimv2(2048, 16, 5632),
    "AIMv2_3B14": families.aimv2(3072, 24, 8192),
    "AIMv2L14Native": families.aimv2(1024, 8, 2816, position_embedding="sincos2d_mae"),
    # Fang et al., "EVA", 2022, and "EVA-02", 2023; Sun et al., "EVA-CLIP", 2023: the image towers.
    "EVAg14": families.vit("g", 14, **families.FC_NORM, **families.EVA),
    "EVACLIPg14": families.vit("g", 14, **families.projected(1024, bias=True), **families.EVA),
    "EVA02Ti14": families.eva02(192, 12, 3, 512, side=336),
    "EVA02S14": families.eva02(384, 12, 6, 1024, side=336),
    "EVA02B14": families.eva02(768, 12, 12, 2048, side=448, mlp_norm=True),
    "EVA02L14": families.eva02(1024, 24, 16, 2730, side=448, mlp_norm=True),
    "EVA02CLIPB16": families.eva02_clip(768, 12, 12, 2048, patch_size=16, projection=512),
    "EVA02CLIPL14": families.eva02_clip(1024, 24, 16, 2730, patch_size=14, projection=768),
    "EVA02CLIPE14": families.eva02_clip_e(),
    # Bolya et al., "Perception Encoder", 2025.
    "PECoreTi16": families.pe(families.SIZES["Ti"], 16, 384, projection=512),
    "PECoreS16": families.pe(families.SIZES["S"], 16, 384, projection=512),
    "PECoreB16": families.pe(families.SIZES["B"], 16, 224, projection=1024),
    "PECoreL14": families.pe(families.SIZES["L"], 14, 336, projection=1024),
    "PECoreG14": families.pe(families.SIZES["PEG"], 14, 448, class_token=False, projection=1280),
    "PELangL14": families.pe((1024, 23, 16, 4096), 14, 448, layer_scale_init=0.1),
    "PELangG14": families.pe((1536, 47, 16, 8960), 14, 448, class_token=False, layer_scale_init=0.1),
    "PESpatialTi16": families.pe(families.SIZES["Ti"], 16, 512),
    "PESpatialS16": families.pe(families.SIZES["S"], 16, 512),
    "PESpatialB16": families.pe(families.SIZES["B"], 16, 512),
    "PESpatialL14": families.pe(families.SIZES["L"], 14, 448),
    "PESpatialG14": families.pe(families.SIZES["PEG"], 14, 448, class_token=False, layer_scale_init=0.1),
    # Siméoni et al., "DINOv3", 2025.
    "DINOv3S16": families.dinov3(384, 12, 6, 1536),
    "DINOv3SPlus16": families.dinov3(384, 12, 6, 1536, "swiglu"),
    "DINOv3B16": families.dinov3(768, 12, 12, 3072),
    "DINOv3L16": families.dinov3(1024, 24, 16, 4096),
    "DINOv3LPlus16": families.dinov3(1024, 24, 16, 4096, "swiglu"),
    "DINOv3HPlus16": families.dinov3(1280, 32, 20, 5120, "swiglu"),
    "DINOv3_7B16": families.dinov3(4096, 40, 32, 8192, "swiglu", qkv_bias=False),
    # EUPE, 2026: DINOv3's architecture.
    "EUPETi16": families.dinov3(192, 12, 3, 768),
    "EUPES16": families.dinov3(384, 12, 6, 1536),
    "EUPEB16": families.dinov3(768, 12, 12, 3072),
    # Heo et al., "Rotary Position Embedding for Vision Transformer", 2024; APE: with learned positions, too.
    "RoPEViTS16": families.rope_vit("S", families.ROPE_AXIAL),
    "RoPEViTB16": families.rope_vit("B", families.ROPE_AXIAL),
    "RoPEViTL16": families.rope_vit("L", families.ROPE_AXIAL),
    "RoPEViTS16APE": families.rope_vit("S", families.ROPE_AXIAL, "learned"),
    "RoPEViTB16APE": families.rope_vit("B", families.ROPE_AXIAL, "learned"),
    "RoPEViTL16APE": families.rope_vit("L", families.ROPE_AXIAL, "learned"),
    "RoPEViTS16Mixed": families.rope_vit("S", families.ROPE_MIXED),
    "RoPEViTB16Mixed": families.rope_vit("B", families.ROPE_MIXED),
    "RoPEViTL16Mixed": families.rope_vit("L", families.ROPE_MIXED),
    "RoPEViTS16MixedAPE": families.rope_vit("S", families.ROPE_MIXED, "learned"),
    "RoPEViTB16MixedAPE": families.rope_vit("B", families.ROPE_MIXED, "learned"),
    "RoPEViTL16MixedAPE": families.rope_vit("L", families.ROPE_MIXED, "learned"),
    # Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023: the image towers.
    "SigLIPB16": families.siglip("B", 16),
    "SigLIPB32": families.siglip("B", 32, 256),
    "SigLIPL16": families.siglip("L", 16, 256),
    "SigLIPSo400m14": families.siglip("So400m", 14),
    "SigLIPSo400m16": families.siglip("So400m", 16, 256),
    "SigLIPgopt16": families.siglip("gopt", 16, 256),
    # Tschannen et al., "SigLIP 2", 2025: the image towers for images in their own aspect ratios.
    "SigLIPB16NaFlex": families.naflex("B", 16),
    "SigLIPSo400m16NaFlex": families.naflex("So400m", 16),
    # Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021: the image towers.
    "CLIPB32": families.clip(768, 12, 12, 32),
    "CLIPB16": families.clip(768, 12, 12, 16),
    "CLIPL14": families.clip(1024, 24, 16, 14),
    # Xiao et al., "Early Convolutions Help Transformers See Better", 2021.
    "ViTP1GF": families.patchify(192, 12, 3, 576),
    "ViTP4GF": families.patchify(384, 12, 6, 1152),
    "ViTP18GF": families.patchify(768, 12, 12, 3072),
    "ViTP36GF": families.patchify(1024, 14, 16, 4096),
    "ViTC1GF": families.conv(192, 11, 3, 576, (24, 48, 96, 192), families.STRIDES_4),
    "ViTC4GF": families.conv(384, 11, 6, 1152, (48, 96, 192, 384), families.STRIDES_4),
    "ViTC18GF": families.conv(768, 11, 12, 3072, families.FILTERS_6, families.STRIDES_6),
    "ViTC36GF": families.conv(1024, 13, 16, 4096, families.FILTERS_6, families.STRIDES_6),
    # timm's "searching for better ViT baselines" (SBB).
    "ViTWee16Reg1": families.sbb(256, 14, 4, 1280, 1),
    "ViTLittle16Reg1": families.sbb(320, 14, 5, 1792, 1),
    "ViTMedium16Reg4": families.sbb(512, 12, 8, 2048, 4),
    "ViTMediumD16Reg4": families.sbb(512, 20, 8, 2048, 4),
    "ViTBetwixt16Reg4": families.sbb(640, 12, 10, 2560, 4),
    "ViTSo150m2Reg1": families.sbb(832, 21, 13, 2176, 1, qkv_bias=False),
    "RoPEViTMedium16Reg1": families.rope_sbb(512, 12, 8, 2048, 1),
    "RoPEViTMediumD16Reg1": families.rope_sbb(512, 20, 8, 2048, 1, qkv_bias=False),
    "RoPEViTBetwixt16Reg4": families.rope_sbb(640, 12, 10, 2560, 4),
    "RoPEViTBase16Reg1": families.rope_sbb(768, 12, 12, 3072, 1),
    # Beyer et al., "FlexiViT: One Model for All Patch Sizes", 2023.
    "FlexiViTS": families.flexivit("S"),
    "FlexiViTB": families.flexivit("B"),
    "FlexiViTL": families.flexivit("L"),
    # Ours, for small images: digits, Fashion-MNIST, CIFAR.
    "ViTMicro4": families.size(96, 6, 3, 192, 4, input_shape=(32, 32, 3)),
    "ViTNano4": families.size(128, 4, 4, 256, 4, **families.NANO),
    "ViTNanoC4": families.size(
        128, 2, 4, 256, 1, stem=dict(kind="conv", filters=(32, 32, 64, 64, 128, 128), strides=(1, 2, 1, 1, 2, 1)), **families.NANO
    ),
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


FAMILIES = ("aimv2", "eva02", "eva", "tipsv2", "ijepa", "dinov3", "eupe", "dinov2", "deit3", "deit", "siglip", "clip", "flexivit")
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
    same_width = [p for p in PRESETS.values() if p["hidden_dim"] == hidden_dim and p.get("norm") != "rms"]  # whose heads are 128 wide
    if same_width:
        differs = lambda p: (p["num_layers"] != num_layers, p["mlp_dim"] != mlp_dim, p.get("mlp", "mlp") != mlp)  # noqa: E731
        return min(same_width, key=differs)["num_heads"]
    if hidden_dim % 64:
        raise ValueError(f"The weights do not show the number of heads: pass `num_heads`. Received: hidden_dim={hidden_dim}")
    return hidden_dim // 64
