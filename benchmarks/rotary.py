"""Compares the time of encoder blocks with and without rotary position embedding.

    python benchmarks/rotary.py                            # ViT-S, B and L, inference and training, on TensorFlow
    KERAS_BACKEND=jax python benchmarks/rotary.py --models ViTB16 --batch 64 --dtype mixed_bfloat16

Both take turns, and each number is the fastest of its runs, because other programs only make a run slower.
"""

import argparse
import time

import keras
import numpy as np

import keras_vit

ROTARY = {"coordinates": "normalized", "base": 100.0}


def runs(config, kind, batch, dtype):
    """Returns a dict from whether positions are rotary to a function that runs a model of four blocks."""
    images = np.zeros((batch, *config.input_shape), "uint8").astype("float32")
    found = {}
    for rotary in (None, ROTARY):
        changes = dict(num_layers=4, num_classes=2, pooling="gap", rotary=rotary, position_embedding="none", dtype=dtype)
        model = keras_vit.VisionTransformer(**{**config.to_dict(), **changes, "class_names": None, "name": None})
        if kind == "training":
            model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=keras.backend.backend() == "jax")
            labels = np.zeros(batch, "int32")
            found[bool(rotary)] = lambda model=model, labels=labels: model.train_on_batch(images, labels)
        else:
            found[bool(rotary)] = lambda model=model: model.predict_on_batch(images)
    return found


def fastest(functions, repeats):
    """Returns {key: seconds of the fastest run}. Each function runs once to compile, and then the functions take turns."""
    for function in functions.values():
        function()
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats):
        for key, function in functions.items():
            began = time.perf_counter()
            function()
            best[key] = min(best[key], time.perf_counter() - began)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["ViTS16", "ViTB16", "ViTL16"])
    parser.add_argument("--kinds", nargs="+", default=["inference", "training"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=20)
    given = parser.parse_args()
    print("| model of four blocks | step | plain, ms | rotary, ms | longer |\n| --- | --- | --- | --- | --- |")
    for name in given.models:
        for kind in given.kinds:
            best = fastest(runs(keras_vit.ViTConfig.of(name), kind, given.batch, given.dtype), given.repeats)
            plain, rotary = best[False], best[True]
            print(f"| {name} | {kind} | {1e3 * plain:.1f} | {1e3 * rotary:.1f} | {rotary / plain - 1:+.1%} |", flush=True)


if __name__ == "__main__":
    main()
