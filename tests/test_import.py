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
import tensorflow as tf  # whose devices can still be configured
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
print(json.dumps([imported, len(tf.config.list_logical_devices("CPU"))]))
"""


@requires_tensorflow
def test_import_brings_no_extras_has_what_is_above_when_named_and_leaves_devices_to_be_configured():
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
    imported, devices = json.loads(found.splitlines()[-1])
    assert devices == 2
    assert not [name for name in imported if name.split(".")[0] in EXTRAS]
    floors = ("data", "tuning", "visualize")  # `training` is there: saved models need its classes
    assert not [name for name in imported if name.startswith("keras_vit.") and name.split(".")[1] in floors]


@requires_torch
def test_import_on_another_backend_brings_no_tensorflow():
    code = "import keras, sys; before = set(sys.modules); import keras_vit; print({'tensorflow', 'jax'} & (set(sys.modules) - before))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "set()"
