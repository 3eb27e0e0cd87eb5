"""Lets timm be imported if no torchvision matches the installed torch."""

import importlib.abc
import importlib.machinery
import types


class TorchvisionStub(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """timm imports torchvision for its data pipeline only: empty classes will do where it is not installed."""

    class Anything(type):
        def __getattr__(cls, name):
            return name

    class Module(types.ModuleType):
        __path__ = ()

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return TorchvisionStub.Anything(name, (), {})

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return self.Module(spec.name)

    def exec_module(self, module):
        pass
