"""The published figures: parameters to the last digit, multiply-adds to 0.2 %, by formula and by the built model."""

import keras
import numpy as np
import pytest
from keras.src.backend.common import global_state

import keras_vit
from keras_vit.presets import PRESETS, preset

# name: (parameters, GMACs, overrides)
PUBLISHED = [
    ("ViTTi16", 5_717_416, 1.254, {}),
    ("ViTS32", 22_878_952, 1.143, {}),
    ("ViTS16", 22_050_664, 4.599, {}),
    ("ViTS8", 22_055_272, 22.406, {}),
    ("ViTM16", 38_837_736, 7.991, {}),
    ("ViTB32", 88_224_232, 4.409, {}),
    ("ViTB16", 86_567_656, 17.564, {}),
    ("ViTB8", 86_576_872, 78.148, {}),
    ("ViTL32", 306_535_400, 15.378, {}),
    ("ViTL16", 304_326_632, 61.555, {}),
    ("ViTL14", 304_203_752, 81.013, {}),
    ("ViTH16", 632_199_400, 127.315, {}),
    ("ViTH14", 632_045_800, 167.295, {}),
    ("ViTg14", 1_012_611_432, 267.031, {}),
    ("ViTG14", 1_844_440_680, 483.748, {}),
    ("ViTSo400m14", 413_597_656, 109.928, {}),
    ("ViTe14", 3_807_214_312, 990.677, {}),
    ("ViTTi16", 5_790_376, 4.682, {"input_shape": (384, 384, 3)}),
    ("ViTS16", 22_196_584, 15.490, {"input_shape": (384, 384, 3)}),
    ("ViTB32", 88_297_192, 13.044, {"input_shape": (384, 384, 3)}),
    ("ViTB16", 86_859_496, 55.484, {"input_shape": (384, 384, 3)}),
    ("ViTL32", 306_632_680, 45.276, {"input_shape": (384, 384, 3)}),
    ("ViTL16", 304_715_752, 191.066, {"input_shape": (384, 384, 3)}),
    ("ViTH14", 633_470_440, 1016.7, {"input_shape": (518, 518, 3)}),
    # Backbones, as KerasHub counts them
    ("ViTTi16", 5_524_416, None, {"include_top": False}),
    ("ViTS32", 22_493_952, None, {"include_top": False}),
    ("ViTS16", 21_665_664, None, {"include_top": False}),
    ("ViTB32", 87_455_232, None, {"include_top": False}),
    ("ViTB16", 85_798_656, None, {"include_top": False}),
    ("ViTB8", 85_807_872, None, {"include_top": False}),
    ("ViTL32", 305_510_400, None, {"include_top": False}),
    ("ViTL16", 303_301_632, None, {"include_top": False}),
    ("ViTH14", 630_764_800, None, {"include_top": False}),
    # ImageNet-21k; the last is the original with its pre-logits
    ("ViTTi16", 9_740_115, None, {"num_classes": 21843}),
    ("ViTS16", 30_075_219, None, {"num_classes": 21843}),
    ("ViTB32", 104_252_499, None, {"num_classes": 21843}),
    ("ViTB16", 102_595_923, None, {"num_classes": 21843}),
    ("ViTL16", 325_690_707, None, {"num_classes": 21843}),
    ("ViTB16", 103_186_515, None, {"num_classes": 21843, "representation_size": 768}),
    # big_vision's without a class token
    ("ViTB16", 86_566_120, None, {"class_token": False, "pooling": "gap"}),
    ("ViTB16", 86_415_592, 17.472, {"class_token": False, "pooling": "gap", "position_embedding": "sincos2d"}),
    ("SimpleViTS16", 21_974_632, None, {}),
    ("SimpleViTS16", 21_974_632 + 147_840, None, {"representation_size": 384}),
    # Hybrids
    ("RViTTi16", 6_337_704, 0.434, {}),
    ("RViTTi16", 6_355_944, 1.327, {"input_shape": (384, 384, 3)}),
    ("R26ViTS32", 36_431_912, 3.464, {}),
    ("R26ViTS32", 36_468_392, 10.264, {"input_shape": (384, 384, 3)}),
    ("R26ViTB32", 101_383_976, 6.711, {}),
    ("R50ViTB16", 98_659_112, 21.535, {}),
    ("R50ViTB16", 98_950_952, 67.156, {"input_shape": (384, 384, 3)}),
    ("R50ViTB32", 110_945_832, 8.458, {}),
    ("R50ViTL32", 328_994_856, 19.413, {}),
    ("R50ViTL32", 329_092_136, 57.136, {"input_shape": (384, 384, 3)}),
    ("R50ViTL16", 316_483_624, 65.539, {}),
    # DeiT and DeiT III
    ("DeiTTi16", 5_717_416, 1.254, {}),
    ("DeiTS16", 22_050_664, 4.599, {}),
    ("DeiTB16", 86_567_656, 17.564, {}),
    ("DeiTTi16Distilled", 5_910_800, 1.261, {}),
    ("DeiTS16Distilled", 22_436_432, 4.624, {}),
    ("DeiTB16Distilled", 87_338_192, 17.657, {}),
    ("DeiT3S16", 22_059_496, 4.599, {}),
    ("DeiT3M16", 38_849_512, 7.991, {}),
    ("DeiT3B16", 86_585_320, 17.564, {}),
    ("DeiT3L16", 304_374_760, 61.555, {}),
    ("DeiT3H14", 632_126_440, 167.295, {}),
    ("DeiT3S16", 22_205_416, None, {"input_shape": (384, 384, 3)}),
    ("DeiT3B16", 86_877_160, None, {"input_shape": (384, 384, 3)}),
    ("DeiT3L16", 304_763_880, None, {"input_shape": (384, 384, 3)}),
    # DINOv2
    ("DINOv2S14", 22_056_192, 46.7, {}),
    ("DINOv2B14", 86_579_712, 151.6, {}),
    ("DINOv2L14", 304_367_616, 506.8, {}),
    ("DINOv2g14", 1_136_479_232, 1783.3, {}),
    ("DINOv2S14Reg4", 22_057_728, None, {}),
    ("DINOv2B14Reg4", 86_582_784, None, {}),
    ("DINOv2L14Reg4", 304_371_712, None, {}),
    ("DINOv2g14Reg4", 1_136_485_376, None, {}),
    ("DINOv2S14", 22_056_192, 6.12, {"input_shape": (224, 224, 3), "position_grid": (37, 37)}),
    ("DINOv2B14", 86_579_712, 23.16, {"input_shape": (224, 224, 3), "position_grid": (37, 37)}),
    ("DINOv2L14", 304_367_616, 81.01, {"input_shape": (224, 224, 3), "position_grid": (37, 37)}),
    ("DINOv2g14", 1_136_479_232, 299.4, {"input_shape": (224, 224, 3), "position_grid": (37, 37)}),
    # One of each form of EVA-02, Perception Encoder and TIPSv2; `BY_FORMULA` has the others
    ("EVA02Ti14", 5_756_584, None, {}),
    ("EVA02CLIPB16", 86_263_040, None, {}),
    ("PECoreTi16", 6_140_544, None, {}),
    ("PESpatialTi16", 5_683_200, None, {}),
    ("TIPSv2B14", 86_314_752, None, {"prefix_positions": False}),
    # As many of DINOv3 and RoPE-ViT
    ("DINOv3S16", 21_596_160, None, {}),
    ("RoPEViTS16Mixed", 21_988_840, None, {}),
    ("RoPEViTBase16Reg1", 86_425_576, 23.22, {}),
    # AIMv2
    ("AIMv2L14", 309_197_824, 82.3, {}),
    # SigLIP's image towers
    ("SigLIPB16", 92_884_224, 17.708, {}),
    ("SigLIPB16", 92_930_304, None, {"input_shape": (256, 256, 3)}),
    ("SigLIPB16", 93_176_064, None, {"input_shape": (384, 384, 3)}),
    ("SigLIPB16", 93_520_128, None, {"input_shape": (512, 512, 3)}),
    ("SigLIPB32", 94_552_320, None, {}),
    ("SigLIPL16", 315_956_224, 81.28, {}),
    ("SigLIPL16", 316_283_904, None, {"input_shape": (384, 384, 3)}),
    ("SigLIPSo400m14", 427_680_704, 110.18, {}),
    ("SigLIPSo400m14", 428_225_600, None, {"input_shape": (384, 384, 3), "position_grid": (27, 27), "dynamic_padding": True}),
    ("SigLIPSo400m16", 427_888_064, None, {}),
    ("SigLIPgopt16", 1_163_168_256, None, {}),
    ("SigLIPB16NaFlex", 92_930_304, None, {}),
    ("SigLIPB16NaFlex", 85_843_200, None, {"pooling": "gap"}),
    ("SigLIPSo400m16NaFlex", 427_888_064, None, {}),
    ("SigLIPSo400m16NaFlex", 412_649_712, None, {"pooling": "gap"}),
    # CLIP's, less the projection that stands behind them
    ("CLIPB32", 87_849_216 - 768 * 512, None, {}),
    ("CLIPB16", 86_192_640 - 768 * 512, None, {}),
    ("CLIPL14", 303_966_208 - 1024 * 768, None, {}),
    # Xiao et al.
    ("ViTP1GF", 4_830_376, 1.079, {}),
    ("ViTP4GF", 18_507_112, 3.902, {}),
    ("ViTP18GF", 86_567_656, 17.56, {}),
    ("ViTP36GF", 178_364_392, 35.97, {}),
    ("ViTC1GF", 4_567_936, 1.076, {}),
    ("ViTC4GF", 17_754_136, 3.959, {}),
    ("ViTC18GF", 81_573_160, 17.71, {}),
    ("ViTC36GF", 167_796_008, 35.00, {}),
]

