"""The published weights: the checkpoints of each preset, their sources, and their preprocessing."""

import logging
import os
from typing import Any, NamedTuple

from keras_vit.checkpoints.formats.files import SUFFIXES
from keras_vit.presets import CLIP, IMAGENET, PRESETS, list_models, nearest_presets, preset

log = logging.getLogger("keras_vit")

HALF = {"mean": 0.5, "std": 0.5}
# Evaluation on the whole image, resized out of proportion.
SQUASH = {"crop_mode": "squash"}
SQUASH_BILINEAR = {"crop_mode": "squash", "interpolation": "bilinear"}
PLAIN = {"mean": 0.0, "std": 1.0}
MIT = {"license": "MIT"}

# Licenses that forbid commercial use.
NON_COMMERCIAL = ("CC-BY-NC-4.0", "FAIR-Noncommercial-Research-License")
# Licenses with terms of their own, and what they say in short.
TERMS = {"DINOv3-License": "redistribution under the same terms only, trade controls, no military or nuclear use"}
SAT493M = {"mean": (0.430, 0.411, 0.296), "std": (0.213, 0.156, 0.143)}
DINOV3, EUPE = {"license": "DINOv3-License"}, {"license": "FAIR-Noncommercial-Research-License"}


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


# Preset, repository on the Hub, resolution, classes, top-1, parameters, colors, crop, and what differs from the others. The tag is timm's.
# Top-1 and crop are timm's own: results/results-imagenet.csv of August 2026, and the `pretrained_cfg` of timm 1.0.31.
TIMM = [
    ("ViTTi16", "vit_tiny_patch16_224.augreg_in21k_ft_in1k", 224, 1000, 75.45, 5.72, HALF, 0.9),
    ("ViTTi16", "vit_tiny_patch16_384.augreg_in21k_ft_in1k", 384, 1000, 78.44, 5.79, HALF, 1.0),
    ("ViTS32", "vit_small_patch32_224.augreg_in21k_ft_in1k", 224, 1000, 76.01, 22.88, HALF, 0.9),
    ("ViTS32", "vit_small_patch32_384.augreg_in21k_ft_in1k", 384, 1000, 80.48, 22.92, HALF, 1.0),
    ("ViTS16", "vit_small_patch16_224.augreg_in21k_ft_in1k", 224, 1000, 81.40, 22.05, HALF, 0.9),
    ("ViTS16", "vit_small_patch16_384.augreg_in21k_ft_in1k", 384, 1000, 83.81, 22.20, HALF, 1.0),
    ("ViTS16", "vit_small_patch16_224.augreg_in1k", 224, 1000, 78.84, 22.05, HALF, 0.9),
    ("ViTB32", "vit_base_patch32_224.augreg_in21k_ft_in1k", 224, 1000, 80.73, 88.22, HALF, 0.9),
    ("ViTB32", "vit_base_patch32_384.augreg_in21k_ft_in1k", 384, 1000, 83.36, 88.30, HALF, 1.0),
    ("ViTB32", "vit_base_patch32_224.sam_in1k", 224, 1000, 73.70, 88.22, HALF, 0.9),
    ("ViTB16", "vit_base_patch16_224.augreg2_in21k_ft_in1k", 224, 1000, 85.11, 86.57, HALF, 0.9),
    ("ViTB16", "vit_base_patch16_224.augreg_in21k_ft_in1k", 224, 1000, 84.53, 86.57, HALF, 0.9),
    ("ViTB16", "vit_base_patch16_384.augreg_in21k_ft_in1k", 384, 1000, 86.01, 86.86, HALF, 1.0),
    ("ViTB16", "vit_base_patch16_224.augreg_in21k", 224, 21843, None, 102.60, HALF, 0.9),
    ("ViTB16", "vit_base_patch16_224.augreg_in1k", 224, 1000, 79.15, 86.57, HALF, 0.9),
    ("ViTB16", "vit_base_patch16_384.augreg_in1k", 384, 1000, 81.10, 86.86, HALF, 1.0),
    ("ViTB16", "vit_base_patch16_224.sam_in1k", 224, 1000, 80.25, 86.57, HALF, 0.9),
    ("ViTB16", "vit_base_patch16_224.mae", 224, 0, None, 85.80, IMAGENET, 0.9, {"license": "CC-BY-NC-4.0"}),
    ("ViTB8", "vit_base_patch8_224.augreg2_in21k_ft_in1k", 224, 1000, 86.25, 86.58, HALF, 0.9),
    ("ViTL32", "vit_large_patch32_384.orig_in21k_ft_in1k", 384, 1000, 81.51, 306.63, HALF, 1.0),
    ("ViTL16", "vit_large_patch16_224.augreg_in21k_ft_in1k", 224, 1000, 85.86, 304.33, HALF, 0.9),
    ("ViTL16", "vit_large_patch16_384.augreg_in21k_ft_in1k", 384, 1000, 87.10, 304.72, HALF, 1.0),
    ("ViTL16", "vit_large_patch16_224.mae", 224, 0, None, 303.30, IMAGENET, 0.9, {"license": "CC-BY-NC-4.0"}),
    ("ViTH14", "vit_huge_patch14_224.orig_in21k", 224, 0, None, 630.76, HALF, 0.9),
    ("ViTH14", "vit_huge_patch14_224.mae", 224, 0, None, 630.76, IMAGENET, 0.9, {"license": "CC-BY-NC-4.0"}),
    ("RViTTi16", "vit_tiny_r_s16_p8_224.augreg_in21k_ft_in1k", 224, 1000, 71.80, 6.34, HALF, 0.9),
    ("RViTTi16", "vit_tiny_r_s16_p8_384.augreg_in21k_ft_in1k", 384, 1000, 75.96, 6.36, HALF, 1.0),
    ("R26ViTS32", "vit_small_r26_s32_224.augreg_in21k_ft_in1k", 224, 1000, 81.86, 36.43, HALF, 0.9),
    ("R26ViTS32", "vit_small_r26_s32_384.augreg_in21k_ft_in1k", 384, 1000, 84.07, 36.47, HALF, 1.0),
    ("R50ViTB16", "vit_base_r50_s16_384.orig_in21k_ft_in1k", 384, 1000, 84.99, 98.95, HALF, 1.0),
    ("R50ViTL32", "vit_large_r50_s32_224.augreg_in21k_ft_in1k", 224, 1000, 84.43, 328.99, HALF, 0.9),
    ("R50ViTL32", "vit_large_r50_s32_384.augreg_in21k_ft_in1k", 384, 1000, 86.19, 329.09, HALF, 1.0),
    ("DeiTTi16", "deit_tiny_patch16_224.fb_in1k", 224, 1000, 72.19, 5.72, IMAGENET, 0.9),
    ("DeiTS16", "deit_small_patch16_224.fb_in1k", 224, 1000, 79.86, 22.05, IMAGENET, 0.9),
    ("DeiTB16", "deit_base_patch16_224.fb_in1k", 224, 1000, 81.98, 86.57, IMAGENET, 0.9),
    ("DeiTB16", "deit_base_patch16_384.fb_in1k", 384, 1000, 83.11, 86.86, IMAGENET, 1.0),
    ("DeiTTi16Distilled", "deit_tiny_distilled_patch16_224.fb_in1k", 224, 1000, 74.54, 5.91, IMAGENET, 0.9),
    ("DeiTS16Distilled", "deit_small_distilled_patch16_224.fb_in1k", 224, 1000, 81.20, 22.44, IMAGENET, 0.9),
    ("DeiTB16Distilled", "deit_base_distilled_patch16_224.fb_in1k", 224, 1000, 83.38, 87.34, IMAGENET, 0.9),
    ("DeiTB16Distilled", "deit_base_distilled_patch16_384.fb_in1k", 384, 1000, 85.44, 87.63, IMAGENET, 1.0),
    ("DeiT3S16", "deit3_small_patch16_224.fb_in22k_ft_in1k", 224, 1000, 83.08, 22.06, IMAGENET, 1.0),
    ("DeiT3S16", "deit3_small_patch16_384.fb_in22k_ft_in1k", 384, 1000, 84.85, 22.21, IMAGENET, 1.0),
    ("DeiT3M16", "deit3_medium_patch16_224.fb_in22k_ft_in1k", 224, 1000, 84.55, 38.85, IMAGENET, 1.0),
    ("DeiT3B16", "deit3_base_patch16_224.fb_in22k_ft_in1k", 224, 1000, 85.73, 86.59, IMAGENET, 1.0),
    ("DeiT3B16", "deit3_base_patch16_384.fb_in22k_ft_in1k", 384, 1000, 86.74, 86.88, IMAGENET, 1.0),
    ("DeiT3L16", "deit3_large_patch16_224.fb_in22k_ft_in1k", 224, 1000, 86.99, 304.37, IMAGENET, 1.0),
    ("DeiT3L16", "deit3_large_patch16_384.fb_in22k_ft_in1k", 384, 1000, 87.74, 304.76, IMAGENET, 1.0),
    ("DeiT3H14", "deit3_huge_patch14_224.fb_in22k_ft_in1k", 224, 1000, 87.18, 632.13, IMAGENET, 1.0),
    # Features alone. Linear classifiers on them reach 81.1, 84.5, 86.3, 86.5 and, with registers, 80.9, 84.6, 86.7, 87.1 (DINOv2's README).
    ("DINOv2S14", "vit_small_patch14_dinov2.lvd142m", 518, 0, None, 22.06, IMAGENET, 1.0),
    ("DINOv2B14", "vit_base_patch14_dinov2.lvd142m", 518, 0, None, 86.58, IMAGENET, 1.0),
    ("DINOv2L14", "vit_large_patch14_dinov2.lvd142m", 518, 0, None, 304.37, IMAGENET, 1.0),
    ("DINOv2g14", "vit_giant_patch14_dinov2.lvd142m", 518, 0, None, 1136.48, IMAGENET, 1.0),
    ("DINOv2S14Reg4", "vit_small_patch14_reg4_dinov2.lvd142m", 518, 0, None, 22.06, IMAGENET, 1.0),
    ("DINOv2B14Reg4", "vit_base_patch14_reg4_dinov2.lvd142m", 518, 0, None, 86.58, IMAGENET, 1.0),
    ("DINOv2L14Reg4", "vit_large_patch14_reg4_dinov2.lvd142m", 518, 0, None, 304.37, IMAGENET, 1.0),
    ("DINOv2g14Reg4", "vit_giant_patch14_reg4_dinov2.lvd142m", 518, 0, None, 1136.49, IMAGENET, 1.0),
    ("TIPSv2B14", "vit_base_patch14_reg1_tipsv2.webli", 448, 0, None, 86.32, PLAIN, 1.0),
    ("TIPSv2L14", "vit_large_patch14_reg1_tipsv2.webli", 448, 0, None, 304.02, PLAIN, 1.0),
    ("TIPSv2So400m14", "vit_so400m_patch14_reg1_tipsv2.webli", 448, 0, None, 413.39, PLAIN, 1.0),
    ("TIPSv2g14", "vit_giant_patch14_reg1_tipsv2.webli", 448, 0, None, 1135.95, PLAIN, 1.0),
    ("EVAg14", "eva_giant_patch14_224.clip_ft_in1k", 224, 1000, 88.90, 1012.56, CLIP, 0.9, MIT),
    ("EVAg14", "eva_giant_patch14_336.clip_ft_in1k", 336, 1000, 89.46, 1013.01, CLIP, 1.0, {**SQUASH, **MIT}),
    ("EVAg14", "eva_giant_patch14_336.m30m_ft_in22k_in1k", 336, 1000, 89.57, 1013.01, IMAGENET, 1.0, {**SQUASH, **MIT}),
    ("EVAg14", "eva_giant_patch14_560.m30m_ft_in22k_in1k", 560, 1000, 89.79, 1014.45, IMAGENET, 1.0, {**SQUASH, **MIT}),
    ("EVACLIPg14", "eva_giant_patch14_clip_224.laion400m", 224, 0, None, 1012.59, CLIP, 0.9, MIT),
    ("EVACLIPg14", "eva_giant_patch14_clip_224.merged2b", 224, 0, None, 1012.59, CLIP, 0.9, MIT),
    # Those without classes are pre-trained by masked image modeling, or towers of CLIP with their projection.
    ("EVA02Ti14", "eva02_tiny_patch14_336.mim_in22k_ft_in1k", 336, 1000, 80.65, 5.76, CLIP, 1.0, MIT),
    ("EVA02Ti14", "eva02_tiny_patch14_224.mim_in22k", 224, 0, None, 5.50, CLIP, 0.9, MIT),
    ("EVA02S14", "eva02_small_patch14_336.mim_in22k_ft_in1k", 336, 1000, 85.77, 22.13, CLIP, 1.0, MIT),
    ("EVA02S14", "eva02_small_patch14_224.mim_in22k", 224, 0, None, 21.62, CLIP, 0.9, MIT),
    ("EVA02B14", "eva02_base_patch14_448.mim_in22k_ft_in22k_in1k", 448, 1000, 88.68, 87.12, CLIP, 1.0, {**SQUASH, **MIT}),
    ("EVA02B14", "eva02_base_patch14_448.mim_in22k_ft_in1k", 448, 1000, 88.26, 87.12, CLIP, 1.0, MIT),
    ("EVA02B14", "eva02_base_patch14_448.mim_in22k_ft_in22k", 448, 21841, None, 103.14, CLIP, 1.0, {**SQUASH, **MIT}),
    ("EVA02B14", "eva02_base_patch14_224.mim_in22k", 224, 0, None, 85.76, CLIP, 0.9, MIT),
    ("EVA02L14", "eva02_large_patch14_448.mim_m38m_ft_in22k_in1k", 448, 1000, 90.06, 305.08, CLIP, 1.0, {**SQUASH, **MIT}),
    ("EVA02L14", "eva02_large_patch14_448.mim_in22k_ft_in22k_in1k", 448, 1000, 89.96, 305.08, CLIP, 1.0, {**SQUASH, **MIT}),
    ("EVA02L14", "eva02_large_patch14_448.mim_in22k_ft_in1k", 448, 1000, 89.63, 305.08, CLIP, 1.0, MIT),
    ("EVA02L14", "eva02_large_patch14_448.mim_m38m_ft_in1k", 448, 1000, 89.55, 305.08, CLIP, 1.0, MIT),
    ("EVA02L14", "eva02_large_patch14_448.mim_m38m_ft_in22k", 448, 21841, None, 326.44, CLIP, 1.0, {**SQUASH, **MIT}),
    ("EVA02L14", "eva02_large_patch14_224.mim_m38m", 224, 0, None, 303.27, CLIP, 0.9, MIT),
    ("EVA02L14", "eva02_large_patch14_224.mim_in22k", 224, 0, None, 303.27, CLIP, 0.9, MIT),
    ("EVA02CLIPB16", "eva02_base_patch16_clip_224.merged2b", 224, 0, None, 86.26, CLIP, 0.9, MIT),
    ("EVA02CLIPL14", "eva02_large_patch14_clip_224.merged2b", 224, 0, None, 304.11, CLIP, 0.9, MIT),
    ("EVA02CLIPL14", "eva02_large_patch14_clip_336.merged2b", 336, 0, None, 304.43, CLIP, 1.0, MIT),
    ("EVA02CLIPE14", "eva02_enormous_patch14_clip_224.laion2b_plus", 224, 0, None, 4350.56, CLIP, 0.9, MIT),
    ("PECoreTi16", "vit_pe_core_tiny_patch16_384.fb", 384, 0, None, 6.14, HALF, 1.0),
    ("PECoreS16", "vit_pe_core_small_patch16_384.fb", 384, 0, None, 23.78, HALF, 1.0),
    ("PECoreB16", "vit_pe_core_base_patch16_224.fb", 224, 0, None, 93.67, HALF, 1.0),
    ("PECoreL14", "vit_pe_core_large_patch14_336.fb", 336, 0, None, 317.15, HALF, 1.0),
    ("PECoreG14", "vit_pe_core_gigantic_patch14_448.fb", 448, 0, None, 1882.03, HALF, 1.0),
    ("PELangL14", "vit_pe_lang_large_patch14_448.fb", 448, 0, None, 291.42, HALF, 1.0),
    ("PELangL14", "vit_pe_lang_large_patch14_448.fb_tiling", 448, 0, None, 291.42, HALF, 1.0),
    ("PELangG14", "vit_pe_lang_gigantic_patch14_448.fb", 448, 0, None, 1740.92, HALF, 1.0),
    ("PESpatialTi16", "vit_pe_spatial_tiny_patch16_512.fb", 512, 0, None, 5.68, HALF, 1.0),
    ("PESpatialS16", "vit_pe_spatial_small_patch16_512.fb", 512, 0, None, 21.98, HALF, 1.0),
    ("PESpatialB16", "vit_pe_spatial_base_patch16_512.fb", 512, 0, None, 86.43, HALF, 1.0),
    ("PESpatialL14", "vit_pe_spatial_large_patch14_448.fb", 448, 0, None, 303.96, HALF, 1.0),
    ("PESpatialG14", "vit_pe_spatial_gigantic_patch14_448.fb", 448, 0, None, 1851.89, HALF, 1.0),
    ("DINOv3S16", "vit_small_patch16_dinov3_qkvb.lvd1689m", 256, 0, None, 21.60, IMAGENET, 1.0, DINOV3),
    ("DINOv3SPlus16", "vit_small_plus_patch16_dinov3_qkvb.lvd1689m", 256, 0, None, 28.69, IMAGENET, 1.0, DINOV3),
    ("DINOv3B16", "vit_base_patch16_dinov3_qkvb.lvd1689m", 256, 0, None, 85.66, IMAGENET, 1.0, DINOV3),
    ("DINOv3L16", "vit_large_patch16_dinov3_qkvb.lvd1689m", 256, 0, None, 303.13, IMAGENET, 1.0, DINOV3),
    ("DINOv3L16", "vit_large_patch16_dinov3_qkvb.sat493m", 256, 0, None, 303.13, SAT493M, 1.0, DINOV3),
    ("DINOv3HPlus16", "vit_huge_plus_patch16_dinov3_qkvb.lvd1689m", 256, 0, None, 840.59, IMAGENET, 1.0, DINOV3),
    ("DINOv3_7B16", "vit_7b_patch16_dinov3.lvd1689m", 256, 0, None, 6716.03, IMAGENET, 1.0, DINOV3),
    ("DINOv3_7B16", "vit_7b_patch16_dinov3.sat493m", 256, 0, None, 6716.03, SAT493M, 1.0, DINOV3),
    ("EUPETi16", "vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m", 256, 0, None, 5.49, IMAGENET, 1.0, EUPE),
    ("EUPES16", "vit_small_patch16_dinov3_qkvb.eupe_lvd1689m", 256, 0, None, 21.60, IMAGENET, 1.0, EUPE),
    ("EUPEB16", "vit_base_patch16_dinov3_qkvb.eupe_lvd1689m", 256, 0, None, 85.66, IMAGENET, 1.0, EUPE),
    ("RoPEViTS16", "vit_small_patch16_rope_224.naver_in1k", 224, 1000, 81.22, 21.98, IMAGENET, 0.9),
    ("RoPEViTS16APE", "vit_small_patch16_rope_ape_224.naver_in1k", 224, 1000, 81.02, 22.06, IMAGENET, 0.9),
    ("RoPEViTS16Mixed", "vit_small_patch16_rope_mixed_224.naver_in1k", 224, 1000, 81.25, 21.99, IMAGENET, 0.9),
    ("RoPEViTS16MixedAPE", "vit_small_patch16_rope_mixed_ape_224.naver_in1k", 224, 1000, 80.97, 22.06, IMAGENET, 0.9),
    ("RoPEViTB16", "vit_base_patch16_rope_224.naver_in1k", 224, 1000, 83.71, 86.43, IMAGENET, 0.9),
    ("RoPEViTB16APE", "vit_base_patch16_rope_ape_224.naver_in1k", 224, 1000, 83.78, 86.59, IMAGENET, 0.9),
    ("RoPEViTB16Mixed", "vit_base_patch16_rope_mixed_224.naver_in1k", 224, 1000, 83.81, 86.44, IMAGENET, 0.9),
    ("RoPEViTB16MixedAPE", "vit_base_patch16_rope_mixed_ape_224.naver_in1k", 224, 1000, 83.90, 86.59, IMAGENET, 0.9),
    ("RoPEViTL16", "vit_large_patch16_rope_224.naver_in1k", 224, 1000, 84.65, 304.17, IMAGENET, 0.9),
    ("RoPEViTL16APE", "vit_large_patch16_rope_ape_224.naver_in1k", 224, 1000, 84.66, 304.37, IMAGENET, 0.9),
    ("RoPEViTL16Mixed", "vit_large_patch16_rope_mixed_224.naver_in1k", 224, 1000, 84.84, 304.20, IMAGENET, 0.9),
    ("RoPEViTL16MixedAPE", "vit_large_patch16_rope_mixed_ape_224.naver_in1k", 224, 1000, 84.85, 304.40, IMAGENET, 0.9),
    ("RoPEViTMedium16Reg1", "vit_medium_patch16_rope_reg1_gap_256.sbb_in1k", 256, 1000, 83.81, 38.74, HALF, 0.95, MIT),
    ("RoPEViTMediumD16Reg1", "vit_mediumd_patch16_rope_reg1_gap_256.sbb_in1k", 256, 1000, 84.32, 63.95, HALF, 0.95, MIT),
    ("RoPEViTBetwixt16Reg4", "vit_betwixt_patch16_rope_reg4_gap_256.sbb_in1k", 256, 1000, 83.91, 60.23, CLIP, 0.95, MIT),
    ("RoPEViTBase16Reg1", "vit_base_patch16_rope_reg1_gap_256.sbb_in1k", 256, 1000, 83.87, 86.43, HALF, 0.95, MIT),
    ("SigLIPB32", "vit_base_patch32_siglip_256.v2_webli", 256, 0, None, 94.55, HALF, 0.9),
    ("SigLIPB16", "vit_base_patch16_siglip_224.v2_webli", 224, 0, None, 92.88, HALF, 0.9),
    ("SigLIPB16", "vit_base_patch16_siglip_224.webli", 224, 0, None, 92.88, HALF, 0.9),
    ("SigLIPB16", "vit_base_patch16_siglip_256.v2_webli", 256, 0, None, 92.93, HALF, 0.9),
    ("SigLIPB16", "vit_base_patch16_siglip_384.v2_webli", 384, 0, None, 93.18, HALF, 0.9),
    ("SigLIPB16", "vit_base_patch16_siglip_512.v2_webli", 512, 0, None, 93.52, HALF, 0.9),
    ("SigLIPL16", "vit_large_patch16_siglip_256.v2_webli", 256, 0, None, 315.96, HALF, 0.9),
    ("SigLIPL16", "vit_large_patch16_siglip_384.v2_webli", 384, 0, None, 316.28, HALF, 0.9),
    ("SigLIPL16", "vit_large_patch16_siglip_512.v2_webli", 512, 0, None, 316.74, HALF, 0.9),
    ("SigLIPSo400m14", "vit_so400m_patch14_siglip_224.v2_webli", 224, 0, None, 427.68, HALF, 0.9),
    ("SigLIPSo400m14", "vit_so400m_patch14_siglip_378.v2_webli", 378, 0, None, 428.23, HALF, 0.9),
    ("SigLIPSo400m14", "vit_so400m_patch14_siglip_378.webli_ft_in1k", 378, 1000, 89.41, 429.38, HALF, 1.0, SQUASH),
    ("SigLIPSo400m16", "vit_so400m_patch16_siglip_256.v2_webli", 256, 0, None, 427.89, HALF, 0.9),
    ("SigLIPSo400m16", "vit_so400m_patch16_siglip_384.v2_webli", 384, 0, None, 428.26, HALF, 0.9),
    ("SigLIPSo400m16", "vit_so400m_patch16_siglip_512.v2_webli", 512, 0, None, 428.77, HALF, 0.9),
    ("SigLIPgopt16", "vit_giantopt_patch16_siglip_256.v2_webli", 256, 0, None, 1163.17, HALF, 0.9),
    ("SigLIPgopt16", "vit_giantopt_patch16_siglip_384.v2_webli", 384, 0, None, 1163.66, HALF, 0.9),
    ("SigLIPB16NaFlex", "naflexvit_base_patch16_siglip.v2_webli", 384, 0, None, 92.93, HALF, 1.0),
    ("SigLIPSo400m16NaFlex", "naflexvit_so400m_patch16_siglip.v2_webli", 384, 0, None, 427.89, HALF, 1.0),
    ("CLIPB32", "vit_base_patch32_clip_224.laion2b_ft_in12k_in1k", 224, 1000, 83.30, 88.22, CLIP, 0.9),
    ("CLIPB16", "vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", 224, 1000, 86.20, 86.57, CLIP, 0.95),
    ("CLIPB16", "vit_base_patch16_clip_384.laion2b_ft_in12k_in1k", 384, 1000, 87.21, 86.86, CLIP, 1.0, SQUASH),
    ("CLIPL14", "vit_large_patch14_clip_224.openai_ft_in12k_in1k", 224, 1000, 88.16, 304.20, CLIP, 1.0),
    ("CLIPL14", "vit_large_patch14_clip_336.openai_ft_in12k_in1k", 336, 1000, 88.26, 304.53, CLIP, 1.0, SQUASH),
    ("FlexiViTS", "flexivit_small.1200ep_in1k", 240, 1000, 82.58, 22.06, HALF, 0.95),
    ("FlexiViTB", "flexivit_base.1200ep_in1k", 240, 1000, 84.68, 86.59, HALF, 0.95),
    ("FlexiViTL", "flexivit_large.1200ep_in1k", 240, 1000, 85.65, 304.36, HALF, 0.95),
    ("ViTWee16Reg1", "vit_wee_patch16_reg1_gap_256.sbb_in1k", 256, 1000, 80.26, 13.42, HALF, 0.95),
    ("ViTLittle16Reg1", "vit_little_patch16_reg1_gap_256.sbb_in12k_ft_in1k", 256, 1000, 83.80, 22.52, HALF, 0.95),
    ("ViTMedium16Reg4", "vit_medium_patch16_reg4_gap_256.sbb_in12k_ft_in1k", 256, 1000, 84.96, 38.88, HALF, 0.95),
    ("ViTMediumD16Reg4", "vit_mediumd_patch16_reg4_gap_256.sbb2_e200_in12k_ft_in1k", 256, 1000, 86.61, 64.11, HALF, 0.95),
    ("ViTMediumD16Reg4", "vit_mediumd_patch16_reg4_gap_384.sbb2_e200_in12k_ft_in1k", 384, 1000, 87.44, 64.27, HALF, 1.0),
    ("ViTBetwixt16Reg4", "vit_betwixt_patch16_reg4_gap_256.sbb2_e200_in12k_ft_in1k", 256, 1000, 85.73, 60.40, HALF, 0.95),
    ("ViTBetwixt16Reg4", "vit_betwixt_patch16_reg4_gap_384.sbb2_e200_in12k_ft_in1k", 384, 1000, 86.62, 60.60, HALF, 1.0),
    ("ViTSo150m2Reg1", "vit_so150m2_patch16_reg1_gap_256.sbb_e200_in12k_ft_in1k", 256, 1000, 87.32, 136.06, HALF, 1.0),
    ("ViTSo150m2Reg1", "vit_so150m2_patch16_reg1_gap_448.sbb_e200_in12k_ft_in1k", 448, 1000, 88.07, 136.50, HALF, 1.0, SQUASH),
]

