"""The names that transformers gives to the weights of each family, from the canonical ones of huggingface.py, and its classes."""

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
