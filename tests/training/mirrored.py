"""Trains on one device and on several virtual ones, in a process of its own, and prints how far apart they end.

python tests/training/mirrored.py 2
"""

import json
import sys
import tempfile

import keras
import numpy as np
import tensorflow as tf

import keras_vit
from keras_vit.training import SGD, AdamW, Checkpoints, Distillation, Lamb, add_lora, strategy, virtual_devices

CASES = {
    "SGD, global clip": lambda: SGD(0.1, momentum=0.9, weight_decay=0.1, global_clipnorm=0.05),
    "SGD, clip": lambda: SGD(0.1, momentum=0.9, clipnorm=0.02),
    "SGD, clip by value": lambda: SGD(0.1, momentum=0.9, clipvalue=1e-3),
    "AdamW, layer decay, global clip": lambda: AdamW(1e-3, weight_decay=0.1, global_clipnorm=0.05, layer_decay=0.75, epsilon=1e-3),
    "Lamb": lambda: Lamb(1e-2, weight_decay=0.1, global_clipnorm=0.05, epsilon=1e-3),
    "AdamW, average": lambda: AdamW(1e-3, global_clipnorm=0.05, use_ema=True, ema_momentum=0.9, epsilon=1e-3),
    "Keras's SGD, global clip": lambda: keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.05),
}
STEPS, BATCH = 20, 8


def build(optimizer, **overrides):
    keras.utils.set_random_seed(0)
    arguments = dict(input_shape=(8, 8, 3), patch_size=4, hidden_dim=8, num_layers=2, num_heads=2, mlp_dim=16, num_classes=3)
    model = keras_vit.VisionTransformer(**arguments | overrides)
    model.get_layer("head").kernel.assign(np.random.default_rng(1).normal(size=(8, 3)))
    model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    return model


def train_from(step):
    def read(number):
        images = tf.random.stateless_uniform((BATCH, 8, 8, 3), (0, number), 0, 255)
        return images, tf.one_hot(tf.random.stateless_uniform((BATCH,), (1, number), 0, 3, tf.int32), 3)

    return tf.data.Dataset.counter(step).map(read)


def fit(model, callbacks=(), epochs=2, data=None):
    options = dict(steps_per_epoch=STEPS // 2, epochs=epochs, verbose=0, shuffle=False, callbacks=list(callbacks))
    return model.fit(train_from(0) if data is None else data, **options).history["loss"]


def difference(one, other):
    return max(float(np.abs(a.numpy() - b.numpy()).max()) for a, b in zip(one.weights, other.weights))


def main(replicas):
    virtual_devices(f"cpu:{replicas}")
    scope = strategy("mirrored").scope
    assert strategy("mirrored").num_replicas_in_sync == replicas

    def both(build):
        models, losses = [], []
        for context in (strategy("one_device").scope, scope):
            with context():
                models.append(build())
            losses.append(fit(models[-1]))
        return {"loss": float(np.abs(np.subtract(*losses)).max()), "weights": difference(*models)}

    found = {name: both(lambda optimizer=optimizer: build(optimizer())) for name, optimizer in CASES.items()}

    def lora():
        model = build("sgd")
        add_lora(model, 2)
        model.compile(AdamW(1e-3, global_clipnorm=0.05, epsilon=1e-3), "categorical_crossentropy", jit_compile=False)
        return model

    found["LoRA"] = both(lora)

    def distillation():
        student, teacher = build("sgd", distillation_token=True), build("sgd")
        trainer = Distillation(student, teacher)
        trainer.compile(SGD(0.05, global_clipnorm=0.05), "categorical_crossentropy", jit_compile=False)
        return trainer

    found["distillation"] = both(distillation)

    with tempfile.TemporaryDirectory() as folder, scope():
        unbroken = build(CASES["AdamW, layer decay, global clip"](), drop_path_rate=0.5)
        fit(unbroken, [Checkpoints(folder + "/unbroken")])
        broken = build(CASES["AdamW, layer decay, global clip"](), drop_path_rate=0.5)
        checkpoints = Checkpoints(folder + "/broken", every_steps=3)
        stop = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: stop_at(checkpoints, 7))
        try:
            fit(broken, [checkpoints, stop], data=checkpoints.resume(train_from))
        except InterruptedError:
            pass
        checkpoints._release()
        resumed = build(CASES["AdamW, layer decay, global clip"](), drop_path_rate=0.5)
        checkpoints = Checkpoints(folder + "/broken", every_steps=3)
        fit(resumed, [checkpoints], data=checkpoints.resume(train_from))
        found["resume"] = {"loss": 0.0, "weights": difference(unbroken, resumed)}
    print("ANSWER", json.dumps(found))


def stop_at(checkpoints, step):
    if checkpoints.step == step:
        checkpoints._check_writer(wait=True)
        raise InterruptedError


if __name__ == "__main__":
    main(int(sys.argv[1]))
