"""The names that transformers gives to the weights of each family, from the canonical ones of huggingface.py, its classes, and what they
support."""

_EMBEDDINGS = [
    (r"^embeddings\.patch\.", "embeddings.patch_embeddings.projection."),
    (r"^embeddings\.positions$", "embeddings.position_embeddings"),
    (r"\.attention\.(query|key|value)\.", r".attention.attention.\1."),
    (r"\.attention\.output\.", ".attention.output.dense."),
    (r"^pooler\.", "pooler.dense."),
]
_VIT = _EMBEDDINGS + [(r"\.mlp\.fc1\.", ".intermediate.dense."), (r"\.mlp\.fc2\.", ".output.dense.")]
_DINOV2 = _EMBEDDINGS + [(r"\.layernorm_before\.", ".norm1."), (r"\.layernorm_after\.", ".norm2.")]
_TIPS = _DINOV2 + [
    (r"\.attention\.attention\.(query|key|value)\.", lambda m: f".attention.{m[1][0]}_proj."),
    (r"\.output\.dense\.", ".o_proj."),
]
_TOWER = [
    (r"^embeddings\.patch\.", "embeddings.patch_embedding."),
    (r"^embeddings\.positions$", "embeddings.position_embedding.weight"),
    (r"^embeddings\.cls_token$", "embeddings.class_embedding"),
    (r"^embeddings\.norm\.", "pre_layrnorm."),
    (r"^head\.attention\.output\.", "head.attention.out_proj."),
    (r"\.attention\.(query|key|value)\.", lambda m: f".self_attn.{m[1][0]}_proj."),
    (r"\.attention\.output\.", ".self_attn.out_proj."),
    (r"^encoder\.layer\.", "encoder.layers."),
    (r"\.layernorm_before\.", ".layer_norm1."),
    (r"\.layernorm_after\.", ".layer_norm2."),
    (r"^layernorm\.", "post_layernorm."),
    (r"^", "vision_model."),
]

# Each family's names before version 5, which all versions read, and its classes with and without a classifier.
FORMS = {
    "vit": (_VIT, "ViTForImageClassification", "ViTModel"),
    "deit": (_VIT + [(r"^classifier\.", "cls_classifier.")], "DeiTForImageClassificationWithTeacher", "DeiTModel"),
    "dinov2": (_DINOV2, "Dinov2ForImageClassification", "Dinov2Model"),
    "dinov2_with_registers": (_DINOV2, "Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersModel"),
    "siglip": (_TOWER, "SiglipForImageClassification", "SiglipVisionModel"),
    "siglip2": (_TOWER, "Siglip2ForImageClassification", "Siglip2VisionModel"),
    "ijepa": (_VIT, "IJepaForImageClassification", "IJepaModel"),
    "tipsv2": (_TIPS, None, "Tipsv2VisionModel"),
    "clip": (_TOWER, "CLIPForImageClassification", "CLIPVisionModel"),
}

# The values that each family supports of arguments that others support too.
_PLAIN = dict(mlp=("mlp",), layer_scale_init=(None,), num_register_tokens=(0,))
FAMILIES = {
    "vit": dict(**_PLAIN, distillation_token=(False,)),
    "deit": dict(**_PLAIN, representation_size=(None,)),
    "dinov2": dict(layer_scale_init=lambda init: init is not None, distillation_token=(False,), representation_size=(None,)),
    "siglip": dict(**_PLAIN, norm_embeddings=(False,), representation_size=(None,)),
    "clip": dict(**_PLAIN, distillation_token=(False,), representation_size=(None,), patch_bias=(False,), include_top=(False,)),
}
FAMILIES["dinov2_with_registers"] = FAMILIES["dinov2"]
FAMILIES["tipsv2"] = {**FAMILIES["dinov2"], "include_top": (False,)}
FAMILIES["ijepa"] = FAMILIES["siglip"]
# The pooling before each classifier. Models without a classifier end with the tokens, except SigLIP and CLIP.
POOLINGS: dict[str, tuple] = {"vit": ("token",), "deit": ("token",), "siglip": ("gap",), "ijepa": ("gap",)}
FAMILIES["siglip2"], POOLINGS["siglip2"] = FAMILIES["siglip"], POOLINGS["siglip"]
POOLINGS["dinov2"] = POOLINGS["dinov2_with_registers"] = ("token", "gap", "token_gap")
HEADLESS_POOLINGS = {"siglip": ("map", "gap", None), "siglip2": ("map", "gap", None), "clip": ("token",)}
HEADLESS_POOLINGS["ijepa"] = ("gap", None)
