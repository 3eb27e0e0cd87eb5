"""What the published configurations of a family share: each function returns arguments of `VisionTransformer`."""

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


def size(hidden_dim, num_layers, num_heads, mlp_dim, patch_size=16, **more):
    dims = dict(hidden_dim=hidden_dim, num_layers=num_layers, num_heads=num_heads, mlp_dim=mlp_dim, patch_size=patch_size)
    return {**dims, **more}


def vit(letter, patch_size, **more):
    return size(*SIZES[letter], patch_size, **more)


def hybrid(letter, *block_counts, patch_size=1, **more):
    return vit(letter, patch_size, stem=dict(kind="resnet", block_counts=block_counts), **more)


def deit(letter, **more):
    return vit(letter, 16, preprocessing={**IMAGENET, "crop_fraction": 0.9}, **more)


def deit3(letter, patch_size=16):
    form = dict(prefix_positions=False, layer_scale_init=1e-6, drop_path_schedule="constant")
    return vit(letter, patch_size, preprocessing={**IMAGENET, "crop_fraction": 1.0}, **form)


def dinov2(letter, num_register_tokens=0):
    form = dict(input_shape=(518, 518, 3), include_top=False, layer_scale_init=1e-5, preprocessing={**IMAGENET, "crop_fraction": 1.0})
    dims, mlp = ((1536, 40, 24, 4096), "swiglu") if letter == "g" else (SIZES[letter], "mlp")
    return size(*dims, 14, mlp=mlp, num_register_tokens=num_register_tokens, **form)


def tipsv2(letter):
    form: dict = dict(input_shape=(448, 448, 3), include_top=False, num_register_tokens=1, layer_scale_init=1.0)
    form.update(position_resample="bilinear_antialias", preprocessing=TIPS)
    dims, mlp = ((1536, 40, 24, 4096), "swiglu") if letter == "g" else (SIZES[letter], "mlp")
    return size(*dims, 14, mlp=mlp, **form)


def aimv2(hidden_dim, num_heads, mlp_dim, **more):
    form: dict = dict(include_top=False, class_token=False, prefix_positions=False, pooling="gap", mlp="swiglu", qkv_bias=False)
    form.update(projection_bias=False, norm="rms", norm_epsilon=1e-5, norm_embeddings="patches")
    form.update(preprocessing={**CLIP, "crop_fraction": 1.0})
    return size(hidden_dim, 24, num_heads, mlp_dim, 14, **{**form, **more})


def ijepa(letter, patch_size, side=224):
    form: dict = dict(include_top=False, class_token=False, prefix_positions=False, pooling="gap", position_resample="bicubic")
    return vit(letter, patch_size, input_shape=(side, side, 3), preprocessing={**IMAGENET, "crop_fraction": 0.9}, **form)


EVA = dict(qkv_bias="query_value", preprocessing={**CLIP, "crop_fraction": 1.0})
EVA02 = dict(**EVA, mlp="swiglu", rotary=dict(native_grid=(16, 16)))
FC_NORM = dict(pooling="gap", norm_after_pooling=True)


def eva02(*dims, side, mlp_norm=False):
    return size(*dims, 14, input_shape=(side, side, 3), mlp_norm=mlp_norm, **FC_NORM, **EVA02)


def projected(size, bias=False):
    return dict(include_top=False, representation_size=size, representation_activation="linear", representation_bias=bias)


def eva02_clip(*dims, patch_size, projection, side=224):
    norms: dict = dict(mlp_norm=True, attention_norm=True)
    return size(*dims, patch_size, input_shape=(side, side, 3), **norms, **projected(projection, bias=True), **EVA02)


def eva02_clip_e():
    return size(1792, 64, 16, 15360, 14, norm_first=False, norm_branches=True, **projected(1024, bias=True), **EVA)


def pe(dims, patch_size, side, class_token=True, layer_scale_init=None, projection=None):
    rotary = dict(axes="xy", offset=1.0 if class_token else 0.0)
    form: dict = dict(input_shape=(side, side, 3), class_token=class_token, layer_scale_init=layer_scale_init, rotary=rotary)
    form.update(norm_embeddings=True, patch_bias=False, norm_epsilon=1e-5, prefix_positions=class_token, position_resample="bilinear")
    form.update(preprocessing=dict(**WHOLE, interpolation="bilinear"))
    if projection is None:  # Lang and Spatial
        return size(*dims, patch_size, include_top=False, pooling="gap", final_norm=False, **form)
    pooling: dict = dict(pooling="map", pooling_num_heads=8, pooling_prefix_tokens=True)
    if dims[3] != 4 * dims[0]:
        pooling["pooling_mlp_dim"] = 4 * dims[0]
    return size(*dims, patch_size, **pooling, **projected(projection), **form)


