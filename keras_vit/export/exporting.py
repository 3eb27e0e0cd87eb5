"""Writes a model for another runtime, runs the file there on real images, and compares it with Keras."""

import dataclasses
import json
import os
import pathlib
import shutil
import time

import keras
import numpy as np

from keras_vit.backbone import of_images
from keras_vit.data.preprocessing import INTERPOLATIONS
from keras_vit.export import predict_exported
from keras_vit.export.formats import FORMATS
from keras_vit.export.images import as_input, photographs
from keras_vit.export.quantization import CALIBRATED
from keras_vit.files import replacing, require_space
from keras_vit.layers import checks
from keras_vit.version import __version__
from keras_vit.vision_transformer import VisionTransformer

# Largest allowed difference of an output, relative to the largest output.
BOUNDS = {"float32": 1e-4, "half": 0.05, "int8": 0.3}
OUTPUTS = {None: "logits", "linear": "logits", "softmax": "probabilities"}  # activation of the head -> kind of outputs
SECONDS = 1.0  # duration of the speed measurement


@dataclasses.dataclass(frozen=True)
class Check:
    """The comparison of an exported model with the model in Keras, on the same images.

    Attributes:
        difference: float. Largest difference of an output, relative to the largest output.
        bound: float. Largest allowed `difference`.
        agreement: float or None. Share of the images for which both predict the same class; None for features.
        images: int. Number of images.
        size: int. Size of the model's files in bytes.
        images_per_second: float. Speed in the runtime, on this machine.
    """

    difference: float
    bound: float
    agreement: float | None
    images: int
    size: int
    images_per_second: float


def export_model(
    model: VisionTransformer,
    path: str | os.PathLike[str],
    format: str,
    precision: str = "float32",
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
    include_preprocessing: bool | None = None,
    images: np.ndarray | None = None,
    class_names: list[str] | tuple[str, ...] | None = None,
    force: bool = False,
) -> Check:
    """Exports a model into a folder, and checks the exported file in its runtime.

    The folder holds the model's file, `model.json` (class names, input, preprocessing, versions) and `predict_exported.py`, which
    classifies images with only these files. The folder is only created if the outputs of the exported file agree with the model's.

    Args:
        model: a `VisionTransformer`.
        path: str or path-like. New folder.
        format: "saved_model" (TensorFlow, TensorFlow Serving), "onnx" (onnxruntime), "openvino", "litert" (TensorFlow Lite) or "torch"
            (`torch.export`).
        precision: "float32", whatever the model's own; "half", which halves the file; or "int8", which quarters it. Defaults to
            "float32".
        dynamic_batch: bool. Whether the file accepts batches of any size, or of one image. Defaults to True.
        dynamic_size: bool. Whether the file accepts images of any size that the patch divides. Defaults to False.
        include_preprocessing: bool or None. Whether the file accepts pixels from 0 to 255 and normalizes them itself. Defaults to None, as
            the model.
        images: array `(n, rows, columns, channels)` of pixels from 0 to 255, or None. Images for the check, and for the ranges of "int8" in
            OpenVINO. Defaults to None, 18 crops of scikit-learn's photographs.
        class_names: sequence of str or None. Names of the outputs. Defaults to None, the model's.
        force: bool. Whether to replace the folder if it exists. Defaults to False.

    Returns:
        A `Check`.

    Raises:
        ValueError: if an argument is wrong, the backend cannot write the format, or the exported file differs from the model.
        ImportError: if a package is missing; it names the extra that installs it.

    Example:
    >>> check = keras_vit.export.export_model(model, "exported", "onnx")  # doctest: +SKIP
    >>> check.difference < check.bound  # doctest: +SKIP
    True
    """
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"`model` must be a VisionTransformer. Received: model={model}")
    of_images(model)
    checks.one_of("format", format, FORMATS)
    checks.one_of("precision", precision, BOUNDS)
    form, path = FORMATS[format], pathlib.Path(path).expanduser()
    if path.exists() and not force:
        raise ValueError(f"The folder must be new; `force=True` replaces it. Received: path={path}")
    form.require(format, precision)
    model = _changed(model, dynamic_size, include_preprocessing)
    images = photographs(model) if images is None else as_input(model, images)
    spec = keras.InputSpec(shape=(None if dynamic_batch else 1, *model.input_shape[1:]), dtype="float32", name="images")
    require_space(path, 8 * model.count_params())
    with replacing(path) as folder:
        folder.mkdir()
        about = _about(model, format, precision, spec, class_names)
        form.write(model, folder / form.file, spec, precision, images)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        shutil.copyfile(predict_exported.__file__, folder / "predict_exported.py")
        _write(folder, about)
        check = _check(folder, model, images, dynamic_batch, dynamic_size, BOUNDS[precision], size)
        if not check.difference <= check.bound:
            advice = ". Give `images` like those that the model is for, or export its run" if (format, precision) in CALIBRATED else ""
            raise ValueError(
                f"The exported model differs from the model by {check.difference:.1e} of the largest output; at most {check.bound:.0e} is "
                f"allowed. Nothing was written. Received: format={format!r}, precision={precision!r}{advice}"
            )
        _write(folder, about | {"check": dataclasses.asdict(check)})
    return check


