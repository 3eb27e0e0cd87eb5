"""Writes model cards: the README.md of a checkpoint, as the Hugging Face Hub reads it."""

import os
import pathlib
import re

from keras_vit.checkpoints import catalogue
from keras_vit.checkpoints.arguments import all_arguments
from keras_vit.checkpoints.recognition import FORMATS
from keras_vit.presets import PRESETS
from keras_vit.reading import read_json, read_toml
from keras_vit.version import __version__
from keras_vit.vision_transformer import VisionTransformer

README, MADE, HUB = "README.md", "Made with keras_vit", "hf://"
CARDS = {"huggingface": "transformers", "timm": "timm"}  # formats with a card, and the library that opens them
CONFIG, MODEL, RESULTS = "config.toml", "model.keras", "test.json"  # files in the folder of a run
METRICS = {"accuracy": "Accuracy", "top5_accuracy": "Top-5 accuracy", "calibration_error": "Calibration error"}
VALUES = ("epochs", "steps", "batch_size", "optimizer", "learning_rate", "layer_decay", "weight_decay", "augmentation")
LICENSES = ("apache-2.0", "mit", "cc-by-nc-4.0")  # licenses of published weights that have an identifier on the Hub
USE = {
    "keras_vit": 'import keras_vit  # pip install "keras-vit-zoo[tensorflow]"\n\nmodel = keras_vit.from_pretrained("{source}")',
    "transformers": 'import transformers\n\nmodel = transformers.{architecture}.from_pretrained("{place}")',
    "timm": 'import timm\n\nmodel = timm.create_model("{scheme}:{place}", pretrained=True)',
}
CONVERTED = """{library} reads another format: `keras-vit convert {source} {folder} --format {format}` writes it.

```python
{code}
```"""


def model_card(
    model: VisionTransformer,
    place: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    format: str = "huggingface",
    license: str | None = None,
) -> str:
    """Returns a model card: what the model is, what it was trained on, how good it is, and how to load it.

    Args:
        model: `VisionTransformer`.
        place: str or path-like. Where the model is stored: `hf://owner/name`, or a folder.
        source: str, path-like or None. The folder of the run that trained the model, or `MODEL:TAG`. Defaults to None, unknown.
        format: str. The format of the files: "huggingface", "timm" or "keras". Defaults to "huggingface".
        license: str or None. Identifier of the license. None means that of the published weights of `source`. Defaults to None.

    Returns:
        str. Markdown with a YAML header, as the Hub reads it.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 32, 3), 8, 64, 2, 4, 128, num_classes=10)
    >>> print(keras_vit.checkpoints.model_card(model, "hf://me/tiny").splitlines()[-1])
    ```
    """
    from huggingface_hub import EvalResult, ModelCardData

    c, name = model.config, _name(place)
    config, results = _run(source)
    base = _base(config, source)
    license, license_name = (license, None) if license or not base else _license(base)
    task = "image-classification" if c.include_top else "image-feature-extraction"
    dataset = pathlib.PurePath(config["data"]).name if "data" in config else None
    scores = [
        EvalResult(
            task_type=task, dataset_type=dataset, dataset_name=dataset, metric_type=key, metric_name=title, metric_value=results[key]
        )
        for key, title in METRICS.items()
        if dataset and key in results
    ]
    head = ModelCardData(
        license=license,
        license_name=license_name,
        library_name=CARDS.get(format, format),
        pipeline_tag=task,
        tags=["vision-transformer", "keras_vit"],
        base_model=base.source.removeprefix(HUB) if base and base.source.startswith(HUB) else None,
        model_name=name if scores else None,
        eval_results=scores or None,
    )
    rows, columns = c.image_size
    size = f"{rows} x {columns} pixels" if rows and columns else "images of any size that the patch divides"
    what = f"{c.num_classes} classes" if c.include_top else "no head: it gives features"
    parts = [
        f"# {name}",
        f"A Vision Transformer of {model.count_params():,} parameters for {size}, with {c.num_layers} blocks of width {c.hidden_dim}, "
        f"patches of {c.patch[0]} x {c.patch[1]} and {what}. {MADE} {__version__}.",
        *_training(config, dataset, base),
    ]
    if scores:
        parts += [
            f"## Results on {results['images']:,} test images",
            _table((METRICS[key], f"{results[key]:.4f}") for key in METRICS if key in results),
        ]
    if c.class_names:
        shown = ", ".join(c.class_names[:20]) + (f" and {len(c.class_names) - 20} more" if len(c.class_names) > 20 else "")
        parts += ["## Classes", f"{shown}."]
    return f"---\n{head.to_yaml()}\n---\n\n" + "\n\n".join([*parts, "## Use", *_use(model, place, format)]) + "\n"


