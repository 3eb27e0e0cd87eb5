import json
import subprocess
import sys

EXTRAS = ("jax", "torch", "tensorflow_datasets", "keras_tuner", "matplotlib", "sklearn", "PIL", "typer", "rich", "huggingface_hub")

CODE = """
import json, sys
import keras
before = set(sys.modules)
import keras_vit
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_import_brings_none_of_the_extras():
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
    imported = json.loads(found.splitlines()[-1])
    assert not [name for name in imported if name.split(".")[0] in EXTRAS]
    floors = ("data", "training", "tuning", "visualize")
    assert not [name for name in imported if name.startswith("keras_vit.") and name.split(".")[1] in floors]


def test_floors_above_are_there_when_named():
    code = "import keras_vit; keras_vit.training.RECIPES; keras_vit.data.load; print(hasattr(keras_vit, 'nothing'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "False"
