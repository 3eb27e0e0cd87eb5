"""Profiles a step on the CPU, on TensorFlow or JAX. Prints a Markdown table of the time by kind of operation.

    python benchmarks/profile_step.py                                   # a training step of ViT-S/16 on 8 images
    python benchmarks/profile_step.py --kind inference --model ViTB16 --batch 1
    KERAS_BACKEND=jax python benchmarks/profile_step.py

On TensorFlow, operations run one after another here, each on all cores, so that the times add up to that of the step. In `fit` they
overlap. On JAX, some overlap here, too.
"""

import argparse
import collections
import glob
import os
import re
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
BACKEND = os.environ.setdefault("KERAS_BACKEND", "tensorflow")

COMPILED = "CpuExecutable::ExecuteAsyncOnStream"
ON_TENSORFLOW = {  # kind of operation -> pattern of events "name:operation"; the first match counts
    "attention's products": r":_?\w*BatchMatMul(V2)?$",
    "dense layers' products, backward": r"^gradient_tape.*:_?\w*MatMul$",
    "dense layers' products with bias and sum, forward": r":_?\w*MatMul$",
    "compiled by XLA: in training normalization, GELU and the optimizer's step, in hybrids group normalization": f"^{COMPILED}$",
    "softmax, and multiplication, subtraction and sums for it": r"attention\w*/(Softmax|mul|sub|Sum)[^/]*:",
    "normalization, GELU": r"(norm\w*|Gelu\w*|mlp\w*)/[^/]*:",
    "heads apart and together": r":_?\w*(Transpose|Pack|Unpack|Reshape)$",
    "biases' gradients": r":BiasAddGrad$",
    "convolutions": r":_?\w*Conv\w*$",
    "other operations": r"^[^:]*:_?[A-Z]\w*$",
}
ON_JAX = {  # kind of operation -> pattern of the names that XLA gives to compiled operations
    "products of matrices": r"^(ynn_fusion|dot|dot_general)\b",
    "convolutions": r"^conv",
    "copies, slices and transposes": r"^(wrapped_)?(copy|transpose|slice|concatenate|bitcast|pad|broadcast)(_(copy|bitcast|fusion))*\b",
    "other fused operations": r"fusion|^(wrapped_|reduce)",
}
KINDS = ON_JAX if BACKEND == "jax" else ON_TENSORFLOW


def profiled(function, steps):
    """Returns the milliseconds of a step, and of each event in it, by the backend's profiler."""
    found = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        with profiler()(folder):
            began = time.perf_counter()
            for _ in range(steps):
                function()
            whole = 1e3 * (time.perf_counter() - began) / steps
        (file,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        for name, nanoseconds in events(file):
            found[name] += nanoseconds / 1e6 / steps
    return whole, found


def profiler():
    if BACKEND == "jax":
        import jax

        return jax.profiler.trace
    import tensorflow as tf

    return tf.profiler.experimental.Profile


def events(file):
    """Yields (name, nanoseconds) of a profile."""
    if BACKEND == "jax":
        import jax

        lines = (line for plane in jax.profiler.ProfileData.from_file(file).planes for line in plane.lines)
        # Only events of XLA's threads: the others are Python's.
        yield from ((event.name, event.duration_ns) for line in lines if line.name.startswith("tf_XLA") for event in line.events)
        return
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    with open(file, "rb") as content:
        space.ParseFromString(content.read())
    for plane in space.planes:
        for line in plane.lines:
            yield from ((plane.event_metadata[event.metadata_id].name, event.duration_ps / 1e3) for event in line.events)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViTS16", help="a function of keras_vit")
    parser.add_argument("--kind", default="train", choices=["train", "inference"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()

    import keras
    import numpy as np

    import keras_vit

    if BACKEND not in ("tensorflow", "jax"):
        parser.error(f"this script needs TensorFlow or JAX. Received: KERAS_BACKEND={BACKEND}")
    if options.model not in keras_vit.list_models():
        parser.error(f"the model must be one of keras_vit.list_models(). Received: {options.model}")
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_inter_op_parallelism_threads(1)
    model = getattr(keras_vit, options.model)(dtype=options.dtype, classifier_activation=None)
    model.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images = np.random.default_rng(0).uniform(0, 255, (options.batch, *model.input_shape[1:])).astype("float32")
    labels = np.arange(options.batch)

    def step():
        return model.train_on_batch(images, labels) if options.kind == "train" else model.predict_on_batch(images)

    step(), step()
    whole, found = profiled(step, options.steps)
    if BACKEND == "tensorflow":  # without Keras's Python code around the step
        whole = max(ms for event, ms in found.items() if event.startswith("one_step_on_data"))
    times = dict.fromkeys(KINDS, 0.0)
    for event, ms in found.items():
        kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, event)), None)
        if kind and "::" not in event and not event.startswith("end: ") or event == COMPILED:
            times[kind] += ms
    times["between operations"] = whole - sum(times.values())
    print(f"{options.model}, {options.kind}, batch {options.batch}, {options.dtype}, {BACKEND}: {whole:.0f} ms per step\n")
    print("| | ms | share |\n| --- | --- | --- |")
    for kind, ms in times.items():
        if ms > 0.001 * whole:
            print(f"| {kind} | {ms:.0f} | {100 * ms / whole:.0f} % |")


if __name__ == "__main__":
    main()