# Published in millions only, by timm; its models have 1000 classes here.
MILLIONS = {
    "ViTWee16Reg1": 13.42,
    "ViTLittle16Reg1": 22.52,
    "ViTMedium16Reg4": 38.88,
    "ViTMediumD16Reg4": 64.11,
    "ViTBetwixt16Reg4": 60.40,
    "ViTSo150m2Reg1": 136.06,
    "FlexiViTS": 22.06,
    "FlexiViTB": 86.59,
    "FlexiViTL": 304.36,
}


def parameters_of_the_built_model(name, **overrides):
    """Without allocating them: variables made in this scope get a value when it ends, and so are forgotten before."""
    with keras.StatelessScope():
        model = getattr(keras_vit, name)(**overrides)
        count = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
        global_state.set_global_attribute("uninitialized_variables", [])
    return count


# Not built, which takes seconds; those of EVA, TIPSv2, I-JEPA and AIMv2 are timm's.
BY_FORMULA = [
    ("TIPSv2L14", 304_014_336, {"prefix_positions": False}),
    ("TIPSv2So400m14", 413_391_600, {"prefix_positions": False}),
    ("TIPSv2g14", 1_135_949_312, {"prefix_positions": False}),
    ("IJEPAH14", 630_762_240, {}),
    ("IJEPAH16", 631_668_480, {}),
    ("IJEPAg16", 1_011_368_576, {}),
    ("EVAg14", 1_012_555_112, {}),
    ("EVAg14", 1_014_447_464, {"input_shape": (560, 560, 3)}),
    ("EVACLIPg14", 1_012_588_928, {}),
    ("EVA02Ti14", 5_502_144, {"input_shape": (224, 224, 3), "include_top": False}),
    ("EVA02S14", 22_129_000, {}),
    ("EVA02S14", 21_621_120, {"input_shape": (224, 224, 3), "include_top": False}),
    ("EVA02B14", 87_117_544, {}),
    ("EVA02B14", 85_758_720, {"input_shape": (224, 224, 3), "include_top": False}),
    ("EVA02L14", 305_080_232, {}),
    ("EVA02L14", 303_268_800, {"input_shape": (224, 224, 3), "include_top": False}),
    ("EVA02CLIPL14", 304_105_152, {}),
    ("EVA02CLIPL14", 304_432_832, {"input_shape": (336, 336, 3)}),
    ("EVA02CLIPE14", 4_350_556_928, {}),
    ("PECoreS16", 23_782_656, {}),
    ("PECoreB16", 93_672_960, {}),
    ("PECoreL14", 317_151_232, {}),
    ("PECoreG14", 1_882_032_640, {}),
    ("PELangL14", 291_415_040, {}),
    ("PELangG14", 1_740_922_624, {}),
    ("PESpatialS16", 21_983_232, {}),
    ("PESpatialB16", 86_433_792, {}),
    ("PESpatialL14", 303_964_160, {}),
    ("PESpatialG14", 1_851_887_104, {}),
    ("DINOv3SPlus16", 28_692_480, {}),
    ("DINOv3B16", 85_659_648, {}),
    ("DINOv3L16", 303_128_576, {}),
    ("DINOv3LPlus16", 403_890_176, {}),
    ("DINOv3HPlus16", 840_591_360, {}),
    ("DINOv3_7B16", 6_716_030_976, {}),
    ("DINOv3S16", 21_586_944, {"qkv_bias": False}),
    ("DINOv3B16", 85_641_216, {"qkv_bias": False}),
    ("DINOv3HPlus16", 840_509_440, {"qkv_bias": False}),
    ("EUPETi16", 5_489_664, {}),
    ("EUPES16", 21_596_160, {}),
    ("EUPEB16", 85_659_648, {}),
    ("RoPEViTS16", 21_984_232, {}),
    ("RoPEViTB16", 86_434_792, {}),
    ("RoPEViTL16", 304_174_056, {}),
    ("RoPEViTB16Mixed", 86_444_008, {}),
    ("RoPEViTL16Mixed", 304_198_632, {}),
    ("RoPEViTS16APE", 21_984_232 + 196 * 384, {}),
    ("RoPEViTB16APE", 86_434_792 + 196 * 768, {}),
    ("RoPEViTL16APE", 304_174_056 + 196 * 1024, {}),
    ("RoPEViTS16MixedAPE", 21_988_840 + 196 * 384, {}),
    ("RoPEViTB16MixedAPE", 86_444_008 + 196 * 768, {}),
    ("RoPEViTL16MixedAPE", 304_198_632 + 196 * 1024, {}),
    ("RoPEViTMedium16Reg1", 38_743_016, {}),
    ("RoPEViTMediumD16Reg1", 63_945_704, {}),
    ("RoPEViTBetwixt16Reg4", 60_226_920, {}),
    ("AIMv2L14", 309_525_504, {"input_shape": (336, 336, 3)}),
    ("AIMv2H14", 680_851_968, {}),
    ("AIMv2_1B14", 1_234_958_336, {}),
    ("AIMv2_3B14", 2_720_658_432, {}),
    ("AIMv2L14Native", 308_935_680, {}),
]


