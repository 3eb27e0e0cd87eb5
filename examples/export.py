"""Exports a model in float32, half precision and 8 bits, and classifies photographs with the files, without Keras.

    python examples/export.py --weights runs/digits --output exported
    python examples/export.py --weights ViTS16:augreg_in21k_ft_in1k --format openvino --output exported photograph.jpg

It needs what the format's runtime needs: pip install "keras-vit-zoo[export]" for onnx, "[openvino-int8]", or "[litert]".
"""

import argparse
import pathlib

import keras_vit
import numpy as np
from keras_vit.export import predict_exported
from keras_vit.training.weights import open_model
from PIL import Image


def photographs(paths):
    """Returns the images of files, or scikit-learn's two photographs."""
    if paths:
        return [Image.open(path) for path in paths]
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(image) for image in load_sample_images().images]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="*", type=pathlib.Path)
    parser.add_argument("--weights", default="ViTS16:augreg_in21k_ft_in1k", help="MODEL:TAG, a run's folder, or a file of weights")
    parser.add_argument("--format", default="onnx", choices=("onnx", "openvino", "litert"))
    parser.add_argument("--precisions", nargs="+", default=["float32", "half", "int8"], choices=("float32", "half", "int8"))
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("exported"))
    options = parser.parse_args()

    model, images = open_model(options.weights), photographs(options.images)
    folders = []
    for precision in options.precisions:
        folders.append(options.output / f"{options.format}-{precision}")
        # The file is run in its runtime and compared with the model, before the folder appears.
        check = keras_vit.export.export_model(model, folders[-1], options.format, precision, force=True)
        same = "" if check.agreement is None else f", the same class in {check.agreement:.0%} of {check.images} images"
        size, speed = f"{check.size / 1e6:.2f} MB", f"{check.images_per_second:,.0f} images/s"
        print(f"{folders[-1].name}: {size}, {speed}, largest difference {check.difference:.1e}{same}")

    # From here on nothing needs Keras: `predict_exported.py` lies in each folder, to be copied.
    for folder in folders:
        run, about = predict_exported.load(folder)
        outputs = run(np.stack([predict_exported.prepare(image, about) for image in images]))
        names = about["class_names"] or range(outputs.shape[-1])
        print(f"{folder.name}:", ", ".join(f"{names[best]} ({row[best]:.3f})" for row, best in zip(outputs, outputs.argmax(axis=-1))))


if __name__ == "__main__":
    main()
