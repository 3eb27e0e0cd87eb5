"""Fine-tunes a pretrained Vision Transformer with plain Keras: first the new head, then all layers.

    python examples/finetune.py --weights augreg_in21k
    python examples/finetune.py --weights hf://timm/vit_small_patch14_dinov2.lvd142m --side 56 --images 500

The data are scikit-learn's digits, enlarged. Replace them by your own `tf.data.Dataset` or arrays. `--weights` is a tag of ViTB16 (see
keras_vit.list_weights) or anything that from_pretrained reads. Without it, the model starts from random weights, for comparison.
"""

import argparse

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_vit


def digits(side, images):
    data = load_digits()
    pixels = np.repeat(data.images[..., None] * (255 / 16), 3, axis=-1).astype("float32")
    pixels = keras.ops.convert_to_numpy(keras.ops.image.resize(pixels, (side, side)))
    return train_test_split(pixels, data.target, train_size=images, stratify=data.target, random_state=0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default=None)
    parser.add_argument("--side", type=int, default=64, help="pixels of the enlarged digits; positions are resampled to it")
    parser.add_argument("--images", type=int, default=200, help="training images")
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    train_images, test_images, train_labels, test_labels = digits(options.side, options.images)
    test_images, test_labels = test_images[:500], test_labels[:500]
    arguments = dict(num_classes=10, input_shape=(options.side, options.side, 3), drop_path_rate=0.1)
    if options.weights is None or options.weights in [row.tag for row in keras_vit.list_weights("ViTB16")]:
        model = keras_vit.ViTB16(weights=options.weights, **arguments)
    else:
        model = keras_vit.from_pretrained(options.weights, **arguments)

    for frozen, learning_rate in ((True, 1e-2), (False, 3e-5)):
        for layer in model.layers:
            layer.trainable = layer.name == "head" or not frozen
        model.compile(keras.optimizers.AdamW(learning_rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(train_images, train_labels, batch_size=32, epochs=options.epochs, verbose=2)
        _, accuracy = model.evaluate(test_images, test_labels, verbose=0)
        print(f"{'head' if frozen else 'all'} trained: test accuracy {accuracy:.3f} after {options.images} images")


if __name__ == "__main__":
    main()
