"""Shards a model over devices with JAX: data parallel, FSDP, and tensor parallel on a mesh of two axes.

    pip install ".[jax]" scikit-learn
    python examples/jax_sharded.py                   # --quick: to see that it runs

It takes the GPUs of this machine, or four virtual CPU devices. With fewer than four GPUs put JAX_PLATFORMS=cpu before the command. All ways
have the losses of one device; they differ in what each device holds. TensorFlow is not needed.
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "jax"

import keras_vit
import keras
import numpy as np
from keras_vit.training import layout_map, strategy, virtual_devices
from sklearn.datasets import load_digits

FORM = dict(input_shape=(16, 16, 3), patch_size=4, hidden_dim=96, num_heads=4, mlp_dim=192, num_classes=10)


def two_axes():
    """Images are divided over two devices, and heads and hidden units over two. With a layout map of your own it is the same."""
    mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"), keras.distribution.list_devices()[:4])
    layouts = layout_map(FORM | {"num_layers": 6}, mesh)
    return keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")


WAYS = {
    "one device": lambda: strategy("one_device"),
    "data parallel": lambda: strategy("mirrored"),
    "FSDP": lambda: strategy("fsdp"),
    "2 x 2, tensor parallel": two_axes,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one epoch of one layer on 64 images, the first and the last way only")
    options = parser.parse_args()
    virtual_devices("cpu:4")  # which JAX uses if it has no GPU

    bunch = load_digits()
    images = np.repeat(np.kron(bunch.images, np.ones((2, 2)))[..., None], 3, axis=-1).astype("float32") * (255 / 16)
    images, labels = (images[:64], bunch.target[:64]) if options.quick else (images[:1792], bunch.target[:1792])
    for name, way in WAYS.items():
        if options.quick and name in ("data parallel", "FSDP"):
            continue
        with way().scope():
            keras.utils.set_random_seed(0)
            model = keras_vit.VisionTransformer(num_layers=1 if options.quick else 6, **FORM)
            model.compile(keras_vit.training.AdamW(1e-3), "sparse_categorical_crossentropy")
            history = model.fit(images, labels, batch_size=64, epochs=1 if options.quick else 3, shuffle=False, verbose=0).history
        kept = sum(v.value.addressable_shards[0].data.nbytes for v in [*model.variables, *model.optimizer.variables])
        print(f"{name}: loss {' '.join(f'{loss:.5f}' for loss in history['loss'])}, {kept / 2**10:,.0f} KiB a device", flush=True)


if __name__ == "__main__":
    main()
