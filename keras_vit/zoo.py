"""The zoo: a function for each preset, which builds the model with new or pretrained weights."""

import inspect
import os
from typing import Any

from keras_vit.checkpoints import catalogue, pretrained
from keras_vit.config import FIELDS, ViTConfig
from keras_vit.presets import PRESETS
from keras_vit.vision_transformer import VisionTransformer


def create(model: str, /, weights: str | os.PathLike[str] | None = None, **overrides: Any) -> VisionTransformer:
    """Builds the model of a preset.

    Args:
        model: str, the preset's name, see `keras_vit.list_models`.
        weights: None for newly initialized weights; a tag of `keras_vit.list_weights(model)`; or a file, a folder,
            `hf://owner/repository[@revision]` or an https URL with weights in any format that `keras_vit.from_pretrained` reads, or our
            own `.weights.h5`.
        **overrides: arguments of `VisionTransformer` that override those of the preset and the weights. `num_classes` adds a head to a
            preset without one. A head for another number of classes than the weights' starts at zero.

    Returns:
        A `VisionTransformer`.

    Raises:
        ValueError: if the preset is unknown, the weights are unknown or belong to another model, or an argument is wrong.
    """
    arguments = catalogue.find_preset(model)
    overrides = {"name": model.lower(), **overrides}
    if weights is not None:
        return pretrained.load(**catalogue.source(model, weights), expected=arguments, overrides=overrides)
    if "num_classes" in overrides:
        arguments["include_top"] = True
    return VisionTransformer(**{**arguments, **overrides})


DOCSTRING = """Returns {name}: {size}.

    All arguments are keyword arguments.

    Args:
        weights: str, path-like or None. A tag of `keras_vit.list_weights("{name}")`; "imagenet" for the one with the
            best accuracy on ImageNet-1k; or a file, a folder, `hf://owner/repository[@revision]` or an https URL. Defaults to None,
            newly initialized weights.
        num_classes: int. Number of classes of the head{head}.
            A head for another number of classes than the weights' starts at zero. Defaults to {num_classes}.
        input_shape: tuple, (height, width, channels) in pixels. Height and width may be None, for images of any size that the patch
            divides. Positions are resampled. Defaults to {input_shape}.
        include_top: bool. Whether the model ends with its head. If False, it returns the pooled feature. Defaults to {include_top}.
        pooling: "token", "gap", "token_gap", "map" or None. The feature that the head reads. None returns all tokens, and needs
            `include_top=False`. Defaults to {pooling!r}.
        classifier_activation: str, callable or None. Activation of the output; None returns logits. Defaults to "softmax".
        include_preprocessing: bool. Whether the model takes pixels from 0 to 255 and normalizes them itself. Defaults to True.
        dropout_rate: float in [0, 1). Dropout after the position embedding and at the end of every branch. Defaults to 0.
        attention_dropout_rate: float in [0, 1). Dropout of attention weights. Defaults to 0.
        drop_path_rate: float in [0, 1). Probability that a sample's branch is dropped in the last block. Defaults to 0.
        class_names: sequence of str. Names of the classes, which are saved with the model.
        dtype: str. Policy of the layers, such as "mixed_bfloat16". Defaults to Keras's.
        **overrides: any other arguments of `keras_vit.VisionTransformer`. They override those of the preset and the weights.

    Returns:
        A `keras_vit.VisionTransformer`, a functional Keras model.

    Raises:
        ValueError: if an argument is wrong, or the weights are unknown or belong to another model.

    Example:
    >>> model = keras_vit.{name}(num_classes=10)  # doctest: +SKIP
    """


def _function(name):
    def function(*args, weights=None, **overrides):
        if args:
            raise ValueError(
                f"`{name}` takes keyword arguments only. Received: {', '.join(map(repr, args))}. "
                f'Write {name}(weights="imagenet", include_top=False), for instance'
            )
        return create(name, weights, **overrides)

    config = ViTConfig.of(name)
    size = ", ".join(f"{key} {getattr(config, key)}" for key in ("patch_size", "hidden_dim", "num_layers", "num_heads", "mlp_dim"))
    head = "" if config.include_top else "; the preset itself has none"
    facts = {key: getattr(config, key) for key in ("num_classes", "input_shape", "include_top", "pooling")}
    function.__name__ = function.__qualname__ = name
    function.__doc__ = DOCSTRING.format(name=name, size=size, head=head, **facts)
    function.__signature__ = _signature(name)
    return function


def _signature(name):
    """Returns the signature that `help` shows: `weights` and every argument of `VisionTransformer`, with the preset's defaults."""
    defaults = {"weights": None, **{field.name: field.default for field in FIELDS}, **PRESETS[name], "name": name.lower()}
    return inspect.Signature([inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=value) for key, value in defaults.items()])


FUNCTIONS = {name: _function(name) for name in PRESETS}
globals().update(FUNCTIONS)
__all__ = ["create", *FUNCTIONS]
