"""What is trained on one device and on several: models so small that the building of their graphs is most of the time."""

from functools import partial

import keras
import numpy as np
import tensorflow as tf

import keras_vit
from keras_vit.data.augmentation.batches import mixup
from keras_vit.training import SGD, AdamW, Distillation, Lamb, add_lora


def sgd(**arguments):
    return SGD(**dict(learning_rate=0.01, momentum=0.9, weight_decay=0.1, global_clipnorm=0.5) | arguments)


def build(optimizer=sgd, compiled=(), accumulation_steps=1, stock=False, **overrides):
    """Returns a compiled model, with the optimizer that `optimizer` makes, if it is not None."""
    keras.utils.set_random_seed(0)
    arguments = dict(input_shape=(8, 8, 3), patch_size=4, hidden_dim=8, num_layers=1, num_heads=2, mlp_dim=16, num_classes=3)
    model = keras_vit.VisionTransformer(**arguments | overrides)
    model.get_layer("head").kernel.assign(np.random.default_rng(1).normal(size=(8, 3)))
    if stock:
        model = keras.Model(model.input, model.output)
    model.accumulation_steps = accumulation_steps
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
    options = dict(metrics=["accuracy"], weighted_metrics=[keras.metrics.CategoricalCrossentropy()], jit_compile=False)
    model.compile(optimizer and optimizer(), loss, **options | dict(compiled))
    return model


def lora(**arguments):
    model = build(None, **arguments)
    add_lora(model, 2)
    model.compile(Lamb(1e-2, weight_decay=0.1, epsilon=1e-3), "categorical_crossentropy", jit_compile=False)
    return model


def distillation(**arguments):
    trainer = Distillation(build(distillation_token=True, **arguments), build())
    trainer.compile(sgd(clipvalue=1e-2, global_clipnorm=None), "categorical_crossentropy", jit_compile=False)
    return trainer


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


DROP_PATH = (build, dict(drop_path_rate=0.5, drop_path_schedule="constant"), partial(data, 40, 8))
BASES = {  # what one device trains: how the model is made, with which arguments, and the data
    "SGD": (build, {}, partial(data, 73, 8, weights=True)),  # the last batch has one image
    "Keras's accumulation": (
        build,
        dict(optimizer=partial(sgd, gradient_accumulation_steps=2, clipnorm=0.2, global_clipnorm=None)),
        partial(data, 80, 8),
    ),
    "AdamW": (
        build,
        dict(optimizer=partial(AdamW, 1e-3, global_clipnorm=0.05, layer_decay=0.75, use_ema=True, ema_overwrite_frequency=3, epsilon=1e-3)),
        partial(mixed, 7),
    ),
    "LoRA": (lora, dict(remat=True), partial(data, 80, 8)),
    "distillation": (distillation, dict(patch_size=1, stem=dict(kind="conv", filters=(8,), strides=(4,))), partial(data, 75, 8)),
    "bfloat16": (build, dict(dtype="mixed_bfloat16", compiled=dict(metrics=[])), partial(data, 80, 8)),
    "drop path": DROP_PATH,
    "drop path again": DROP_PATH,
}
VARIANTS = {  # what several devices train: which of these, with which other arguments. Each feature once: a graph more costs seconds.
    "SGD, global clip, sample weights, a last batch of one image": ("SGD", {}),
    "steps_per_execution, accumulation_steps": ("SGD", dict(compiled=dict(steps_per_execution=4), accumulation_steps=3)),
    "SGD, clip, accumulation of Keras, jit_compile": ("Keras's accumulation", dict(compiled=dict(jit_compile=True))),
    "AdamW, layer decay, average, mixup, batches that do not divide": ("AdamW", {}),
    "Lamb, LoRA, remat": ("LoRA", {}),
    "distillation, clip by value, convolutional stem, ragged last batch": ("distillation", {}),
    "mixed_bfloat16": ("bfloat16", {}),
}


def train(strategy, base, changes=()):
    """Trains for an epoch, and returns a list of numbers and arrays: history and weights. The first base is trained for two epochs, and
    evaluates and predicts."""
    make, arguments, batches = BASES[base]
    with strategy.scope():
        model = make(**arguments | dict(changes))
        history = model.fit(batches(), epochs=2 if base == "SGD" else 1, verbose=0, shuffle=False).history
        found = [*history.values(), *(w.numpy() for w in model.weights)]
        if base == "SGD":
            other = data(11, 5)
            found += [model.evaluate(other, verbose=0), model.predict(other, verbose=0)]
        return found


def apart(one, other):
    return max(float(np.abs(np.subtract(a, b)).max()) for a, b in zip(one, other, strict=True))