def test_published_parameters_by_formula():
    assert {(name, keras_vit.cost(name, **more).parameters - parameters) for name, parameters, more in BY_FORMULA} == {
        (name, 0) for name, *_ in BY_FORMULA
    }


@pytest.mark.parametrize("name, parameters, gmacs, overrides", PUBLISHED)
def test_published_figures(name, parameters, gmacs, overrides):
    cost = keras_vit.cost(name, **overrides)
    assert cost.parameters == parameters
    assert gmacs is None or cost.macs / 1e9 == pytest.approx(gmacs, rel=2e-3)
    assert parameters_of_the_built_model(name, **overrides) == parameters


@pytest.mark.parametrize("name", MILLIONS)
def test_published_millions(name):
    parameters = keras_vit.cost(name).parameters
    assert round(parameters / 1e6, 2) == MILLIONS[name]
    assert parameters_of_the_built_model(name) == parameters


def test_every_preset_has_a_published_figure():
    ours = {"ViTMicro4", "ViTNano4", "ViTNanoC4"}
    assert set(PRESETS) == ours | {name for name, *_ in PUBLISHED} | {name for name, *_ in BY_FORMULA} | set(MILLIONS)


def test_counting_allocates_nothing():
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert parameters_of_the_built_model("ViTG14") == 1_844_440_680
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert kilobytes < 200_000  # 7.4 GB would be all


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("*deit3*", ["DeiT3B16", "DeiT3H14", "DeiT3L16", "DeiT3M16", "DeiT3S16"]),
        ("R50*", ["R50ViTB16", "R50ViTB32", "R50ViTL16", "R50ViTL32"]),
        ("ViTB*", ["ViTB8", "ViTB16", "ViTB32", "ViTBetwixt16Reg4"]),
        ("ResNet*", []),
    ],
)
def test_list_models(pattern, names):
    assert keras_vit.list_models(pattern) == names


def test_list_models_filters_and_lists_all():
    assert set(keras_vit.list_models()) == set(PRESETS)
    assert {"ViTB16", "R50ViTB16", "DeiT3B16", "SigLIPB16"} <= set(keras_vit.list_models("*B16*"))


def test_a_preset_is_a_copy():
    preset("ViTB16")["hidden_dim"] = 1
    assert preset("ViTB16")["hidden_dim"] == 768


@pytest.mark.parametrize(
    "name, nearest", [("ViT-B16", "ViTB16"), ("vitb16", "ViTB16"), ("DinoV2B14Reg", "DINOv2B14Reg4"), ("R50B16", "R50ViTB16")]
)
def test_unknown_preset_names_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"no preset .* The nearest are .*{nearest}.* Received: '{name}'"):
        preset(name)


@pytest.mark.parametrize("name", ["zzzzzzzzzzzzzzzzzz", 7, None])
def test_unknown_preset_near_to_none(name):
    with pytest.raises(ValueError, match="no preset .* Received: "):
        preset(name)
