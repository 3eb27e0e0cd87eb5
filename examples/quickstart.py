"""Trains a small Vision Transformer on handwritten digits with plain Keras, saves it, loads it again, and reads ten digits with it.

    pip install ".[demo]"
    python examples/quickstart.py --output runs/quickstart           # --quick: to see that it runs

The folder holds `model.keras` and the ten digits as PNG files, which the other examples and `keras-vit predict` take.
"""

import argparse
import pathlib

import keras_vit
import keras
import numpy as np


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/quickstart"))
    parser.add_argument("--quick", action="store_true", help="one epoch on 64 images")
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    images = 64 if options.quick else None
    data = keras_vit.data.load("digits", batch_size=32, augmentation="digits", image_size=32, train_images=images)
    model = keras_vit.ViTMicro4(num_classes=10, input_shape=data.image_shape, num_layers=1 if options.quick else 6)
    epochs = 1 if options.quick else 30
    schedule = keras.optimizers.schedules.CosineDecay(1e-3, epochs * data.steps_per_epoch)
    model.compile(keras.optimizers.AdamW(schedule, weight_decay=0.05), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(data.train, validation_data=data.validation, epochs=epochs, verbose=2)
    print(f"test accuracy {model.evaluate(data.test, verbose=0)[1]:.3f}")

    options.output.mkdir(parents=True, exist_ok=True)
    model.save(options.output / "model.keras")

    model = keras.saving.load_model(options.output / "model.keras")
    images, labels = next(iter(data.test.unbatch().batch(10)))
    answers = model.predict_on_batch(images)
    for number, (image, label, answer) in enumerate(zip(images, labels, answers)):
        path = options.output / f"{number}.png"
        keras.utils.save_img(path, np.asarray(image), scale=False)
        print(f"{path}: a {label}, read as {answer.argmax()} with probability {answer.max():.2f}")


if __name__ == "__main__":
    main()
