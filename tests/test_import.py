import json
import subprocess
import sys

from helpers import requires_tensorflow, requires_torch

EXTRAS = ("jax", "torch", "tensorflow_datasets", "keras_tuner", "matplotlib", "sklearn", "PIL", "typer", "rich", "huggingface_hub")

CODE = """
import json, sys
import keras
before = set(sys.modules)
import keras_vit
imported = sorted(set(sys.modules) - before)
assert {"data", "training", "tuning"} <= set(dir(keras_vit)) and not hasattr(keras_vit, "nothing")
keras_vit.training.RECIPES; keras_vit.data.load
print(json.dumps(imported))
"""


@requires_tensorflow
def test_import_brings_none_of_the_extras_and_what_is_above_is_there_when_named():
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
    imported = json.loads(found.splitlines()[-1])
    assert not [name for name in imported if name.split(".")[0] in EXTRAS]
    floors = ("data", "tuning", "visualize")  # `training` is there: saved models need its classes
    assert not [name for name in imported if name.startswith("keras_vit.") and name.split(".")[1] in floors]


@requires_torch
def test_import_on_another_backend_brings_no_tensorflow():
    code = "import keras, sys; before = set(sys.modules); import keras_vit; print({'tensorflow', 'jax'} & (set(sys.modules) - before))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "set()"


@requires_tensorflow
def test_import_leaves_devices_to_be_configured():
    code = (
        "import keras, keras_vit, tensorflow as tf; cpu = tf.config.list_physical_devices('CPU')[0]"
        "; tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)"
        "; print(len(tf.config.list_logical_devices('CPU')))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "2"
