"""The models of the first comparison: a ResNet, a plain ViT, the hybrid of both, and a pretrained ViT."""

import functools

import keras_vit
import keras
import numpy as np
from keras import layers
from runs import BATCH, CONV_STEM, VIT, accuracy, data, repeated, train


def resnet():
    """ResNet-8: the ResNet of He et al., 2016, section 4.2, for small images, with one unit of two convolutions in each stage."""

    def conv(x, filters, kernel, stride=1):
        x = layers.Conv2D(filters, kernel, stride, "same", use_bias=False, kernel_initializer="he_normal")(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    inputs = keras.Input(VIT["input_shape"])
    x = layers.ReLU()(conv(layers.Rescaling(1 / 127.5, -1.0)(inputs), 16, 3))
    for stage, filters in enumerate((16, 32, 64)):
        stride = 1 if stage == 0 else 2
        y = conv(layers.ReLU()(conv(x, filters, 3, stride)), filters, 3)
        x = layers.ReLU(name=f"stage_{stage}")(layers.add([x if stage == 0 else conv(x, filters, 1, stride), y]))
    return keras.Model(inputs, layers.Dense(VIT["num_classes"], "softmax")(layers.GlobalAveragePooling2D()(x)))


FAMILIES = {
    "CNN": resnet,
    "ViT": lambda: keras_vit.VisionTransformer(**VIT),
    "hybrid": lambda: keras_vit.VisionTransformer(**VIT | CONV_STEM | dict(num_layers=3)),
}


def macs(model):
    """Returns the multiply-adds of an image: by `keras_vit.cost`, or those of the convolutions and the head."""
    if isinstance(model, keras_vit.VisionTransformer):
        return keras_vit.cost(model).macs
    kernels = [(layer.kernel.shape, layer.output.shape[1:-1]) for layer in model.layers if hasattr(layer, "kernel")]
    return sum(int(np.prod(kernel) * np.prod(places)) for kernel, places in kernels)


@functools.cache
def cached(weights, quick, images):
    """Returns the last part of a pretrained model, its ninth block and a new head, the weights of this part, and what it reads."""
    model = keras_vit.from_pretrained(weights)
    side, count = 4 * model.config.patch[0], min(9, model.config.num_layers)
    model = model.adapt(num_layers=count, num_classes=10, pooling="token_gap", input_shape=(side, side, 3))
    between, splits = model.get_layer(f"block_{count - 1}").input, data(quick, images, side=side).splits
    first, last = keras.Model(model.input, between), keras.Model(between, model.output)
    read = {"train": splits["train"], "validation": splits["validation"].take(16), "test": splits["test"]}
    labels = {name: np.concatenate([y for _, y in batches.as_numpy_iterator()]) for name, batches in read.items()}
    return last, last.get_weights(), {name: (first.predict(batches, verbose=0), labels[name]) for name, batches in read.items()}


def fine_tune(options, images, seed, rate):
    """Trains a pretrained model, and returns its results."""
    if options.all_layers:
        model = keras_vit.from_pretrained(options.weights, num_classes=10, pooling="token_gap")
        model = model.adapt(input_shape=(4 * model.config.patch[0],) * 2 + (3,))
        batches = data(options.quick, images, "weak", seed, model.config.image_size[0])
        found = train(model, batches.train_from(0), options.steps, rate / 10, layer_decay=0.75)
        return found | {"validation": accuracy(model, batches.validation.take(16)), "test": accuracy(model, batches.test)}
    model, weights, splits = cached(options.weights, options.quick, min(16_000, max(options.sizes)))
    model.set_weights(weights)
    found = train(model, repeated(*(values[:images] for values in splits["train"]), seed), options.steps, rate)
    return found | {name: model.evaluate(*splits[name], BATCH, verbose=0)[1] for name in ("validation", "test")}
