"""Sharing a model on the Hugging Face Hub: its files, its model card, the upload."""

import contextlib
import json
import os
import pathlib
import re
import tempfile
from collections.abc import Callable
from typing import Any

from keras_vit.checkpoints import catalogue, save
from keras_vit.checkpoints.recognition import FORMATS
from keras_vit.checkpoints.saving import _arguments
from keras_vit.layers import checks
from keras_vit.presets import PRESETS
from keras_vit.training.folder import CONFIG, MODEL
from keras_vit.training.settings import read_config
from keras_vit.training.weights import open_model
from keras_vit.version import __version__
from keras_vit.vision_transformer import VisionTransformer

REPOSITORY = re.compile(r"hf://([\w-][\w.-]*/[\w-][\w.-]*)")
SHARED = ("huggingface", "timm", "keras")  # formats whose files a repository of the Hub holds
METRICS = {"accuracy": "Accuracy", "top5_accuracy": "Top-5 accuracy", "calibration_error": "Calibration error"}
VALUES = ("epochs", "steps", "batch_size", "optimizer", "learning_rate", "layer_decay", "weight_decay", "augmentation")  # in a card
USE = {
    "keras_vit": 'import keras_vit  # pip install "keras-vit-zoo[tensorflow]"\n\nmodel = keras_vit.from_pretrained("{source}")',
    "transformers": 'import transformers\n\nmodel = transformers.{architecture}.from_pretrained("{repository}")',
    "timm": 'import timm\n\nmodel = timm.create_model("hf-hub:{repository}", pretrained=True)',
}
CONVERTED = """{library} reads another format: `keras-vit convert {source} {folder} --format {format}` writes it.

```python
{code}
```"""


def push(
    source: str | os.PathLike[str] | VisionTransformer,
    repository: str,
    format: str = "huggingface",
    private: bool = True,
    license: str | None = None,
    overwrite: bool | Callable[[list[str]], bool] = False,
) -> str:
    """Uploads a model and its card to the Hugging Face Hub, in one commit.

    It needs a token that may write: `hf auth login`, or the environment variable `HF_TOKEN`.

    Args:
        source: str, path-like or `VisionTransformer`. The folder of a run, whose data, recipe and results go into the card; or whatever
            else `keras-vit predict --model` takes.
        repository: str, `hf://owner/name`. It is created if it does not exist.
        format: str. "huggingface" (transformers), "timm" or "keras", which holds every model. Defaults to "huggingface".
        private: bool. Whether a new repository is private; one that exists stays as it is. Defaults to True.
        license: str or None. Identifier of the license, such as "apache-2.0". None takes that of the published weights that training
            began from. Defaults to None.
        overwrite: bool, or function of a list of file names. Whether files that are in the repository are replaced. Defaults to False.

    Returns:
        The repository's URL.

    Raises:
        ValueError: if the repository holds files that would be replaced, its name or the format is wrong, the format cannot hold the
            model, or the Hub refuses the token.
        ConnectionError: if the Hub cannot be reached.

    Example:
    >>> keras_vit.training.push("runs/pets", "hf://me/vit-pets")  # doctest: +SKIP
    """
    import huggingface_hub

    if not (match := REPOSITORY.fullmatch(str(repository))):
        raise ValueError(f"`repository` must read `hf://owner/name`. Received: {repository}")
    checks.one_of("format", format, SHARED)
    model = source if isinstance(source, VisionTransformer) else open_model(os.fspath(source))
    api = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="keras_vit", library_version=__version__)
    with tempfile.TemporaryDirectory() as folder:
        write_repository(model, folder, repository, source if model is not source else None, format, license)
        files = {path.name for path in pathlib.Path(folder).iterdir()}
        with _hub_errors(repository):
            exists = api.repo_exists(match[1])
            there = sorted(files & set(api.list_repo_files(match[1]))) if exists else []
        if there and not (overwrite(there) if callable(overwrite) else overwrite):
            raise ValueError(
                f"The repository has files that would be replaced: {', '.join(there)}. `overwrite=True` replaces them. "
                f"Received: {repository}"
            )
        with _hub_errors(repository):
            url = f"{api.endpoint}/{match[1]}" if exists else api.create_repo(match[1], private=private).url
            api.upload_folder(repo_id=match[1], folder_path=folder, commit_message=f"Upload a model of keras_vit {__version__}")
    return str(url)


def write_repository(model: VisionTransformer, folder: Any, repository: str, source: Any, format: str, license: str | None) -> None:
    """Writes the files of a repository: the model in a format, and README.md, its card. Arguments as in `push`."""
    folder = pathlib.Path(folder)
    if format == "keras":
        model.save(folder / MODEL)
    else:
        save(model, folder, format)
    (folder / "README.md").write_text(model_card(model, repository, source, format, license), encoding="utf-8")


