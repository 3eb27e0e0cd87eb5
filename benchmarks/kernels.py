"""Measures each fast implementation in our layers beside the plain one. Prints a Markdown table of time and extra memory.

    python benchmarks/kernels.py                              # the groups of TensorFlow, in a few minutes
    KERAS_BACKEND=jax python benchmarks/kernels.py            # attention and remat
    KERAS_BACKEND=torch python benchmarks/kernels.py          # attention, remat and calls

    norm        layer normalization of the tokens of 8 images in ViT-B/16: Keras's operations, and the single kernel of `predict`
    groups      group normalization of 8 feature maps of 112 x 112 x 64, the first in a hybrid: Keras's operations, and compiled ones
    training    the parts of a training step that `fit` fuses, in float32, for 8 images and ViT-S/16: output and gradient of a normalization
                and of GELU, the update of AdamW, and the whole step, with Keras's operations and with ours
    attention   6 heads of width 64, 2 images: all heads at once, and our layer's order; output, and gradient
    calls       on torch, a small model of 12 blocks: sublayers called as Keras does, and by their `call` method directly
    remat       a training step of ViT-Ti/16 on 32 images, without and with `remat`; the memory is that of the activations

Each row runs in a process of its own, and the rows of a group take turns.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
FORMS = {
    "norm": ("keras", "one kernel"),
    "groups": ("keras", "compiled"),
    "training": ("keras", "fused"),
    "attention": ("at once", "ours"),
    "calls": ("keras", "bare"),
    "remat": ("all kept", "remat"),
}
CASES = {
    "norm": ("float32", "bfloat16"),
    "groups": ("float32",),
    "training": ("normalization", "gelu", "AdamW", "step"),
    "attention": [f"{tokens} tokens, {what}" for tokens in (577, 1025, 2305, 4097) for what in ("forward", "gradient")],
    "calls": ("forward", "training step"),
    "remat": ("training step",),
}
ONLY_ON = {"norm": "tensorflow", "groups": "tensorflow", "training": "tensorflow", "calls": "torch"}
BACKEND = os.environ.setdefault("KERAS_BACKEND", "tensorflow")


def norm(form, dtype):
    import tensorflow as tf

    from keras_vit.layers import LayerNormalization
    from keras_vit.runtime.step import tracing

    layer, tokens = LayerNormalization(dtype=dtype), tf.cast(tf.random.normal((8 * 197, 768)), dtype)
    layer.build(tokens.shape)

    @tf.function
    def run(tokens):
        with tracing("inference" if form == "one kernel" else None):
            return layer(tokens)

    return lambda: run(tokens)


def groups(form, dtype):
    import keras
    import tensorflow as tf

    from keras_vit.layers import resnet_stem
    from keras_vit.runtime.step import tracing

    layer = (resnet_stem if form == "compiled" else keras.layers).GroupNormalization(32, dtype=dtype)
    maps = tf.random.normal((8, 112, 112, 64))
    layer.build(maps.shape)

    @tf.function
    def run(maps):
        with tracing("inference" if form == "compiled" else None):
            return layer(maps)

    return lambda: run(maps)


def training(form, case):
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_vit
    from keras_vit.layers import LayerNormalization, activations
    from keras_vit.runtime import use_fast_paths
    from keras_vit.runtime.step import tracing
    from keras_vit.runtime.updates import apply_updates

    if case == "step":
        if form == "keras":
            use_fast_paths(False)
        model = keras_vit.ViTS16()
        model.compile("adamw", "sparse_categorical_crossentropy", jit_compile=False)
        images, labels = np.random.default_rng(0).uniform(0, 255, (8, 224, 224, 3)).astype("float32"), np.arange(8)
        return lambda: model.train_on_batch(images, labels)
    graph = tracing("training" if form == "fused" else None)
    if case == "AdamW":
        weights = keras_vit.ViTS16().trainable_variables
        gradients, optimizer = [tf.random.normal(v.shape) for v in weights], keras.optimizers.AdamW()
        optimizer.build(weights)

        @tf.function
        def step():
            with graph:
                apply_updates(optimizer, gradients, weights)

        return step
    width = {"normalization": 384, "gelu": 1536}[case]
    function = {"normalization": LayerNormalization(), "gelu": activations.get("gelu")}[case]
    inputs, upstream = tf.random.normal((8 * 197, width)), tf.random.normal((8 * 197, width))
    function(inputs)

    @tf.function
    def run():
        with graph, tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = function(inputs)
        return outputs, tape.gradient(outputs, [inputs, *getattr(function, "trainable_variables", [])], upstream)

    return run


def attention(form, case):
    import keras
    import numpy as np
    from keras import ops

    from keras_vit.runtime.attention import scaled_dot_product_attention

    def at_once(query, key, value):
        return ops.matmul(ops.softmax(ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))), value)

    attend = at_once if form == "at once" else scaled_dot_product_attention
    tokens, gradient = int(case.split()[0]), case.endswith("gradient")
    inputs = [ops.convert_to_tensor(np.random.default_rng(i).normal(0, 0.3, (2, 6, tokens, 64)), "float32") for i in range(3)]
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function
        def run(*inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = attend(*inputs)
            return tape.gradient(outputs, inputs) if gradient else outputs

        return lambda: run(*inputs)
    if keras.backend.backend() == "jax":
        import jax

        run = jax.jit(jax.grad(lambda *inputs: attend(*inputs).sum(), argnums=(0, 1, 2)) if gradient else attend)
        return lambda: jax.block_until_ready(run(*inputs))
    import torch

    inputs = [x.detach().requires_grad_(gradient) for x in inputs]
    return lambda: torch.autograd.grad(attend(*inputs).sum(), inputs) if gradient else attend(*inputs)


def calls(form, case):
    import keras
    import numpy as np

    from keras_vit import VisionTransformer
    from keras_vit.runtime import use_fast_paths

    use_fast_paths(form != "keras")
    model = VisionTransformer((32, 32, 3), 16, 64, 12, 4, 128, num_classes=10)
    model.compile(keras.optimizers.AdamW(), "sparse_categorical_crossentropy")
    images, labels = np.zeros((2, 32, 32, 3), "float32"), np.zeros(2)
    return lambda: model.predict_on_batch(images) if case == "forward" else model.train_on_batch(images, labels)


def remat(form, _):
    import numpy as np

    import keras_vit

    model = keras_vit.ViTTi16(remat=form == "remat")
    model.compile("sgd", "sparse_categorical_crossentropy")
    images, labels = np.random.default_rng(0).uniform(0, 255, (32, 224, 224, 3)).astype("float32"), np.arange(32)
    return lambda: model.train_on_batch(images, labels)


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextlib.contextmanager
def peak(start):
    """Yields a list of one number: when the block ends, how far the memory of the process rose above `start` at its peak, in MiB."""
    found, ended = [0.0], threading.Event()

    def watch():
        while not ended.wait(0.001):
            found[0] = max(found[0], resident() - start)

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield found
    ended.set()
    watcher.join()


def work(group, form, case, steps):
    run = globals()[group](form, case)
    start = resident()
    run()  # compiles
    with peak(start) as memory:
        seconds = []
        for _ in range(steps):
            began = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": seconds, "memory": memory[0]}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = [group for group in FORMS if ONLY_ON.get(group, BACKEND) == BACKEND]
    parser.add_argument("groups", nargs="*", default=here, metavar="GROUP", help=f"on {BACKEND}: {', '.join(here)}")
    parser.add_argument("--steps", type=int, default=5, help="timed steps in each process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each row")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(*options.work, options.steps)
    if unknown := set(options.groups) - set(here):
        parser.error(f"groups on {BACKEND} must be among {', '.join(here)}. Received: {', '.join(sorted(unknown))}")
    print("| | form | ms, median | ms, best | MiB |\n| --- | --- | --- | --- | --- |")
    for group in options.groups:
        for case in CASES[group]:
            records = {form: [] for form in FORMS[group]}
            for _ in range(options.rounds):
                for form, found in records.items():
                    command = [sys.executable, __file__, "--steps", str(options.steps), "--work", group, form, case]
                    found.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]))
            for form, found in records.items():
                times = [1e3 * seconds for record in found for seconds in record["seconds"]]
                memory = statistics.median(record["memory"] for record in found)
                print(f"| {group}, {case} | {form} | {statistics.median(times):.3g} | {min(times):.3g} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
