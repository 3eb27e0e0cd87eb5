"""Runs the Python blocks of README and docs as they stand, in order, one folder and one namespace per page.

A page may name photographs in `PETS`, `photograph.jpg`, and published weights. The photographs are noise. Every preset is made
small, every recipe one epoch long, and the Hub's own cache is filled with checkpoints of such small models, under the names that
the catalogue has for the real ones: what is loaded goes the whole way from the tag to the tensors, but for the download.

`python tests/docs_reader.py FOLDER PAGE...` prints a line of JSON for each page: its name, the line of the block that failed or
null, the error.
"""

import hashlib
import json
import os
import pathlib
import re
import sys
import traceback

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "README.ko.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "comparisons").glob("*.md")),
]
TRANSLATED = [page for page in PAGES if page.name.endswith(".ko.md")]
SMALL = dict(hidden_dim=8, num_heads=2, mlp_dim=16)
COMMIT = "0" * 40


def blocks(page, languages=("python",)):
    """Returns [(number of its first line, text)] of the fenced blocks of a page; the language "" is none."""
    found = []
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if match[1] in languages:
            found.append((text.count("\n", 0, match.start(2)) + 1, match[2]))
    return found


def deep(page):
    """Returns whether blocks of a page take the twelfth block of a model."""
    return any(re.search(r"\b(block_)?11\b", code) for _, code in blocks(page))


def shrink_presets(num_layers):
    from keras_vit.presets import PRESETS

    for arguments in PRESETS.values():
        arguments.update(SMALL, num_layers=num_layers)
        if "stem" in arguments and arguments["stem"]["kind"] == "resnet":
            arguments["stem"] = {"kind": "resnet", "block_counts": (1, 1), "width": 4, "num_groups": 2}


def shorten():
    """Makes recipes one epoch long and spaces small, measures no machine, and leaves out XLA, which takes longer than these steps."""
    import dataclasses

    import keras
    from keras.src.trainers import trainer

    from keras_vit.profiling import calibration
    from keras_vit.training import RECIPES
    from keras_vit.tuning import SPACES

    if keras.backend.backend() == "tensorflow":  # JAX would compile each operation
        trainer.model_supports_jit = lambda model: False
    calibration.timed = lambda probes, training, precision: [0.01 * number for number, _ in enumerate(probes, start=1)]
    for name, recipe in RECIPES.items():
        RECIPES[name] = dataclasses.replace(recipe, epochs=1, steps=None, warmup_epochs=0, head_epochs=min(recipe.head_epochs, 1))
    SPACES["from_scratch"] |= {
        "hidden_dim": [8, 16],
        "num_layers": [1, 2],
        "num_heads": [2],
        "mlp_dim": [16],
        "stem": ["patch"],
        "patch_size": [16],
    }


def fill_hub(names):
    """Puts a small checkpoint into the Hub's cache for each repository or pair of preset and tag, as a download leaves it."""
    from huggingface_hub.constants import HF_HUB_CACHE

    import keras_vit
    from keras_vit.checkpoints.catalogue import find

    for source in sorted(names):
        repository = source.removeprefix("hf://")
        known = find(source)
        name, classes = (known.model, known.classes) if known else ("DINOv2S14", 0)  # another one of the Hub
        model = getattr(keras_vit, name)(num_classes=classes or 1000, include_top=classes > 0)
        owner, name = repository.split("/")
        folder = pathlib.Path(HF_HUB_CACHE) / f"models--{owner}--{name}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(COMMIT)
        keras_vit.checkpoints.save(model, folder / "snapshots" / COMMIT, format="timm" if owner == "timm" else "huggingface")


def sources(text):
    """Returns the Hub's repositories that a page's blocks name, by preset and tag or by address."""
    import keras_vit

    rows = {(row.model, row.tag): row.source for row in keras_vit.list_weights()}
    named = {rows[pair] for pair in rows if re.search(rf'\b{pair[0]}\b.*"{pair[1]}"', text) or f"{pair[0]}:{pair[1]}" in text}
    named |= {f"hf://{name}" for name in re.findall(r"hf://([\w.-]+/[\w.-]+)", text)}
    return {source for source in named if source.startswith("hf://")}


def photographs(folder):
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(210):
        path = folder / "PETS" / ("beagle", "pug", "sphynx")[number % 3] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (16, 18, 3), "uint8")).save(path)
    Image.fromarray(random.integers(0, 256, (40, 48, 3), "uint8")).save(folder / "photograph.jpg")


def run(page, folder):
    """Runs the blocks of a page, and returns the line of the one that failed with its error, or (None, None)."""
    import keras

    import keras_vit

    folder.mkdir(parents=True)
    os.chdir(folder)
    photographs(folder)
    namespace = {"__name__": "__main__"}
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    keras.config.set_dtype_policy("float32")  # what the page before has set
    keras_vit.runtime.use_fast_paths(True)
    for line, code in blocks(page):
        if (code.splitlines()[0] == "# KERAS_BACKEND=jax") != (backend == "jax"):
            continue
        try:
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), namespace)
        except BaseException:  # of any kind: it is told, and the next page is run
            return line, traceback.format_exc()
    return None, None


def main(folder, *pages):
    folder = pathlib.Path(folder)
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder / "hub"), "KERAS_HOME": str(folder / "keras")}
    import keras_vit  # noqa: F401

    pages = [pathlib.Path(page).absolute() for page in pages]
    shrink_presets(12 if any(map(deep, pages)) else 2)
    shorten()
    fill_hub(set().union(*(sources("\n".join(code for _, code in blocks(page))) for page in pages)))
    for page in pages:
        line, error = run(page, folder / hashlib.sha256(page.name.encode()).hexdigest()[:8])
        print("PAGE", json.dumps({"page": page.name, "line": line, "error": error}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