# Preset, tag, file in Google's bucket, resolution, classes, top-1, parameters. These have the best accuracy on ImageNet-21k, and
# vision_transformer's README recommends them for fine-tuning. timm's above are fine-tuned, and the best on ImageNet-V2.
GOOGLE = [
    ("ViTTi16", "jax_augreg_in21k", "augreg/Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0", 224, 21843, None, 9.74),
    ("ViTS32", "jax_augreg_in21k", "augreg/S_32-i21k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0", 224, 21843, None, 30.90),
    ("ViTS16", "jax_augreg_in21k", "augreg/S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0", 224, 21843, None, 30.08),
    ("ViTB32", "jax_augreg_in21k", "augreg/B_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0", 224, 21843, None, 104.25),
    ("ViTB16", "jax_augreg_in21k", "augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0", 224, 21843, None, 102.60),
    ("ViTL16", "jax_augreg_in21k", "augreg/L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0-sd_0.0", 224, 21843, None, 325.69),
    ("RViTTi16", "jax_augreg_in21k", "augreg/R_Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0", 224, 21843, None, 10.36),
    ("R26ViTS32", "jax_augreg_in21k", "augreg/R26_S_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0-sd_0.0", 224, 21843, None, 44.46),
    ("R50ViTL32", "jax_augreg_in21k", "augreg/R50_L_32-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1", 224, 21843, None, 350.36),
]
# The file of "Better plain ViT baselines"; top-1 from the paper.
BIG_VISION = [("SimpleViTS16", "jax_300ep_in1k", "vit_s16_i1k_300ep", 224, 1000, 80.0, 22.12)]

