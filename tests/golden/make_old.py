"""Writes files of version 0.1.0 as it first was, to prove that later versions read them.

Run with that version (commit 04badaf) on the path, on TensorFlow: `python tests/golden/make_old.py tests/golden/old`.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import sys

import keras
import numpy as np

import keras_vit
import keras_vit.training
from keras_vit_cli import main

BASE = dict(input_shape=(16, 16, 3), patch_size=8, hidden_dim=8, num_layers=1, num_heads=2, mlp_dim=16, num_classes=3)
MODELS = {
    "resnet_stem": dict(BASE, stem={"kind": "resnet", "block_counts": (1,), "width": 4, "num_groups": 2}, patch_size=2),
    "conv_stem": dict(
        BASE,
        stem={"kind": "conv", "filters": (4,), "strides": (2,)},
        patch_size=4,
        input_shape=(None, None, 3),
        class_token=False,
        pooling="gap",
        representation_size=4,
        classifier_activation=None,
        preprocessing={"mean": 0.4, "size": 16},
    ),
    "dinov2": dict(BASE, mlp="swiglu", layer_scale_init=1e-5, num_register_tokens=2, prefix_positions=False, pooling="token_gap"),
}
TRAIN = ["--data", "digits", "--image-size", "8", "--train-images", "200"]
CONFIG = """recipe = "head_then_all"
[architecture]
hidden_dim = 16
num_layers = 1
num_heads = 2
mlp_dim = 32
patch_size = 4
stem = { kind = "conv", filters = [4], strides = [2] }
[training]
batch_size = 50
epochs = 3
head_epochs = 1
learning_rate = 3e-3
augmentation = "digits"
drop_path_rate = 0.1
"""


def randomize(model, seed=0):
    random = np.random.default_rng(seed)
    for variable in model.weights:
        value = 0.3 * random.standard_normal(variable.shape)
        variable.assign(np.abs(value) + 0.5 if "variance" in variable.name else value)
    return model


def build(name, **more):
    return randomize(keras_vit.VisionTransformer(**MODELS[name], **more))


def models(folder):
    images = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype("float32")
    labels = keras.ops.one_hot(np.array([0, 2]), 3)
    expected = {"images": images}

    def save(name, model):
        model.save(folder / f"{name}.keras")
        expected[name] = keras.ops.convert_to_numpy(model(images, training=False))

    for name in MODELS:
        save(name, build(name))

    preset = randomize(keras_vit.ViTMicro4(**dict(BASE, patch_size=4)))
    preset.save_weights(folder / "preset.weights.h5")
    expected["preset"] = keras.ops.convert_to_numpy(preset(images))

    keras.utils.set_random_seed(0)
    trained = keras_vit.VisionTransformer(**BASE)
    optimizer = keras_vit.training.AdamW(1e-2, weight_decay=0.1, layer_decay=0.5, global_clipnorm=1.0)
    trained.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"])
    trained.fit(images, labels, epochs=2, verbose=0)
    save("trained", trained)
    trained.fit(images, labels, epochs=1, verbose=0)
    expected["trained_on"] = keras.ops.convert_to_numpy(trained(images))  # after one more step

    frozen = randomize(keras_vit.VisionTransformer(**BASE, drop_path_rate=0.1))
    keras_vit.training.freeze(frozen, 1)
    save("frozen", frozen)
    save("functional", keras.Model(frozen.input, frozen.get_layer("block_0").output))
    adapted = randomize(keras_vit.VisionTransformer(**BASE))
    keras_vit.training.add_lora(adapted, rank=1)
    adapted.compile("adamw", "categorical_crossentropy")
    adapted.fit(images, labels, verbose=0)
    save("lora", adapted)
    student = randomize(keras_vit.VisionTransformer(**BASE, distillation_token=True))
    trainer = keras_vit.training.Distillation(student, frozen)
    trainer.compile(keras_vit.training.AdamW(1e-3), "categorical_crossentropy")
    trainer.fit(images, labels, verbose=0)
    save("distilled", student)
    np.savez_compressed(folder / "expected.npz", **expected)


def runs(folder):
    (folder / "config.toml").write_text(CONFIG)
    arguments = ["train", "--output", str(folder / "finished"), *TRAIN, "--config", str(folder / "config.toml")]
    with contextlib.suppress(SystemExit):
        main(arguments)

    # The same run, stopped in the middle of its third epoch.
    whole = keras_vit.training.Checkpoints.on_train_batch_end

    def stopped(self, batch, logs=None):
        if self.folder.name == "checkpoints" and self.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        whole(self, batch, logs)

    keras_vit.training.Checkpoints.on_train_batch_end = stopped
    arguments[2] = str(folder / "interrupted")
    with contextlib.suppress(SystemExit):
        main(arguments)
    for name in ("finished/checkpoints", "finished/checkpoints_1", "finished/report.html", "finished/batch.png", "config.toml"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in folder.glob("finished/*.png"):
        path.unlink()
    for checkpoints in folder.glob("interrupted/checkpoints*"):
        for old in sorted(checkpoints.iterdir())[:-1]:
            old.unlink()


if __name__ == "__main__":
    target = pathlib.Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    models(target)
    runs(target)
    print(
        json.dumps({str(path.relative_to(target)): path.stat().st_size for path in sorted(target.rglob("*")) if path.is_file()}, indent=1)
    )
