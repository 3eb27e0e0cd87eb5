"""`keras-vit export`: exports a model for another runtime, and checks it there."""

import enum
import importlib.util
import os
import pathlib
import sys
from typing import Annotated

import typer

from keras_vit_cli.console import check_new_file, quiet
from keras_vit_cli.models import FORCE, SOURCES, config_of, data_of, open_data, open_model
from keras_vit_cli.predict import labels_of

VALIDATION_IMAGES = 64
PHOTOGRAPHS = "crops of photographs"
BACKENDS = {"openvino": "openvino", "torch": "torch"}  # format -> Keras backend that writes it, unless KERAS_BACKEND is set
BACKEND = "tensorflow"  # of the other formats


class Format(enum.StrEnum):
    SAVED_MODEL = "saved_model"
    ONNX = "onnx"
    OPENVINO = "openvino"
    LITERT = "litert"
    TORCH = "torch"


def export(
    source: Annotated[str, typer.Argument(help=f"{SOURCES}.")],
    output: Annotated[pathlib.Path, typer.Argument(help="New folder.")],
    format: Annotated[Format, typer.Option(help="Runtime: TensorFlow Serving, onnxruntime, OpenVINO, LiteRT, or torch.export.")],
    dynamic_batch: Annotated[bool, typer.Option(help="Accept batches of any size, or of one image.")] = True,
    dynamic_size: Annotated[bool, typer.Option(help="Accept images of any size that the patch divides, or of the model's size.")] = False,
    include_preprocessing: Annotated[
        bool | None, typer.Option(help="Accept pixels from 0 to 255, or normalized images. [default: as the model]")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Half precision: half the size.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="8 bits: a quarter of the size.")] = False,
    force: Annotated[bool, typer.Option("--force", help=FORCE)] = False,
):
    """Exports a model and checks it.

    Writes the exported file, model.json (class names, input, preprocessing), and predict_exported.py, which does not need keras_vit, into
    a folder. The file is run in its runtime, on validation images of the run or on photographs, and compared with the model. The folder is
    only written if they agree.
    """
    if half and int8:
        raise ValueError("`--half` and `--int8` exclude each other")
    check_new_file(output, force)
    backend = BACKENDS.get(format.value, BACKEND)
    if importlib.util.find_spec(backend):
        os.environ.setdefault("KERAS_BACKEND", backend)
    with quiet():
        from keras_vit.export import FORMATS, export_model

        precision = "half" if half else "int8" if int8 else "float32"
        FORMATS[format.value].require(format.value, precision)  # before the model is loaded, or downloaded
    model = open_model(source)
    images, of = validation_images(source, model)
    labels = labels_of(model, config_of(source).get("class_names")) if model.config.include_top else []
    names = [label["label"] for label in labels]
    check = export_model(
        model,
        output,
        format.value,
        precision,
        dynamic_batch,
        dynamic_size,
        include_preprocessing,
        images,
        None if names == list(map(str, range(len(names)))) else names,
        force,
    )
    print(f"{output}: {format.value}, {precision}, {check.size / 1e6:,.1f} MB, {check.images_per_second:,.0f} images/s")
    agreement = "" if check.agreement is None else f", the same class in {check.agreement:.1%}"
    print(f"Checked on {check.images} {of}: largest difference {check.difference:.1e} (at most {check.bound:.0e}){agreement}")


def validation_images(source, model):
    """Returns validation images of a run and a description of them; None for the package's own photographs."""
    run = config_of(source)
    if not run or importlib.util.find_spec("tensorflow") is None:
        return None, PHOTOGRAPHS
    try:
        data, _ = open_data(source, model, data_of(source))
    except ValueError as error:
        print("keras-vit:", *str(error).split(), file=sys.stderr)
        return None, PHOTOGRAPHS
    import numpy as np

    images = [images.numpy() for images, _ in data.validation.take(VALIDATION_IMAGES)]
    return np.concatenate(images), f"validation images of {run['data']}"