# SigLIP 2's towers for images in their own aspect ratios.
SIGLIP2 = [
    ("SigLIPB16NaFlex", "jax_v2_webli", "siglip2_b16_naflex", 256, 0, None, 92.93),
    ("SigLIPSo400m16NaFlex", "jax_v2_webli", "siglip2_so400m16_naflex", 256, 0, None, 427.89),
]

# The paper's models and SigLIP 2's, as Google brought them to transformers. Top-1 from its table 5 (384 pixels) and from vit_jax (224).
HUGGING_FACE: list[tuple] = [
    ("ViTB16", "hf_in21k", "hf://google/vit-base-patch16-224-in21k", 224, 0, None, 86.39),
    ("ViTB16", "hf_in21k_ft_in1k", "hf://google/vit-base-patch16-224", 224, 1000, 81.2, 86.57),
    ("ViTB16", "hf_in21k_ft_in1k_384", "hf://google/vit-base-patch16-384", 384, 1000, 83.97, 86.86),
    ("ViTB32", "hf_in21k_ft_in1k_384", "hf://google/vit-base-patch32-384", 384, 1000, 81.28, 88.30),
    ("ViTL16", "hf_in21k_ft_in1k", "hf://google/vit-large-patch16-224", 224, 1000, 82.7, 304.33),
    ("ViTL16", "hf_in21k_ft_in1k_384", "hf://google/vit-large-patch16-384", 384, 1000, 85.15, 304.72),
    ("SigLIPB16NaFlex", "hf_v2_webli", "hf://google/siglip2-base-patch16-naflex", 256, 0, None, 92.93),
    ("SigLIPSo400m16NaFlex", "hf_v2_webli", "hf://google/siglip2-so400m-patch16-naflex", 256, 0, None, 427.89),
]


