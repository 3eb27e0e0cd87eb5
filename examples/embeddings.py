"""What a model's features know of a data set: k-NN and linear probe, the nearest images of one, and all images in two dimensions.

    pip install ".[demo]"
    python examples/embeddings.py --weights DINOv2S14:lvd142m --data PETS --side 224 --output features
    python examples/embeddings.py --weights runs/quickstart --output runs/quickstart/features

`--weights` is a preset and a tag, the folder of a run, or anything that `keras_vit.from_pretrained` reads. Without it the model is random.
Features are written into the folder, from which the same command also resumes after a kill.
"""

import argparse
import pathlib

import keras_vit
import numpy as np
from keras_vit import features
from keras_vit.training.weights import open_model

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--weights")
parser.add_argument("--data", default="digits")
parser.add_argument("--side", type=int, help="pixels, which the patch divides; that of the model by default")
parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("features"))
arguments = parser.parse_args()

model = open_model(arguments.weights) if arguments.weights else keras_vit.ViTTi16()
if arguments.side:
    model = model.adapt(input_shape=(arguments.side, arguments.side, 3))

options = {"image_size": model.input_shape[1]}
data = keras_vit.data.load(arguments.data, batch_size=1, preprocessing=model.preprocessing, **options)
path = arguments.output / "features.npz"
if path.exists():
    index = features.read_features(path)
else:
    index = features.write_features(path, model, data, settings={"data": arguments.data, "data_options": options})

train, test, classes = index.splits == "train", index.splits == "test", len(index.class_names)
for name, probabilities in (("20-NN", features.knn_probabilities), ("linear probe", features.probe_probabilities)):
    scores = probabilities(index.features[train], index.labels[train], index.features[test], classes)
    print(f"{name}: test accuracy {np.mean(scores.argmax(axis=-1) == index.labels[test]):.3f}")

rows = [row["row"] for row in features.similar(index, index.features[test][0], k=10)]  # the first is the image itself
names = [index.class_names[index.labels[row]] for row in rows]
features.contact_sheet(features.images_of(index, rows), names).savefig(arguments.output / "similar.png")
axes = features.scatter(index.features, index.labels, index.class_names, lambda rows: features.images_of(index, rows))
axes.figure.savefig(arguments.output / "scatter.png")
