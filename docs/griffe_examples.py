"""Shows the docstrings' examples, which are at the same indentation as their heading, as code, and no private names of modules."""

import re

import griffe


class Examples(griffe.Extension):
    def on_module(self, *, mod, **kwargs):
        for name in [name for name in mod.members if name.startswith("_") or name in ("LAZY", "PICTURES")]:
            del mod.members[name]

    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            text = re.sub(r"  # doctest: \+\w+", "", obj.docstring.value)
            obj.docstring.value = re.sub(r"^Example:\n((?:>>>|\.\.\.|\S| {4}).*?)(?=\n\n(?!>>>)|\Z)", _as_code, text, flags=re.M | re.S)


def _as_code(match):
    lines = "\n".join(f"    {line}" for line in match[1].splitlines())
    return f"Examples:\n{lines}"
