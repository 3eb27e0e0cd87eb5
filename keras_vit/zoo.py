"""The zoo: for every preset a function that builds the model, with weights if asked for."""

import inspect

from keras_vit.checkpoints import catalogue, pretrained
from keras_vit.presets import PRESETS
from keras_vit.vision_transformer import VisionTransformer


def create(model, /, weights=None, **overrides):
    """Builds the model of a preset.

    Args:
        model: str, the preset's name, see `keras_vit.list_models`.
        weights: None for newly initialised weights; a tag of `keras_vit.list_weights(model)`; or a file, a folder,
            `hf://owner/repository[@revision]` or an https URL with weights in any format that `keras_vit.from_pretrained` reads, or our
            own `.weights.h5`.
        **overrides: arguments of `VisionTransformer` in place of the preset's and the weights'. `num_classes` asks for a head, also in a
            preset that has none; one for another number of classes than the weights' starts at zero.

    Returns:
        A `VisionTransformer`.

    Raises:
        ValueError: if the preset or the weights are unknown or of another model, or an argument is wrong.
    """
    arguments = catalogue.find_preset(model)
    overrides = {"name": model.lower(), **overrides}
    if weights is not None:
        return pretrained.load(**catalogue.source(model, weights), expected=arguments, overrides=overrides)
    if "num_classes" in overrides:
        arguments["include_top"] = True
    return VisionTransformer(**{**arguments, **overrides})


DOCSTRING = """Builds {name}: {size}.

    Args:
        num_classes: int. Classes of the head{head}.
        weights: None for newly initialised weights; a tag of `keras_vit.list_weights("{name}")`; or a file, folder,
            `hf://owner/repository[@revision]` or https URL.
        **overrides: any argument of `keras_vit.VisionTransformer` in place of the preset's and the weights'.

    Returns:
        A `keras_vit.VisionTransformer`: a functional Keras model that takes raw pixels, 0 to 255.

    Raises:
        ValueError: if an argument is wrong, or the weights are unknown or of another model.

    Example:
    >>> model = keras_vit.{name}(num_classes=10)  # doctest: +SKIP
    """


def _function(name):
    def function(*, weights=None, **overrides):
        return create(name, weights, **overrides)

    arguments = PRESETS[name]
    size = ", ".join(f"{key} {arguments[key]}" for key in ("patch_size", "hidden_dim", "num_layers", "num_heads", "mlp_dim"))
    head = "" if arguments.get("include_top", True) else "; the preset itself has none"
    function.__name__ = function.__qualname__ = name
    function.__doc__ = DOCSTRING.format(name=name, size=size, head=head)
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("weights", keyword, default=None)]
    for parameter in inspect.signature(VisionTransformer).parameters.values():
        default = name.lower() if parameter.name == "name" else arguments.get(parameter.name, parameter.default)
        parameters.append(inspect.Parameter(parameter.name, keyword, default=default))
    function.__signature__ = inspect.Signature(parameters)
    return function


FUNCTIONS = {name: _function(name) for name in PRESETS}
globals().update(FUNCTIONS)
__all__ = ["create", *FUNCTIONS]