def is_ours(readme: pathlib.Path) -> bool:
    """Returns whether a README.md may be replaced: it does not exist, or this package wrote it."""
    return not readme.exists() or MADE in readme.read_text(encoding="utf-8", errors="replace")


def _name(place):
    return pathlib.Path(place).absolute().name


def _license(base):
    """Returns a license as the Hub writes it: its identifier and None, or "other" and its name."""
    license = base.license.lower()
    return (license, None) if license in LICENSES else ("other", license)


def _run(source):
    """Returns the configuration and the test results of a run, of its folder or model file; empty dicts for anything else."""
    folder = pathlib.Path(source or "").expanduser()
    folder = folder.parent if folder.name == MODEL else folder
    if source is None or not all((folder / name).is_file() for name in (CONFIG, MODEL)):
        return {}, {}
    results = folder / RESULTS
    config = read_toml(folder / CONFIG, "The config of a run")
    return config, read_json(results, "The results of a run") if results.is_file() else {}


def _base(config, source):
    """Returns the catalogue's row of the weights that training started from, or of the model's own; None if the catalogue lacks them."""
    name, weights = (config.get("model"), config.get("weights")) if config else (None, str(source))
    if not config and (named := re.fullmatch(r"(\w{2,}):(\w+)", weights)):
        name, weights = named.groups()
    if name in PRESETS and weights in {"imagenet", *(row.tag for row in catalogue.CATALOGUE if row.model == name)}:
        weights = catalogue.source(name, weights)["source"]
    return catalogue.find(weights)


def _training(config, dataset, base):
    weights = config.get("weights")
    if base:
        began = f"the published weights `{base.tag}` of {base.model} ({base.source}), whose license is {base.license}"
    elif weights:
        began = f"`{pathlib.PurePath(weights).name}`. The license of these weights is unknown: ask their authors before you use the model"
    else:
        began = "random weights" if config else None
    if not config:
        return [f"The weights are {began}."] if base else []
    values = {key: config["training"][key] for key in VALUES if key in config.get("training", {})}
    recipe = f" by the recipe `{config['recipe']}`" if "recipe" in config else ""
    table = [_table((key.replace("_", " "), value) for key, value in values.items())] if values else []
    return ["## Training", f"Trained on {dataset or 'unknown data'}{recipe}, from {began}.", *table]


def _use(model, place, format):
    """Returns how to load the model with each library: from its place, or from a folder that another command writes."""
    there, hub = os.fspath(place), os.fspath(place).startswith(HUB)
    name = there.removeprefix(HUB) if hub else _name(place)
    source = (there if hub else name) + (f"/{MODEL}" if format == "keras" else "")
    architecture = "AutoModelForImageClassification" if model.config.include_top else "AutoModel"

    def code(library, place, scheme):
        return USE[library].format(source=source, place=place, scheme=scheme, architecture=architecture)

    parts = [] if hub else [f"`{name}` is this folder: give its path."]
    parts.append(f"```python\n{code('keras_vit', name, '')}\n```")
    for theirs, library in CARDS.items():
        if format == theirs:
            parts.append(f"```python\n{code(library, name, 'hf-hub' if hub else 'local-dir')}\n```")
        elif _fits(model, theirs):
            folder = f"for_{library}"
            parts.append(
                CONVERTED.format(library=library, source=source, folder=folder, format=theirs, code=code(library, folder, "local-dir"))
            )
    return parts


def _fits(model, format):
    """Returns whether another library's format can hold a model."""
    try:
        return not FORMATS[format].lacks(all_arguments(model))
    except ValueError:  # the model pads its images
        return False


def _table(rows):
    return "\n".join(["| | |", "| --- | ---: |", *(f"| {key} | {value} |" for key, value in rows)])
