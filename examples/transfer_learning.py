"""Fine-tunes a pretrained Vision Transformer on few images with plain Keras: first a new head, then all layers; and from scratch beside it.

    pip install ".[demo]"
    python examples/transfer_learning.py                                          # --quick: to see that it runs
    python examples/transfer_learning.py --weights ViTTi16:augreg_in21k_ft_in1k --side 64
    python examples/transfer_learning.py --weights hf://timm/vit_small_patch14_dinov2.lvd142m --side 56

The task is to read the digits 6 to 9 of scikit-learn from `--images` examples. `--weights` is a preset and a tag, the folder of a run, or
anything that `keras_vit.from_pretrained` reads. Without it, the script first pretrains a small model on the digits 0 to 5.
"""

import argparse

import keras_vit
import keras
import numpy as np
from keras_vit.training.weights import open_model
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def digits(classes, side, images=None):
    data = load_digits()
    chosen = np.isin(data.target, classes)
    pixels = np.repeat(data.images[chosen, ..., None] * (255 / 16), 3, axis=-1).astype("float32")
    pixels = keras.ops.convert_to_numpy(keras.ops.image.resize(pixels, (side, side)))
    labels = data.target[chosen] - classes[0]
    return train_test_split(pixels, labels, train_size=images, stratify=labels, random_state=0)


def fit(model, learning_rate, data, steps):
    images, test_images, labels, test_labels = data
    model.compile(keras.optimizers.AdamW(learning_rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, labels, batch_size=32, epochs=max(1, steps * 32 // len(images)), verbose=0)
    return model.evaluate(test_images, test_labels, verbose=0)[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights")
    parser.add_argument("--side", type=int, default=16, help="pixels of the enlarged digits; positions are resampled to it")
    parser.add_argument("--images", type=int, default=40, help="training images")
    parser.add_argument("--steps", type=int, default=150, help="of each training; pretraining takes six times as many")
    parser.add_argument("--quick", action="store_true", help="one layer, two steps")
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    steps, shape = 2 if options.quick else options.steps, (options.side, options.side, 3)
    if options.weights:
        pretrained = open_model(options.weights).adapt(input_shape=shape)
    else:
        pretrained = keras_vit.ViTMicro4(num_classes=6, input_shape=shape, num_layers=1 if options.quick else 6)
        accuracy = fit(pretrained, 1e-3, digits(range(6), options.side), 6 * steps)
        print(f"pretrained on digits 0 to 5: test accuracy {accuracy:.3f}")

    data = digits(range(6, 10), options.side, options.images)
    model = pretrained.adapt(num_classes=4)  # a new head
    for layer in model.layers:
        layer.trainable = layer.name == "head"
    print(f"digits 6 to 9, head trained:   test accuracy {fit(model, 1e-2, data, steps):.3f} after {options.images} images")
    for layer in model.layers:
        layer.trainable = True
    print(f"digits 6 to 9, all trained:    test accuracy {fit(model, 1e-4, data, steps):.3f}")
    scratch = keras_vit.VisionTransformer.from_config(model.get_config())
    print(f"the same model from scratch:   test accuracy {fit(scratch, 5e-4, data, 2 * steps):.3f}")


if __name__ == "__main__":
    main()
