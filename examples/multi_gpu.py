"""Trains on all GPUs of this machine, or on two virtual CPU devices where there is none, and shows that one device gives the same.

    pip install ".[demo]"
    python examples/multi_gpu.py                     # --quick: to see that it runs

For several machines see examples/multi_worker.py, for JAX examples/jax_sharded.py.
"""

import argparse
import time

import keras_vit
import keras
import numpy as np
import tensorflow as tf
from keras_vit.training import strategy, virtual_devices


def train(chosen, options):
    keras.utils.set_random_seed(0)
    data = keras_vit.data.load("digits", batch_size=64)  # of all devices together
    with chosen.scope():
        model = keras_vit.ViTMicro4(num_classes=10, input_shape=data.image_shape, num_layers=1 if options.quick else 6)
        model.compile(keras_vit.training.AdamW(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
        start = time.monotonic()
        history = model.fit(data.train, epochs=1 if options.quick else 5, steps_per_epoch=2 if options.quick else None, verbose=0).history
        seconds = time.monotonic() - start
        accuracy = model.evaluate(data.test, verbose=0)[1]
    print(f"{chosen.num_replicas_in_sync} device(s): loss {' '.join(f'{loss:.5f}' for loss in history['loss'])}")
    print(f"    test accuracy {accuracy:.3f}, {seconds:.0f} s", flush=True)
    return model.get_weights()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two steps of one layer")
    options = parser.parse_args()
    if not tf.config.list_physical_devices("GPU"):
        virtual_devices("cpu:2")  # the cores of one machine: this shows that it works, and is no faster
    several, one = (train(strategy(name), options) for name in ("mirrored", "one_device"))
    print(f"largest difference of a weight: {max(np.abs(a - b).max() for a, b in zip(several, one)):.1e}")


if __name__ == "__main__":
    main()