def _changed(model, dynamic_size, include_preprocessing):
    changes = {}
    quantized = any(layer.quantization_mode for layer in model._flatten_layers())  # they keep their precision
    if not quantized and keras.dtype_policies.get(model.config.dtype).compute_dtype != "float32":
        changes["dtype"] = "float32"  # runtimes have no convolution in bfloat16, and `precision` says what the file is
    if dynamic_size and None not in model.input_shape[1:]:
        first = model.config.data_format == "channels_first"
        changes["input_shape"] = (model.input_shape[1], None, None) if first else (None, None, model.input_shape[-1])
        if model.config.position_embedding == "learned":
            changes["position_grid"] = model.config.table_grid  # exact at the size of the model
    if include_preprocessing is not None and include_preprocessing != model.config.include_preprocessing:
        changes["include_preprocessing"] = include_preprocessing
    if not dynamic_size and None in model.input_shape[1:]:
        raise ValueError(f"A model with an open input size needs `dynamic_size=True`. Received: an input of shape {model.input_shape[1:]}")
    return model.adapt(**changes) if changes else model


def _about(model, format, precision, spec, class_names):
    """Returns the content of `model.json`."""
    c, form = model.config, model.preprocessing
    first = c.data_format == "channels_first"
    sides = model.input_shape[2:] if first else model.input_shape[1:3]
    activation = c.to_dict()["classifier_activation"]
    outputs = OUTPUTS.get(activation, "scores") if c.include_top else "features"
    class_names = class_names or model.class_names
    return {
        "format": format,
        "file": FORMATS[format].file,
        "precision": precision,
        "model": {"name": model.name, "parameters": model.count_params()},
        "versions": {"keras_vit": __version__, "keras": keras.__version__, "backend": keras.backend.backend()},
        "input": {"name": "images", "shape": list(spec.shape), "dtype": "float32"},
        "output": {"name": FORMATS[format].output, "shape": [spec.shape[0], *model.output_shape[1:]]},
        "outputs": outputs,
        "class_names": list(class_names) if class_names and c.include_top else None,
        "preprocessing": {
            "size": [form["size"] or 224 if side is None else side for side in sides],
            "channels": c.channels,
            "channels_first": first,
            "filter": INTERPOLATIONS[form["interpolation"]],
            "crop_fraction": form["crop_fraction"],
            "crop_mode": form["crop_mode"],
            "normalize": not c.include_preprocessing,
            "mean": np.ravel(form["mean"]).tolist(),
            "std": np.ravel(form["std"]).tolist(),
        },
    }


def _write(folder, about):
    (folder / "model.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _check(folder, model, images, dynamic_batch, dynamic_size, bound, size):
    """Runs the exported file by `predict_exported.py`, as users do: on all images at once, on one image, and at another size."""
    run, _ = predict_exported.load(folder)
    sets = [images, images[:1]]
    if dynamic_size:
        first = model.config.data_format == "channels_first"
        side = model.config.stride * checks.positive_pair("patch_size", model.config.patch_size)[1]
        sets.append(np.concatenate([images, images[..., :side] if first else images[:, :, :side]], axis=-1 if first else 2)[:2])

    def exported(images):
        return run(images) if dynamic_batch else np.concatenate([run(image[None]) for image in images])

    differences = []
    for number, each in enumerate(sets):
        expected, found = np.asarray(keras.ops.convert_to_numpy(model.predict_on_batch(each)), "float32"), exported(each)
        if found.shape != expected.shape:
            raise ValueError(f"The exported model returns the shape {found.shape}, and the model {expected.shape}. Nothing was written")
        differences.append(float(np.abs(found - expected).max() / np.abs(expected).max()))
        if number == 0:
            agreement = float((found.argmax(-1) == expected.argmax(-1)).mean()) if model.config.include_top else None
    return Check(float(np.max(differences)), bound, agreement, len(images), size, _speed(exported, images))


def _speed(exported, images):
    times, begun = [], time.perf_counter()
    while not times or time.perf_counter() - begun < SECONDS:
        start = time.perf_counter()
        exported(images)
        times.append(time.perf_counter() - start)
    return len(images) / min(times)
