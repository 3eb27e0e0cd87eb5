"""Model soups: the average of the weights of several training runs."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_vit.checkpoints.loading import _variables
from keras_vit.training.results.predictions import predict_dataset
from keras_vit.training.weights import open_model
from keras_vit.vision_transformer import VisionTransformer

# Arguments in which the models may differ, because they change neither the meaning of a weight nor the outputs.
FREE = ("name", "dtype", "remat", "dropout_rate", "attention_dropout_rate", "drop_path_rate", "drop_path_schedule", "patch_dropout_rate")


def soup(models: Sequence[VisionTransformer | str | os.PathLike[str]], data: Any = None, batch_size: int = 32) -> VisionTransformer:
    """Averages the weights of models that were fine-tuned from the same weights.

    The result costs no more than one model at inference, and is often more accurate than each of the models. Without `data`, the soup is
    uniform: the average of all models. With `data`, it is greedy: starting from the most accurate model, each further model is added if
    the average with it is at least as accurate as without it. On `data`, a greedy soup is never less accurate than the best model.

    Args:
        models: sequence of two or more of: `VisionTransformer`, folder of a run, `.keras` file, or anything else that
            `keras_vit.from_pretrained` reads. Their arguments must be the same, except for dropout and the like. Files are opened one by
            one.
        data: labeled images that select the models of a greedy soup: a `keras_vit.data.Data`, whose validation images are used, or an
            iterable of batches `(images, labels)`. None makes a uniform soup. Defaults to None.
        batch_size: int. Batch size for the images of a `Data`. Defaults to 32.

    Returns:
        A `VisionTransformer`, not compiled, with the first model's arguments. Low-rank updates are merged into their kernels.

    Raises:
        ValueError: if there are fewer than two models, one is not a `VisionTransformer`, is quantized or differs from the first, or
            `data` can only be read once.

    Reference:
        Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference
        time", 2022, section 2.

    Example:
    >>> models = [keras_vit.VisionTransformer((32, 32, 3), 8, 64, 2, 4, 128, num_classes=10) for _ in range(3)]
    >>> keras_vit.soup(models).output_shape
    (None, 10)
    """
    models = _checked(models)
    if data is None:
        return average(models)
    return greedy(models, accuracy_on(data, batch_size))[0]


def average(models: Sequence) -> VisionTransformer:
    """Returns the uniform soup: a model whose weights are the mean over `models`, as in `soup`."""
    first = _opened(models[0])
    total = {path: _array(variable).astype("float64") for path, variable in _variables(first).items()}
    for source in models[1:]:
        other = _opened(source)
        _check_same(first, other, models[0], source)
        for path, variable in _variables(other).items():
            total[path] += _array(variable)
    result = first.adapt()
    for path, variable in _variables(result).items():
        variable.assign((total[path] / len(models)).astype("float32"))
    return result


def greedy(models: Sequence, score: Callable[[VisionTransformer], float]) -> tuple[VisionTransformer, list[dict]]:
    """Returns the greedy soup, and how it was selected.

    Args:
        models: as in `soup`.
        score: function that returns the score of a model. Larger is better.

    Returns:
        (soup, rows): the model; and a dict for each of `models`, best first, with its "number" in `models`, its own "score", whether it
        was "kept", and "soup", the score of the average with it.
    """
    first = _opened(models[0])
    scores = []
    for source in models:
        model = _opened(source)
        _check_same(first, model, models[0], source)
        scores.append(score(model))
    order = sorted(range(len(models)), key=lambda i: -scores[i])
    chosen, best, result = [order[0]], scores[order[0]], None
    rows = [{"number": order[0], "score": best, "kept": True, "soup": best}]
    for i in order[1:]:
        with_it = average([models[j] for j in (*chosen, i)])
        found = score(with_it)
        kept = found >= best
        rows.append({"number": i, "score": scores[i], "kept": kept, "soup": found})
        if kept:
            chosen, best, result = [*chosen, i], found, with_it
    return (_opened(models[order[0]]).adapt() if result is None else result), rows


def accuracy_on(data: Any, batch_size: int = 32) -> Callable[[VisionTransformer], float]:
    """Returns a function that computes a model's accuracy on `data`, as in `soup`."""
    names = getattr(data, "class_names", None)
    if hasattr(data, "splits"):
        data = data.splits["validation"].rebatch(batch_size)
    elif not isinstance(data, Iterable) or iter(data) is data:
        raise ValueError(
            "`data` must be a keras_vit.data.Data, or batches `(images, labels)` that can be iterated more than once, such as a "
            f"tf.data.Dataset or a list. Received: a {type(data).__name__}"
        )

    def accuracy(model):
        if not model.config.include_top or (names is not None and model.config.num_classes != len(names)):
            classes = f"{model.config.num_classes} classes" if model.config.include_top else "no head"
            raise ValueError(f"The models must classify `data`. Received: a model with {classes}, data with {len(names or ())} classes")
        found = predict_dataset(model, data, most_shown=1)
        return float(np.mean(found.probabilities.argmax(axis=-1) == found.labels))

    return accuracy


def _checked(models):
    if isinstance(models, (str, os.PathLike, keras.Model)) or len(models := list(models)) < 2:
        raise ValueError(f"A soup needs two or more models. Received: models={models!r}")
    return models


def _opened(source):
    """Returns the model of an entry of `models`, with low-rank updates merged."""
    model = open_model(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else source
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"The models of a soup must be VisionTransformers, or files of them. Received: a {type(model).__name__}")
    layers = list(model._flatten_layers())
    if any(layer.quantization_mode for layer in layers):
        raise ValueError(f"Quantized weights cannot be averaged: make the soup first, then quantize it. Received: {_name(source)}")
    return model.adapt() if any(getattr(layer, "lora_enabled", False) for layer in layers) else model


def _check_same(first, other, first_source, source):
    ours, theirs = first.config.to_dict(), other.config.to_dict()
    differ = [name for name in ours if name not in FREE and ours[name] != theirs[name]]
    if differ:
        listed = "; ".join(f"{name}={theirs[name]!r}, not {ours[name]!r}" for name in differ)
        raise ValueError(
            f"The models of a soup must have the same arguments. Received: {_name(source)} with {listed} as {_name(first_source)}"
        )


def _name(source):
    return source.name if isinstance(source, keras.Model) else os.fspath(source)


def _array(variable):
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32")))