def siglip(letter, patch_size, side=224):
    form = dict(include_top=False, class_token=False, prefix_positions=False, pooling="map", activation="gelu_tanh")
    return vit(letter, patch_size, input_shape=(side, side, 3), preprocessing={"crop_fraction": 1.0}, **form)


def naflex(letter, patch_size):
    form = dict(naflex=True, position_grid=(16, 16), position_resample="bilinear_antialias")
    return {**siglip(letter, patch_size, 16 * patch_size), **form, "preprocessing": {"crop_fraction": 1.0, "interpolation": "bilinear"}}


def clip(hidden_dim, num_layers, num_heads, patch_size, side=224):
    form = dict(norm_embeddings=True, patch_bias=False, norm_epsilon=1e-5, preprocessing={**CLIP, "crop_fraction": 1.0})
    return size(hidden_dim, num_layers, num_heads, 4 * hidden_dim, patch_size, input_shape=(side, side, 3), include_top=False, **form)


def conv(hidden_dim, num_layers, num_heads, mlp_dim, filters, strides):
    stem = dict(kind="conv", filters=filters, strides=strides)
    return size(hidden_dim, num_layers, num_heads, mlp_dim, 1, stem=stem, norm_epsilon=1e-5, preprocessing=IMAGENET)


def patchify(hidden_dim, num_layers, num_heads, mlp_dim):
    return size(hidden_dim, num_layers, num_heads, mlp_dim, norm_epsilon=1e-5, preprocessing=IMAGENET)


def sbb(hidden_dim, num_layers, num_heads, mlp_dim, num_register_tokens, **more):
    form: dict = dict(input_shape=(256, 256, 3), class_token=False, num_register_tokens=num_register_tokens, pooling="gap")
    form.update(norm_after_pooling=True, layer_scale_init=1e-5, prefix_positions=False, preprocessing={"crop_fraction": 0.95})
    return size(hidden_dim, num_layers, num_heads, mlp_dim, **{**form, **more})


DINOV3 = dict(coordinates="normalized", base=100.0, rescale=2.0)
ROPE_AXIAL, ROPE_MIXED = dict(base=100.0, axes="xy"), dict(base=10.0, axes="xy", frequencies="learned")


def dinov3(hidden_dim, num_layers, num_heads, mlp_dim, mlp="mlp", qkv_bias: bool | str = "query_value"):
    form: dict = dict(input_shape=(256, 256, 3), include_top=False, num_register_tokens=4, layer_scale_init=1e-5, norm_epsilon=1e-5)
    form.update(position_embedding="none", rotary=DINOV3, preprocessing={**IMAGENET, "crop_fraction": 1.0, "crop_mode": "squash"})
    return size(hidden_dim, num_layers, num_heads, mlp_dim, mlp=mlp, qkv_bias=qkv_bias, **form)


def rope_vit(letter, rotary, positions="none"):
    form: dict = dict(position_embedding=positions, prefix_positions=False, layer_scale_init=1e-5)
    return vit(letter, 16, rotary=rotary, preprocessing={**IMAGENET, "crop_fraction": 0.9}, **form)


def rope_sbb(*dims, **more):
    return sbb(*dims, position_embedding="none", rotary=dict(native_grid=(16, 16)), **{"qkv_bias": "query_value", **more})


def flexivit(letter):
    return vit(letter, 16, input_shape=(240, 240, 3), prefix_positions=False, preprocessing={"crop_fraction": 0.95})


STRIDES_4 = (2, 2, 2, 2)
FILTERS_6, STRIDES_6 = (64, 128, 128, 256, 256, 512), (2, 2, 1, 2, 1, 2)
SIMPLE = dict(class_token=False, prefix_positions=False, pooling="gap", position_embedding="sincos2d")
NANO = dict(input_shape=(28, 28, 3), **SIMPLE)
