"""Classifies images with an exported model, without keras_vit.

    python predict_exported.py IMAGE ...

It needs NumPy, Pillow and the runtime of the format that `model.json` names: tensorflow, onnxruntime, openvino, ai-edge-litert or torch.
"""

import argparse
import json
import math
import os
import pathlib

import numpy as np
from PIL import Image, ImageOps


def load(folder):
    """Opens an exported model.

    Args:
        folder: str or path-like. Folder with `model.json` and the model's file.

    Returns:
        (run, about): a function that takes images, a float32 array `(batch, *input shape)`, and returns an array of outputs; and
        `model.json` as a dict.
    """
    folder = pathlib.Path(folder)
    about = json.loads((folder / "model.json").read_text("utf-8"))
    return RUNTIMES[about["format"]](str(folder / about["file"])), about


def saved_model(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]
    (name,) = serve.structured_input_signature[1]

    def run(images, loaded=loaded):  # keeps the model alive: the signature does not
        return next(iter(serve(**{name: tf.constant(images)}).values())).numpy()

    return run


def onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def openvino(path):
    import openvino

    # float32, even if the processor is faster in bfloat16: remove the hint for speed.
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: model(images)[0]


def litert(path):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=os.cpu_count())
    entry, result = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    shape = None

    def run(images):
        nonlocal shape
        if images.shape != shape:
            interpreter.resize_tensor_input(entry, images.shape)
            interpreter.allocate_tensors()
            shape = images.shape
        interpreter.set_tensor(entry, images)
        interpreter.invoke()
        return interpreter.get_tensor(result)

    return run


def torch(path):
    import torch

    module = torch.export.load(path).module()

    def run(images):
        with torch.inference_mode():
            return module(torch.from_numpy(images)).float().numpy()

    return run


RUNTIMES = {"saved_model": saved_model, "onnx": onnx, "openvino": openvino, "litert": litert, "torch": torch}


def prepare(image, about):
    """Returns an image as input of the model, resized and cropped as in the evaluation of its weights.

    Args:
        image: `PIL.Image.Image`.
        about: dict, the content of `model.json`.
    """
    form = about["preprocessing"]
    rows, columns = form["size"]
    image = ImageOps.exif_transpose(image).convert("RGB" if form["channels"] == 3 else "L")
    # The tiny addend undoes the rounding error of fractions such as 224 / 248.
    least = [float(math.floor(side / form["crop_fraction"] + 1e-6)) for side in (rows, columns)]
    height, width = least
    if form["crop_mode"] == "center":
        whole = np.floor if height == width else np.round
        height = max(whole(least[1] * image.height / image.width), least[0])
        width = max(whole(least[0] * image.width / image.height), least[1])
    top, left = int(np.round((height - rows) / 2)), int(np.round((width - columns) / 2))
    image = image.resize((int(width), int(height)), Image.Resampling[form["filter"]])
    pixels = np.asarray(image.crop((left, top, left + columns, top + rows)), "float32").reshape(rows, columns, form["channels"])
    if form["normalize"]:
        pixels = (pixels / np.float32(255.0) - np.float32(form["mean"])) / np.float32(form["std"])
    return np.transpose(pixels, (2, 0, 1)) if form["channels_first"] else pixels


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", help="image files")
    parser.add_argument(
        "--model", default=pathlib.Path(__file__).resolve().parent, help="folder of the exported model (default: this file's)"
    )
    parser.add_argument("--top", type=int, default=5, help="number of classes to print for each image")
    arguments = parser.parse_args()
    run, about = load(arguments.model)
    for path in arguments.images:
        with Image.open(path) as image:
            outputs = run(prepare(image, about)[None])[0].astype("float64")
        print(path)
        if about["outputs"] == "features":
            print(" ", *(f"{value:.4f}" for value in outputs.ravel()[: arguments.top]), "...")
            continue
        if about["outputs"] == "logits":
            outputs = np.exp(outputs - outputs.max())
            outputs /= outputs.sum()
        for number in np.argsort(-outputs, kind="stable")[: arguments.top]:
            names = about["class_names"]
            print(f"  {outputs[number]:.4f}  {names[number] if names else number}")


if __name__ == "__main__":
    main()
