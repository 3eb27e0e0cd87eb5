"""The table of training recipes: one row for each published recipe, and for each that we chose by measurement."""

import dataclasses

from keras_vit.names import Table
from keras_vit.training.recipe import LINEAR_PROBE, Recipe


def _vit(data, epochs, learning_rate, **values):
    source = f"Dosovitskiy et al., An Image is Worth 16x16 Words (2020), table 3: {data}"
    more = dict(warmup_steps=10_000, clip_norm=1.0, schedule="linear", augmentation="inception")
    return Recipe(source, 4096, epochs, learning_rate=learning_rate, **more | values)


def _vit_finetune(data, steps, learning_rate, warmup_steps=500):
    return Recipe(
        f"Dosovitskiy et al., An Image is Worth 16x16 Words (2020), table 4 and B.1.1, at 384 px: {data}",
        batch_size=512,
        steps=steps,
        optimizer="SGD",
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        clip_norm=1.0,
        augmentation="finetune",
    )


def _augreg(augmentation):
    return Recipe(
        "Steiner et al., How to train your ViT? (2022), section 3; configs/vit_i1k.py of big_vision",
        batch_size=4096,
        epochs=300,
        warmup_steps=10_000,
        weight_decay=0.1,
        clip_norm=1.0,
        loss="sigmoid",
        augmentation=augmentation,
    )


def _deit3(size, learning_rate, drop_path_rate):
    return Recipe(
        f"Touvron et al., DeiT III (2022), table 1, ImageNet-1k; README_revenge.md of facebookresearch/deit: ViT-{size}",
        batch_size=2048,
        epochs=800,
        optimizer="Lamb",
        learning_rate=learning_rate,
        warmup_epochs=5,
        weight_decay=0.05,
        # DeiT-III's loss is the mean over 1,000 classes, ours the sum. LAMB's update does not depend on this factor, but clipping does:
        # theirs, at 1, never acts on the mean, so that there is none here.
        loss="sigmoid",
        drop_path_rate=drop_path_rate,
        augmentation="deit3",
    )


def _deit3_21k(size, drop_path_rate):
    return Recipe(
        f"Touvron et al., DeiT III (2022), table 1, ImageNet-21k; README_revenge.md of facebookresearch/deit: ViT-{size}",
        batch_size=2048,
        epochs=240,
        optimizer="Lamb",
        learning_rate=1e-3,
        warmup_epochs=5,
        weight_decay=0.02,
        clip_norm=1.0,
        label_smoothing=0.1,
        drop_path_rate=drop_path_rate,
        augmentation="deit3_21k",
    )


def _mae_finetune(size, epochs, learning_rate, layer_decay, drop_path_rate):
    return Recipe(
        f"He et al., Masked Autoencoders (2021), A.1; FINETUNE.md of facebookresearch/mae: ViT-{size}",
        batch_size=1024,
        epochs=epochs,
        learning_rate=learning_rate,
        learning_rate_images=256,
        warmup_epochs=5,
        weight_decay=0.05,
        layer_decay=layer_decay,
        label_smoothing=0.1,
        drop_path_rate=drop_path_rate,
        augmentation="mae",
    )


def _beit_finetune(size, epochs, batch_size, learning_rate, warmup_epochs, weight_decay, layer_decay, drop_path_rate, augmentation):
    return Recipe(
        f"Bao et al., BEiT (2022); beit/get_started_for_image_classification.md of microsoft/unilm: BEiT-{size}",
        batch_size=batch_size,
        epochs=epochs,
        learning_rate=learning_rate,
        warmup_epochs=warmup_epochs,
        weight_decay=weight_decay,
        layer_decay=layer_decay,
        label_smoothing=0.1,
        drop_path_rate=drop_path_rate,
        augmentation=augmentation,
    )


DEIT = Recipe(
    "Touvron et al., Training data-efficient image transformers (2021), table 9; main.py of facebookresearch/deit",
    batch_size=1024,
    epochs=300,
    learning_rate=5e-4,
    learning_rate_images=512,
    warmup_epochs=5,
    weight_decay=0.05,
    ema_momentum=0.99996,
    label_smoothing=0.1,
    drop_path_rate=0.1,
    augmentation="deit",
)
FASHION_MNIST = Recipe(
    "chosen on Fashion-MNIST for 40 minutes of a processor core",
    batch_size=128,
    epochs=12,
    optimizer="Muon",
    learning_rate=2e-3,
    warmup_epochs=0.25,
    weight_decay=0.05,
    clip_norm=1.0,
    label_smoothing=0.1,
    drop_path_rate=0.1,
    augmentation="fashion_mnist",
)
FINETUNE = Recipe(
    "AdamW with layer-wise decay as in He et al., Masked Autoencoders (2021), A.1; learning rate chosen on 1,000 images of Fashion-MNIST",
    batch_size=32,
    epochs=10,
    learning_rate=3e-4,
    warmup_epochs=1,
    weight_decay=0.05,
    clip_norm=1.0,
    layer_decay=0.75,
    label_smoothing=0.1,
    drop_path_rate=0.1,
    augmentation="finetune",
)

