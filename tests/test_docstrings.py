"""The examples in docstrings run as they stand."""

import doctest
import importlib
import inspect
import pkgutil
import re

import keras
import pytest
from helpers import requires_tensorflow

import keras_vit

MODULES = sorted(module.name for module in pkgutil.walk_packages(keras_vit.__path__, "keras_vit.") if "__main__" not in module.name)


class Checker(doctest.OutputChecker):
    """Takes a shape for a tuple, whatever a backend calls it."""

    def check_output(self, want, got, optionflags):
        want, got = (re.sub(r"(?:TensorShape|torch\.Size)\(\[(.*?)\]\)", r"(\1)", text) for text in (want, got))
        return super().check_output(want, got, optionflags)


def on_tensorflow(name):
    return pytest.param(name, marks=requires_tensorflow) if name.startswith("keras_vit.data") else name


@pytest.mark.parametrize("name", [*map(on_tensorflow, MODULES)])
def test_examples(name):
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(Checker(), optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, name, extraglobs={"keras": keras, "keras_vit": keras_vit}):
        runner.run(example)
    assert runner.summarize(verbose=False).failed == 0


def parts(docstring):
    return {line.strip().rstrip(":").split(":")[0] for line in docstring.splitlines() if line.strip()}


@pytest.mark.parametrize("name", keras_vit.layers.__all__)
def test_public_layers_say_all_there_is(name):
    layer = getattr(keras_vit.layers, name)
    assert layer.__doc__
    if inspect.isclass(layer):
        found = parts(layer.__doc__)
        arguments = [parameter for parameter in inspect.signature(layer).parameters if parameter != "kwargs"]
        assert {"Args", "Reference", "Example", *arguments} <= found
        assert "utput shape" in layer.__doc__


def test_the_model_says_all_there_is():
    found = keras_vit.VisionTransformer.__doc__
    missing = [name for name in inspect.signature(keras_vit.VisionTransformer).parameters if not re.search(rf"\b{name}\b", found)]
    assert not missing
