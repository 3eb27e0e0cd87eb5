"""Trains on one device and on several virtual ones, in a process of its own, and prints how far apart they end.

python tests/training/mirrored.py
"""

import contextlib
import faulthandler
import json
import tempfile

import keras
import numpy as np
import tensorflow as tf

import keras_vit
from keras_vit.data.batches import mixup
from keras_vit.replicas import _seeds_by_replica
from keras_vit.training import SGD, AdamW, Checkpoints, Distillation, Lamb, add_lora, strategy, virtual_devices
from keras_vit.training.strategy import _mirrored

faulthandler.dump_traceback_later(400, exit=True)  # rather an error than to wait for ever
virtual_devices("cpu:4")
ONE = strategy("one_device")
TWO = _mirrored(("/cpu:0", "/cpu:1"))  # two strategies in one process
FOUR = strategy("mirrored")
assert FOUR is strategy("mirrored") and (TWO.num_replicas_in_sync, FOUR.num_replicas_in_sync) == (2, 4)


def build(optimizer="sgd", compiled=(), accumulation_steps=1, stock=False, **overrides):
    keras.utils.set_random_seed(0)
    arguments = dict(input_shape=(8, 8, 3), patch_size=4, hidden_dim=8, num_layers=1, num_heads=2, mlp_dim=16, num_classes=3)
    model = keras_vit.VisionTransformer(**arguments | overrides)
    model.get_layer("head").kernel.assign(np.random.default_rng(1).normal(size=(8, 3)))
    if stock:
        model = keras.Model(model.input, model.output)
    model.accumulation_steps = accumulation_steps
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
    options = dict(metrics=["accuracy"], weighted_metrics=[keras.metrics.CategoricalCrossentropy()], jit_compile=False)
    model.compile(optimizer, loss, **options | dict(compiled))
    return model


def data(size, batch, weights=False):
    random = np.random.default_rng(0)
    columns = random.uniform(0, 255, (size, 8, 8, 3)).astype("float32"), np.eye(3, dtype="float32")[random.integers(0, 3, size)]
    columns += (random.uniform(0, 2, size).astype("float32"),) if weights else ()
    return tf.data.Dataset.from_tensor_slices(columns).batch(batch)


def mixed(batch):
    """Batches mixed by mixup, as functions of the step."""
    change = mixup(0.4)
    seeds = tf.stack([tf.zeros(batch, tf.int64), tf.range(batch, dtype=tf.int64)], axis=1)
    return data(10 * batch, batch).map(lambda images, labels: change(images, labels, seeds))


def sgd(**arguments):
    return SGD(**dict(learning_rate=0.01, momentum=0.9, weight_decay=0.1, global_clipnorm=0.5) | arguments)


RAGGED = data(75, 8, weights=True)  # the last batch has 3 images: of four replicas one gets none
BASES = {  # what one device trains: (arguments of `build`, data); and what several do: (replicas, arguments in their place)
    "SGD": (
        dict(optimizer=sgd),
        RAGGED,
        {
            "SGD, global clip, sample weights, ragged last batch, 2": (TWO, {}),
            "the same, 4, of which one has no image in the last batch": (FOUR, {}),
            "steps_per_execution=4": (TWO, dict(compiled=dict(steps_per_execution=4))),
            "accumulation_steps=3": (TWO, dict(accumulation_steps=3)),
            "jit_compile": (TWO, dict(compiled=dict(jit_compile=True))),
        },
    ),
    "accumulation of Keras": (
        dict(optimizer=lambda: sgd(gradient_accumulation_steps=2, clipnorm=0.2, global_clipnorm=None)),
        data(80, 8),
        {"SGD, clip, accumulation of Keras": (TWO, {})},
    ),
    "AdamW": (
        dict(optimizer=lambda: AdamW(1e-3, global_clipnorm=0.05, layer_decay=0.75, use_ema=True, ema_overwrite_frequency=3, epsilon=1e-3)),
        mixed(7),
        {"AdamW, layer decay, average, mixup, batches that do not divide": (TWO, {})},
    ),
    "Lamb": (dict(optimizer=lambda: Lamb(1e-2, weight_decay=0.1, epsilon=1e-3), remat=True), data(80, 8), {"Lamb, remat, 4": (FOUR, {})}),
    "stem": (
        dict(optimizer=lambda: sgd(clipvalue=1e-2, global_clipnorm=None), patch_size=1, stem=dict(kind="conv", filters=(8,), strides=(4,))),
        data(75, 8),
        {"clip by value, convolutional stem, ragged last batch": (TWO, {})},
    ),
    "bfloat16": (dict(optimizer=sgd, dtype="mixed_bfloat16", compiled=dict(metrics=[])), data(80, 8), {"mixed_bfloat16": (TWO, {})}),
}


def train(model, batches, epochs=2):
    """Returns the history, the weights and, of data of which the last batch is ragged, too, what `evaluate` and `predict` give."""
    history = model.fit(batches, epochs=epochs, verbose=0, shuffle=False).history
    found = [*history.values(), *(w.numpy() for w in model.weights)]
    if batches is RAGGED:
        other = data(11, 5)
        found += [model.evaluate(other, verbose=0), model.predict(other, verbose=0)]
    return found