RECIPES = Table(
    "recipe",
    {
        # For your own data set on one machine.
        "small_data": Recipe(
            "tuned on the 1,797 digits of scikit-learn",
            batch_size=32,
            epochs=50,
            learning_rate=1.5e-3,
            warmup_epochs=3,
            weight_decay=0.05,
            clip_norm=1.0,
            label_smoothing=0.1,
            drop_path_rate=0.1,
            augmentation="digits",
        ),
        "fashion_mnist": FASHION_MNIST,
        "fashion_mnist_plain": dataclasses.replace(
            FASHION_MNIST,
            epochs=26,
            drop_path_rate=0.0,
            patch_dropout_rate=0.5,  # nearly twice the images in the same time; more regularization than this costs
            augmentation="flip",
            source=FASHION_MNIST.source + ", for models without a convolutional stem",
        ),
        "finetune": FINETUNE,
        "linear_probe": LINEAR_PROBE,
        "head_then_all": dataclasses.replace(
            FINETUNE,
            head_epochs=5,
            source="Kumar et al., Fine-Tuning can Distort Pretrained Features (2022): the head first; then as finetune",
        ),
        "lora": dataclasses.replace(
            FINETUNE,
            lora_rank=8,
            learning_rate=3e-3,
            layer_decay=None,
            weight_decay=0.0,
            source="Hu et al., LoRA (2022), on the attention kernels; else as finetune",
        ),
        # From the papers.
        "vit_imagenet1k": _vit("ImageNet-1k", 300, 3e-3, schedule="cosine", weight_decay=0.3, dropout_rate=0.1),
        "vit_imagenet21k_b": _vit("ImageNet-21k, B", 90, 1e-3, weight_decay=0.03, dropout_rate=0.1),
        "vit_imagenet21k_l": _vit("ImageNet-21k, L (also 90 epochs)", 30, 1e-3, weight_decay=0.03, dropout_rate=0.1),
        "vit_jft_b": _vit("JFT-300M, B and R50+B", 7, 8e-4, weight_decay=0.1),
        "vit_jft_l32": _vit("JFT-300M, L/32", 7, 6e-4, weight_decay=0.1),
        "vit_jft_l16": _vit("JFT-300M, L/16", 14, 4e-4, weight_decay=0.1),
        "vit_jft_h14": _vit("JFT-300M, H/14", 14, 3e-4, weight_decay=0.1),
        "vit_finetune_imagenet": _vit_finetune("ImageNet", 20_000, 0.03),
        "vit_finetune_cifar": _vit_finetune("CIFAR-10 and CIFAR-100", 10_000, 0.01),
        "vit_finetune_pets": _vit_finetune("Pets and Flowers", 500, 0.01, warmup_steps=100),
        "vit_finetune_vtab": _vit_finetune("VTAB", 2_500, 0.01),
        "augreg_none": _augreg("inception"),
        **{f"augreg_{name}": _augreg(name) for name in ("light1", "light2", "medium1", "medium2", "strong1", "strong2")},
        "augreg_finetune": dataclasses.replace(
            _vit_finetune("", 2_500, 0.003, warmup_steps=200),
            source="Steiner et al., How to train your ViT? (2022), table 4: of its learning rates, 0.001 to 0.01, the middle one",
        ),
        "better_plain": Recipe(
            "Beyer et al., Better plain ViT baselines for ImageNet-1k (2022); configs/vit_s16_i1k.py of big_vision; also 150, 300 epochs",
            batch_size=1024,
            epochs=90,
            warmup_steps=10_000,
            weight_decay=0.1,
            clip_norm=1.0,
            augmentation="better_plain",
        ),
        "deit": DEIT,
        "deit_384": dataclasses.replace(
            DEIT,
            epochs=30,
            batch_size=512,
            learning_rate=5e-6,
            learning_rate_images=512,
            weight_decay=1e-8,
            source=DEIT.source + ": 384 px",
        ),
        "deit3_s": _deit3("S", 4e-3, 0.05),
        "deit3_b": _deit3("B, at 192 px", 3e-3, 0.2),
        "deit3_l": _deit3("L, at 192 px", 3e-3, 0.45),
        "deit3_h": _deit3("H, at 160 px", 3e-3, 0.6),
        "deit3_finetune_b": Recipe(
            "README_revenge.md of facebookresearch/deit: from 192 to 224 px, ViT-B; L with drop path 0.45, H with 0.55",
            batch_size=512,
            epochs=20,
            learning_rate=1e-5,
            warmup_epochs=5,
            weight_decay=0.1,
            label_smoothing=0.1,
            drop_path_rate=0.2,
            augmentation="mae",
        ),
        "deit3_21k_s": _deit3_21k("S", 0.05),
        "deit3_21k_b": _deit3_21k("B", 0.1),
        "deit3_21k_l": _deit3_21k("L", 0.3),
        "deit3_21k_finetune_b": dataclasses.replace(
            _deit3_21k("B, then on ImageNet-1k; S with drop path 0.05, L with 0.4", 0.15), epochs=50, learning_rate=3e-4
        ),
        "mae_finetune_b": _mae_finetune("B", 100, 5e-4, 0.65, 0.1),
        "mae_finetune_l": _mae_finetune("L", 50, 1e-3, 0.75, 0.2),
        "mae_finetune_h": _mae_finetune("H", 50, 1e-3, 0.75, 0.3),
        "beit_finetune_b": _beit_finetune("B, self-supervised", 100, 1024, 4e-3, 20, 0.05, 0.65, 0.1, "mae"),
        "beit_finetune_l": _beit_finetune("L, self-supervised", 50, 1024, 1e-3, 5, 0.05, 0.75, 0.2, "mae"),
        "beit22k_finetune_b": _beit_finetune("B, fine-tuned on ImageNet-22k before", 30, 512, 2e-5, 5, 1e-8, 0.85, 0.1, "beit"),
        "beit22k_finetune_l": _beit_finetune("L, fine-tuned on ImageNet-22k before", 30, 512, 2e-5, 5, 1e-8, 0.9, 0.4, "beit"),
    },
)