def model_card(
    model: VisionTransformer, repository: str, source: Any = None, format: str = "huggingface", license: str | None = None
) -> str:
    """Returns a model card: what the model is, what it was trained on, how good it is, and how to load it.

    Args:
        model: `VisionTransformer`.
        repository: str, `hf://owner/name`.
        source: str, path-like or None. The folder of the run that trained the model, or MODEL:TAG. Defaults to None, nothing is known.
        format: str. The format of the files, as in `push`. Defaults to "huggingface".
        license: str or None. As in `push`. Defaults to None.

    Returns:
        Markdown with a head in YAML, as the Hub reads it.

    Example:
    >>> model = keras_vit.VisionTransformer((32, 32, 3), 8, 64, 2, 4, 128, num_classes=10)
    >>> print(model_card(model, "hf://me/tiny").splitlines()[-1])
    ```
    """
    from huggingface_hub import EvalResult, ModelCardData

    name, c = repository.removeprefix("hf://"), model.config
    config, results = _run(source)
    base = _base(config, source)
    license = license or (base.license.lower() if base else None)
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
        library_name={"huggingface": "transformers"}.get(format, format),
        pipeline_tag=task,
        tags=["vision-transformer", "keras_vit"],
        base_model=base.source.removeprefix("hf://") if base and base.source.startswith("hf://") else None,
        model_name=name.partition("/")[2] if scores else None,
        eval_results=scores or None,
    )
    rows, columns = c.image_size
    size = f"{rows} x {columns} pixels" if rows and columns else "images of any size that the patch divides"
    what = f"{c.num_classes} classes" if c.include_top else "no head: it gives features"
    parts = [
        f"# {name.partition('/')[2]}",
        f"A Vision Transformer of {model.count_params():,} parameters for {size}, with {c.num_layers} blocks of width {c.hidden_dim}, "
        f"patches of {c.patch[0]} x {c.patch[1]} and {what}. Made with keras_vit {__version__}.",
        *_training(config, dataset, base, license),
    ]
    if scores:
        parts += [
            f"## Results on {results['images']:,} test images",
            _table((METRICS[key], f"{results[key]:.4f}") for key in METRICS if key in results),
        ]
    if c.class_names:
        shown = ", ".join(c.class_names[:20]) + (f" and {len(c.class_names) - 20} more" if len(c.class_names) > 20 else "")
        parts += ["## Classes", f"{shown}."]
    return f"---\n{head.to_yaml()}\n---\n\n" + "\n\n".join([*parts, "## Use", *_use(model, name, format)]) + "\n"


def _run(source):
    """Returns the configuration and the test results of a run's folder; empty dicts for anything else."""
    folder = pathlib.Path(source or "").expanduser()
    if source is None or not (folder / CONFIG).is_file():
        return {}, {}
    results = folder / "test.json"
    return read_config(folder), json.loads(results.read_text("utf-8")) if results.is_file() else {}


def _base(config, source):
    """Returns the catalogue's row of the weights that training began from, or that the model is; None if they are none of it."""
    name, weights = (config.get("model"), config.get("weights")) if config else (None, str(source))
    if not config and (named := re.fullmatch(r"(\w{2,}):(\w+)", weights)):
        name, weights = named.groups()
    if name in PRESETS and weights in {"imagenet", *(row.tag for row in catalogue.CATALOGUE if row.model == name)}:
        weights = catalogue.source(name, weights)["source"]
    return catalogue.find(weights)


def _training(config, dataset, base, license):
    weights = config.get("weights")
    if base:
        began = f"the published weights `{base.tag}` of {base.model} ({base.source}), whose license is {base.license}"
    elif weights:
        began = f"`{pathlib.PurePath(weights).name}`. The license of these weights is not known here: ask their authors before you use them"
    else:
        began = "random weights" if config else None
    if not config:
        return [f"The weights are {began}."] if base else []
    values = {key: config["training"][key] for key in VALUES if key in config.get("training", {})}
    lines = [f"Trained on {dataset} by the recipe `{config['recipe']}`, from {began}."]
    return ["## Training", *lines, _table((key.replace("_", " "), value) for key, value in values.items())]


def _use(model, name, format):
    source = f"hf://{name}" + (f"/{MODEL}" if format == "keras" else "")
    architecture = "AutoModelForImageClassification" if model.config.include_top else "AutoModel"
    code = {library: text.format(source=source, repository=name, architecture=architecture) for library, text in USE.items()}
    parts = [f"```python\n{code['keras_vit']}\n```"]
    for library, theirs in (("transformers", "huggingface"), ("timm", "timm")):
        if format == theirs:
            parts.append(f"```python\n{code[library]}\n```")
        elif _fits(model, theirs):
            folder = f"for_{library}"
            there = code[library].replace(f"hf-hub:{name}", f"local-dir:{folder}").replace(f'"{name}"', f'"{folder}"')
            parts.append(CONVERTED.format(library=library, source=source, folder=folder, format=theirs, code=there))
    return parts


def _fits(model, format):
    """Returns whether another library's format can hold a model."""
    try:
        return not FORMATS[format].lacks(_arguments(model))
    except ValueError:  # the model pads its images
        return False


def _table(rows):
    return "\n".join(["| | |", "| --- | ---: |", *(f"| {key} | {value} |" for key, value in rows)])


@contextlib.contextmanager
def _hub_errors(repository):
    """Turns the Hub's errors into those of this package."""
    from huggingface_hub import errors

    try:
        yield
    except Exception as error:  # the HTTP library beneath differs between versions of huggingface_hub, and so do its errors
        if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
            why = "The Hub refuses: a token that may write there is needed (`hf auth login`)"
            raise ValueError(f"{why}. Received: {repository}") from error
        raise ConnectionError(f"The upload to the Hub failed: {' '.join(str(error).split())} Received: {repository}") from error
