"""Trains a plain Vision Transformer beside two hybrids, whose stem is convolutional, on a few and on many images of digits.

    pip install ".[demo]"
    python examples/hybrid.py                        # --quick: to see that it runs
    python examples/hybrid.py --data fashion_mnist --images 250 1000 4000

`--data` is any source of keras_vit.data.load. All models take the same number of steps. Both hybrids have one block less, which pays for
their convolutions: the multiply-adds of the three models differ by less than 10 %.
"""

import argparse

import keras_vit
import keras
from keras_vit.cost import cost

BLOCKS = dict(hidden_dim=96, num_heads=3, mlp_dim=192, pooling="gap", class_token=False)
MODELS = {  # every stem ends with tokens of 4 x 4 pixels
    "ViT": dict(patch_size=4, num_layers=5),
    "convolutional stem": dict(patch_size=1, num_layers=4, stem=dict(kind="conv", filters=(24, 48, 64), strides=(1, 2, 2))),
    "ResNet stem": dict(patch_size=1, num_layers=4, stem=dict(kind="resnet", block_counts=(1,), width=32, num_groups=8)),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--images", type=int, nargs="+", default=[100, 300, 1000], help="training images")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--quick", action="store_true", help="two steps of small models on 64 images")
    options = parser.parse_args()
    counts, steps = ([64], 2) if options.quick else (options.images, options.steps)

    for name, arguments in MODELS.items():
        for images in counts:
            keras.utils.set_random_seed(0)
            data = keras_vit.data.load(options.data, batch_size=32, train_images=images)
            arguments = arguments | BLOCKS | (dict(num_layers=1) if options.quick else {})
            model = keras_vit.VisionTransformer(data.image_shape, num_classes=len(data.class_names), **arguments)
            if images == counts[0]:
                counted = cost(model)
                print(f"{name}: {counted.parameters:,} parameters, {counted.macs / 1e6:.1f} million multiply-adds")
            schedule = keras.optimizers.schedules.CosineDecay(1e-3, steps, warmup_target=1e-3, warmup_steps=steps // 10)
            model.compile(keras.optimizers.AdamW(schedule, weight_decay=0.05), "sparse_categorical_crossentropy", metrics=["accuracy"])
            model.fit(data.train_from(0), steps_per_epoch=steps, verbose=0)
            print(f"    {images} images: test accuracy {model.evaluate(data.test, verbose=0)[1]:.3f}", flush=True)


if __name__ == "__main__":
    main()
