"""Draws photographs, the attention of the class token, and the similarity of patches in one picture.

    pip install ".[demo]"
    python examples/explain.py --weights DINOv2S14:lvd142m --output explained.png cat.jpg cup.jpg
    python examples/explain.py --weights runs/quickstart --patches 8 runs/quickstart/0.png runs/quickstart/1.png

`--weights` is a preset and a tag, the folder of a run, or anything that `keras_vit.from_pretrained` reads. Without it, the model and its
attention are random. The maps of DINOv2 are the clearest. Without files, the photographs are the two of scikit-learn.
"""

import argparse

import keras_vit
import numpy as np
from keras_vit import visualize
from keras_vit.data import evaluation_transform
from keras_vit.training.weights import open_model
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_images

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("images", nargs="*")
parser.add_argument("--weights")
parser.add_argument("--patches", type=int, default=26, help="along a side of the image; the more, the finer the maps")
parser.add_argument("--block", type=int, default=-1, help="the block whose attention is shown")
parser.add_argument("--output", default="explained.png")
arguments = parser.parse_args()

model = open_model(arguments.weights) if arguments.weights else keras_vit.ViTTi16()
side = arguments.patches * model.config.patch[0]
model = model.adapt(input_shape=(side, side, 3))

images = np.stack([evaluation_transform(model)(image) for image in arguments.images or load_sample_images().images])
attention = 100 * visualize.attention_maps(model, images, blocks=arguments.block)[:, 0].mean(axis=1)  # mean of the heads
features = visualize.patch_components(model, images)  # of the last block, on axes that all images share
low, high = np.percentile(features, (1, 99), axis=(0, 1, 2))
colors = ((features - low) / (high - low)).clip(0, 1)

figure = Figure(figsize=(2.4 * len(images) + 0.3, 7.4), dpi=100, layout="constrained")
figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
rows = figure.subplots(3, len(images), squeeze=False)
for column, image in enumerate(images):
    rows[0, column].imshow(image.clip(0, 255).astype("uint8"))
    visualize.overlay(image, attention[column], rows[1, column], colorbar=False)
    rows[2, column].imshow(colors[column], interpolation="nearest")
for axes, label in zip(rows[:, 0], ("image", "attention", "features")):
    axes.set_ylabel(label, fontsize=17)
for axes in rows.flat:
    axes.axis("on")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
figure.savefig(arguments.output)
print(f"{arguments.output}: {len(images)} images of {side} x {side} pixels, {arguments.patches} x {arguments.patches} patches")