def apart(one, other):
    return max(float(np.abs(np.subtract(a, b)).max()) for a, b in zip(one, other, strict=True))


def in_scope(where, build, batches, **arguments):
    with where.scope():
        return train(build(**{name: value() if name == "optimizer" else value for name, value in arguments.items()}), batches)


def equal():
    found = {}
    for arguments, batches, variants in BASES.values():
        alone = in_scope(ONE, build, batches, **arguments)
        for name, (where, changes) in variants.items():
            found[name] = apart(alone, in_scope(where, build, batches, **arguments | changes))

    def lora():
        model = build()
        add_lora(model, 2)
        model.compile(AdamW(1e-3, epsilon=1e-3), "categorical_crossentropy", jit_compile=False)
        return model

    def distillation():
        trainer = Distillation(build(distillation_token=True), build())
        trainer.compile(sgd(), "categorical_crossentropy", jit_compile=False)
        return trainer

    for make in (lora, distillation):
        found[make.__name__] = apart(*(in_scope(where, make, data(40, 8)) for where in (ONE, TWO)))
    return found


def masks(context):
    """Returns the dropout of ones on two replicas, within a context."""
    keras.utils.set_random_seed(0)
    with TWO.scope():
        dropout = keras.layers.Dropout(0.5)
        with context:
            return [mask.numpy() for mask in TWO.run(lambda: dropout(tf.ones((8, 8)), training=True)).values]


def resumed():
    """How far a run with drop path that was broken in mid-epoch ends from an unbroken one."""
    batches = data(80, 8)

    def run(folder, stop=None):
        with TWO.scope():
            model = build(sgd(), compiled=dict(steps_per_execution=2), accumulation_steps=2, drop_path_rate=0.5)
            checkpoints = Checkpoints(folder, every_steps=2)

            def stop_at(batch, logs):
                if checkpoints.step == stop:
                    checkpoints._check_writer(wait=True)
                    raise InterruptedError

            stopping = keras.callbacks.LambdaCallback(on_train_batch_end=stop_at)
            endless = checkpoints.resume(lambda step: batches.repeat().skip(step))
            with contextlib.suppress(InterruptedError):
                model.fit(endless, steps_per_epoch=10, epochs=2, verbose=0, shuffle=False, callbacks=[checkpoints, stopping])
            checkpoints._release()
            return [w.numpy() for w in model.weights]

    with tempfile.TemporaryDirectory() as folder:
        run(folder + "/broken", stop=6)
        return apart(run(folder + "/unbroken"), run(folder + "/broken"))


def faults():
    """What Keras itself does with the same architecture: each is the reason for some code of ours."""

    def keras_sgd(**arguments):
        return lambda: keras.optimizers.SGD(0.01, momentum=0.9, **arguments)

    stem = dict(patch_size=1, stem=dict(kind="conv", filters=(8,), strides=(4,)))
    cases = {  # those that fail while they compute come last: what follows in the process may fail with them
        "clip": (dict(optimizer=keras_sgd(global_clipnorm=0.5)), data(16, 8)),
        "ragged last batch": (dict(optimizer=keras_sgd()), data(11, 8)),
        "accumulation": (dict(optimizer=keras_sgd(gradient_accumulation_steps=2)), data(16, 8)),
        "average": (dict(optimizer=keras_sgd(use_ema=True, ema_overwrite_frequency=2)), data(16, 8)),
        "first batch": (dict(optimizer=keras_sgd()), data(21, 7)),
        "empty part": (dict(optimizer=keras_sgd(), **stem), data(9, 8)),
        "jit_compile": (dict(optimizer=keras_sgd(), compiled=dict(jit_compile=True)), data(16, 8)),
        "steps_per_execution": (dict(optimizer=keras_sgd(), compiled=dict(steps_per_execution=4)), data(32, 8)),
    }
    found, plain = {}, tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])  # which sums as on GPUs, unlike `TWO`
    for name, (arguments, batches) in cases.items():
        try:
            results = []
            for where in (plain if name == "steps_per_execution" else TWO, ONE):
                with where.scope():
                    model = build(**arguments | {"optimizer": arguments["optimizer"]()}, stock=True)
                    model.fit(batches, verbose=0)
                    results.append([w.numpy() for w in model.weights])
            found[name] = apart(*results)
        except Exception as error:
            found[name] = str(error)
    return found


def refused():
    """Returns the messages for models of mixed scopes."""
    messages = []
    outside = build(None)
    with TWO.scope():
        outside.compile(sgd(), "categorical_crossentropy")
    with FOUR.scope():
        other = build(sgd())
    for model, where in ((outside, ONE), (other, TWO)):
        try:
            with where.scope():
                model.fit(data(8, 8), verbose=0)
        except ValueError as error:
            messages.append(str(error))
    return messages


def main():
    ours, stock, again = masks(_seeds_by_replica()), masks(contextlib.nullcontext()), masks(_seeds_by_replica())
    found = {
        "equal": equal(),
        "resumed": resumed(),
        "masks differ": bool((ours[0] != ours[1]).any()),
        "masks are reproducible": bool(np.array_equal(ours, again)),
        "Keras's masks differ": bool((stock[0] != stock[1]).any()),
        "faults": faults(),
        "refused": refused(),
    }
    print("ANSWER", json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
