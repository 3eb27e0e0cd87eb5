"""Trains with weights sharded over virtual devices, and on one, in processes of their own, and prints how far apart they end.

python tests/training/sharded.py divided FOLDER   four devices of one process, and one alone, of which it prints the losses
python tests/training/sharded.py processes PORT   two devices in each of two processes, of which this starts the second: prints the losses
"""

import collections
import json
import os
import re
import subprocess
import sys

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np

import keras_vit
from keras_vit.training import AdamW, count_replicas, layout_map, strategy, virtual_devices

RANDOM = np.random.default_rng(0)
IMAGES, LABELS = RANDOM.uniform(0, 255, (80, 8, 8, 3)).astype("float32"), np.eye(4, dtype="float32")[RANDOM.integers(0, 4, 80)]


def build():
    keras.utils.set_random_seed(0)
    arguments = dict(input_shape=(8, 8, 3), patch_size=4, hidden_dim=16, num_layers=2, num_heads=4, mlp_dim=32, num_classes=4)
    model = keras_vit.VisionTransformer(**arguments, qkv_bias="query_value", rotary={"frequencies": "learned"})
    model.get_layer("head").kernel.assign(np.random.default_rng(1).normal(size=(16, 4)))
    optimizer = AdamW(1e-2, weight_decay=0.1, global_clipnorm=0.05, layer_decay=0.75, epsilon=1e-3)
    model.compile(optimizer, "categorical_crossentropy")
    return model


def train(distribution):
    with distribution.scope():
        model = build()
        losses = model.fit(IMAGES, LABELS, batch_size=8, epochs=2, shuffle=False, verbose=0).history["loss"]
        divided = [sum(not v.value.sharding.is_fully_replicated for v in part) for part in (model.weights, model.optimizer.variables)]
        return model, [np.asarray(losses), *(np.asarray(w.value) for w in model.weights)], divided


def collectives(model, distribution):
    """What the devices exchange in a forward pass: {kind: [number of values of each]}."""
    with distribution.scope():
        variables = [[v.value for v in part] for part in (model.trainable_variables, model.non_trainable_variables)]
        text = jax.jit(lambda *state: model.stateless_call(*state)[0]).lower(*variables, IMAGES[:8]).compile().as_text()
    found = collections.defaultdict(list)
    for shape, kind in re.findall(r"= \w+\[([\d,]*)\]\S* (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)\(", text):
        found[kind].append(shape)
    return found


def one_process(folder):
    virtual_devices("cpu:4")
    _, alone, _ = train(strategy("one_device"))
    found = {"alone": alone[0].tolist()}
    mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"), keras.distribution.list_devices())
    both = keras.distribution.ModelParallel(layout_map=layout_map(build(), mesh), batch_dim_name="batch")
    for name in ("mirrored", "fsdp", "tensor_parallel", "2 x 2"):
        distribution = both if name == "2 x 2" else strategy(name)
        model, result, divided = train(distribution)
        apart = max(float(np.abs(a - b).max()) for a, b in zip(alone, result, strict=True))
        found[name] = {"apart": apart, "divided": divided, "replicas": count_replicas(distribution)}
        if name == "tensor_parallel":
            found[name]["collectives"] = collectives(model, distribution)
            with distribution.scope():
                model.save(f"{folder}/model.keras")
            loaded = keras.saving.load_model(f"{folder}/model.keras")
            found["loaded"] = max(float(np.abs(np.asarray(v.value) - w).max()) for v, w in zip(loaded.weights, result[1:], strict=True))
    return found


def two_processes(port, number):
    """Returns the losses of process 0, of which each name says how its devices and the other's trained."""
    virtual_devices("cpu:2")
    keras.distribution.initialize(f"127.0.0.1:{port},127.0.0.1:{port}", 2, number)
    import tensorflow as tf

    assert keras_vit.runtime.processes() == (number, 2)
    batches = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(8)
    found = {}
    for name in ("multi_worker", "fsdp"):
        with strategy(name).scope():
            model = build()
            found[name] = model.fit(batches, epochs=2, verbose=0).history["loss"]
    return found


def main(what, *arguments):
    if what == "processes":
        port, number = arguments[0], len(arguments) - 1
        other = None if number else subprocess.Popen([sys.executable, *sys.argv, "1"], stdout=subprocess.DEVNULL)
        found = two_processes(port, number)
        jax.distributed.shutdown()  # at which both meet
        assert number or not other.wait(timeout=120)
    else:
        found = one_process(*arguments)
    print("ANSWER", json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
