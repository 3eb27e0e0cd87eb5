"""README, docs and examples are true: their Python runs, their commands parse, and the presets and tags that they name exist."""

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import filterfalse

import pytest
import zoo_page
from docs_reader import PAGES, ROOT, TRANSLATED, blocks, deep
from helpers import requires_tensorflow
from typer.main import get_command

import keras_vit
from keras_vit_cli import app

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
COMMANDS = {"keras-vit", "python", "pip"}


# Few processes, each of which imports once: one for the pages that need deep models, and three. Virtual devices must be made before
# anything runs: their page is the first.
RUN = sorted((page for page in PAGES if blocks(page) and page not in TRANSLATED), key=lambda page: page.stem != "distribution")
GROUPS = [[*filter(deep, RUN)], *([*filterfalse(deep, RUN)][number::3] for number in range(3))]


def read(pages, folder, **environment):
    """Runs the blocks of pages in a process of their own."""
    command = [sys.executable, str(ROOT / "tests" / "docs_reader.py"), str(folder / "reader"), *map(str, pages)]
    found = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment, capture_output=True, text=True
    )
    told = [json.loads(line.removeprefix("PAGE ")) for line in found.stdout.splitlines() if line.startswith("PAGE ")]
    assert len(told) == len(pages), found.stderr[-3000:]
    wrong = [f"{page['page']}, the block from line {page['line']}:\n{page['error']}" for page in told if page["line"] is not None]
    assert not wrong, "\n".join(wrong)


def marked(page):
    """Returns whether a page has blocks for JAX."""
    return any(code.startswith("# KERAS_BACKEND=jax\n") for _, code in blocks(page))


@pytest.mark.slow
@requires_tensorflow
@pytest.mark.parametrize("pages", GROUPS, ids=lambda pages: "-".join(page.stem for page in pages))
def test_every_block_runs(pages, tmp_path):
    read(pages, tmp_path)


@pytest.mark.slow
@requires_tensorflow
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs JAX")
@pytest.mark.parametrize("page", [*filter(marked, PAGES)], ids=lambda page: page.stem)
def test_every_block_for_jax_runs(page, tmp_path):
    read([page], tmp_path, KERAS_BACKEND="jax", XLA_FLAGS=os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8")


@pytest.mark.parametrize("page", TRANSLATED, ids=lambda page: page.stem)
def test_translations_have_the_same_blocks(page):
    original = page.with_name(page.name.replace(".ko.md", ".md"))
    every = ("", "py", "python", "toml")
    assert [text for _, text in blocks(page, every)] == [text for _, text in blocks(original, every)]


@pytest.mark.parametrize("name", ["zoo.md", "zoo.csv"])
def test_the_model_zoo_is_current(name):
    assert (ROOT / "docs" / name).read_text("utf-8") == zoo_page.pages()[name], "run `python tests/zoo_page.py`"


def commands():
    """Returns [(where, words)] of our commands in shell blocks and in the heads of examples."""
    lines = []
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for first, block in blocks(page, ("", "bash", "yaml")):
            lines += [(f"{page.name}:{n}", line) for n, line in enumerate(block.replace("\\\n", "  ").splitlines(), start=first)]
    for example in EXAMPLES:
        lines += [(example.name, line) for line in example.read_text("utf-8").split('"""')[1].splitlines() if "python examples/" in line]
    found = []
    for where, line in lines:
        for piece in re.split(r"&&|\|\||[|;]", re.sub(r"\$\([^()]*\)", "", line)):
            words = (
                shlex.split(piece, comments=True) if re.search(r"\b(keras-vit|python|pip) ", piece) and piece.count('"') % 2 == 0 else []
            )
            start = next((i for i, word in enumerate(words) if word in COMMANDS), None)
            if start is not None:
                found.append((where, [word for word in words[start:] if not word.startswith("$")]))
    return found


@pytest.mark.parametrize("where, words", commands())
def test_commands_parse(where, words):
    name, *arguments = words
    if name == "keras-vit":
        check_command(arguments)
    elif name == "python" and arguments[0].endswith(".py"):
        script = ROOT / arguments[0]
        files = [script, script.with_name("runs.py")] if script.parent.name == "comparisons" else [script]  # which share their options
        written = "".join(file.read_text("utf-8") for file in files)
        options = [word.partition("=")[0] for word in arguments[1:] if word.startswith("--")]
        assert not [option for option in options if f'"{option}"' not in written]
    elif name == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = re.findall(r"\[([\w,]+)\]", " ".join(arguments))
        assert not {extra for names in named for extra in names.split(",")} - set(extras)


def check_command(arguments):
    """Parses a command as the shell would, and looks up what its values name."""
    from keras_vit.data import AUGMENTATIONS
    from keras_vit.training import RECIPES
    from keras_vit.tuning import SPACES

    cut = "..." in arguments  # the reader fills it in
    arguments = [word for word in arguments if word != "..."]
    group = get_command(app)
    if not arguments or arguments[0].startswith("-"):
        return
    command = group.commands[arguments[0]]
    missing = ["--output", "x"] if cut and "--output" not in arguments and arguments[0] in ("train", "tune") else []
    options = command.make_context(arguments[0], arguments[1:] + missing).params
    model, weights = options.get("model") or options.get("name"), options.get("weights")
    for option, known in (("recipe", RECIPES), ("space", SPACES), ("augmentation", AUGMENTATIONS)):
        value = options.get(option)
        assert not isinstance(value, str) or value.partition("+")[0] in known or value.endswith(".toml"), value
    if isinstance(weights, str) and model in keras_vit.list_models():
        assert (model, weights) in PAIRS or re.search("[/.]", weights), (model, weights)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_options_named_in_the_text_exist(page):
    group = get_command(app)
    for code in re.findall(r"`keras-vit (\w[^`]*)`", page.read_text("utf-8")):
        name, *words = code.split()
        options = {option for parameter in group.commands[name].params for option in [*parameter.opts, *parameter.secondary_opts]}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options, code


def test_counts_in_the_readme():
    text = (ROOT / "README.md").read_text("utf-8")
    assert f"{len(keras_vit.list_models())} presets" in text
    assert f"{len(keras_vit.list_weights())} published checkpoints" in text


def test_every_example_is_documented():
    headings = re.findall(r"^## (\w+\.py)", (ROOT / "docs" / "examples.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(headings) == [path.name for path in EXAMPLES]


PAIRS = {(row.model, row.tag) for row in keras_vit.list_weights()}


def test_presets_and_tags_named_together_exist():
    files = [*PAGES, *EXAMPLES, *(ROOT / "keras_vit").rglob("*.py"), *(ROOT / "keras_vit_cli").rglob("*.py")]
    presets = "|".join(sorted(keras_vit.list_models(), key=len, reverse=True))
    form = re.compile(rf'\b({presets})\b(?::|[^\n]*?(?:\bweights="|--weights[ =]))(\w+)\b(?![/.])')
    named = [(file.name, pair) for file in files for pair in form.findall(file.read_text("utf-8"))]
    assert len(named) > 12  # the form still finds some
    assert not [(name, pair) for name, pair in named if pair not in PAIRS and pair[1] not in ("imagenet", "hf", "https")]


def test_links_and_files_named_exist():
    missing = []
    for page in PAGES:
        text = page.read_text("utf-8")
        links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
        missing += [(page.name, link) for link in links if not (page.parent / link).exists()]
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", text):
        if not any(path.exists() for path in (ROOT / name, ROOT / "keras_vit" / name)) and not [
            *(ROOT / "keras_vit").rglob(name.rstrip("/"))
        ]:
            missing.append(("architecture.md", name))
    assert not missing
