"""Draws the patch features of a pretrained Vision Transformer: the first three principal components as red, green and blue.

    python examples/feature_maps.py photograph.jpg --output features.png
    python examples/feature_maps.py photograph.jpg --weights hf://facebook/dinov2-small --side 518 --block 8

It needs Pillow, and a network connection the first time (or a local folder as --weights).
"""

import argparse

import numpy as np
from PIL import Image

import keras_vit


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image")
    parser.add_argument("--weights", default="hf://timm/vit_small_patch14_dinov2.lvd142m", help="anything that from_pretrained reads")
    parser.add_argument("--side", type=int, default=448, help="pixels of the longer side; rounded to whole patches")
    parser.add_argument("--block", type=int, default=-1, help="block whose output is shown, from 0 or, if negative, from the end")
    parser.add_argument("--output", default="features.png")
    options = parser.parse_args()

    model = keras_vit.from_pretrained(options.weights, input_shape=(None, None, 3), include_top=False)
    patch = model.get_config()["patch_size"]
    image = Image.open(options.image).convert("RGB")
    scale = options.side / max(image.size)
    image = image.resize([max(1, round(side * scale / patch)) * patch for side in image.size], Image.Resampling.BICUBIC)

    features = keras_vit.feature_maps(model, blocks=[options.block]).predict(np.asarray(image, "float32")[None], verbose=0)[0]
    flat = features.reshape(-1, features.shape[-1])
    flat = flat - flat.mean(axis=0)
    directions = np.linalg.svd(flat, full_matrices=False)[2][:3]
    colors = flat @ directions.T
    low, high = np.percentile(colors, [2, 98], axis=0)
    colors = np.clip((colors - low) / (high - low), 0, 1).reshape(*features.shape[:2], 3)

    picture = Image.new("RGB", (2 * image.width, image.height))
    picture.paste(image, (0, 0))
    picture.paste(Image.fromarray((255 * colors).astype("uint8")).resize(image.size, Image.Resampling.NEAREST), (image.width, 0))
    picture.save(options.output)
    print(f"{options.output}: {features.shape[0]} x {features.shape[1]} patches of {patch} pixels, {features.shape[2]} channels")


if __name__ == "__main__":
    main()