# I-JEPA, as Meta brought it to transformers.
IJEPA = [
    ("IJEPAH14", "hf_in1k", "hf://facebook/ijepa_vith14_1k", 224, 0, None, 630.76, IMAGENET),
    ("IJEPAH14", "hf_in22k", "hf://facebook/ijepa_vith14_22k", 224, 0, None, 630.76, IMAGENET),
    ("IJEPAH16", "hf_in1k", "hf://facebook/ijepa_vith16_1k", 448, 0, None, 631.67, IMAGENET),
    ("IJEPAg16", "hf_in22k", "hf://facebook/ijepa_vitg16_22k", 224, 0, None, 1011.37, IMAGENET),
]

# DINOv3 in transformers' form. Its repositories open after their terms are accepted.
DINOV3_HUB = [
    ("DINOv3S16", "hf_lvd1689m_224", "hf://facebook/dinov3-vits16-pretrain-lvd1689m", 224, 0, None, 21.60, IMAGENET),
    ("DINOv3SPlus16", "hf_lvd1689m_224", "hf://facebook/dinov3-vits16plus-pretrain-lvd1689m", 224, 0, None, 28.69, IMAGENET),
    ("DINOv3B16", "hf_lvd1689m_224", "hf://facebook/dinov3-vitb16-pretrain-lvd1689m", 224, 0, None, 85.66, IMAGENET),
    ("DINOv3L16", "hf_lvd1689m_224", "hf://facebook/dinov3-vitl16-pretrain-lvd1689m", 224, 0, None, 303.13, IMAGENET),
    ("DINOv3L16", "hf_sat493m_224", "hf://facebook/dinov3-vitl16-pretrain-sat493m", 224, 0, None, 303.13, SAT493M),
    ("DINOv3HPlus16", "hf_lvd1689m_224", "hf://facebook/dinov3-vith16plus-pretrain-lvd1689m", 224, 0, None, 840.59, IMAGENET),
    ("DINOv3_7B16", "hf_lvd1689m_224", "hf://facebook/dinov3-vit7b16-pretrain-lvd1689m", 224, 0, None, 6716.03, IMAGENET),
    ("DINOv3_7B16", "hf_sat493m_224", "hf://facebook/dinov3-vit7b16-pretrain-sat493m", 224, 0, None, 6716.03, SAT493M),
]


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
    meant = nearest_presets(name)
    if row := next((row for row in CATALOGUE if row.source.endswith(f"/{name}")), None):
        meaning = f"This is the preset {row.model} with `weights={row.tag!r}`"
    elif len(meant) == 1:
        meaning = f"This model is called {meant[0]} here. Its weights: {tags(meant[0])}"
    else:
        meaning = f"There is no preset of that name. The nearest are {', '.join(meant)}; `keras_vit.list_models()` lists all"
    raise ValueError(f"{meaning}. Received: {name!r}")


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
