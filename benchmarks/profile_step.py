"""Says where the time of a step goes on TensorFlow's CPU: prints a Markdown table of the kinds of operations.

    python benchmarks/profile_step.py                                   # a training step of ViT-S/16 on 8 images
    python benchmarks/profile_step.py --kind inference --model ViTB16 --batch 1

One operation runs after another here, each on all cores, so that the times add up to the step's; in `fit` they overlap.
"""

import argparse
import collections
import glob
import os
import re
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

COMPILED = "CpuExecutable::ExecuteAsyncOnStream"
KINDS = {  # of an event "name:operation", the first that is found in it
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


def events(function, steps):
    """Returns {event: ms a step} of TensorFlow's profiler."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            for _ in range(steps):
                function()
        space = xplane_pb2.XSpace()
        with open(glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)[0], "rb") as file:
            space.ParseFromString(file.read())
    found = collections.Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                found[plane.event_metadata[event.metadata_id].name] += event.duration_ps / 1e9 / steps
    return found


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
    import tensorflow as tf

    import keras_vit

    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = getattr(keras_vit, options.model)(dtype=options.dtype, classifier_activation=None)
    model.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images = np.random.default_rng(0).uniform(0, 255, (options.batch, *model.input_shape[1:])).astype("float32")
    labels = np.arange(options.batch)

    def step():
        return model.train_on_batch(images, labels) if options.kind == "train" else model.predict_on_batch(images)

    step(), step()
    found = events(step, options.steps)
    whole = max(time for event, time in found.items() if event.startswith("one_step_on_data"))
    times = dict.fromkeys(KINDS, 0.0)
    for event, time in found.items():
        kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, event)), None)
        if kind and "::" not in event or event == COMPILED:
            times[kind] += time
    times["between operations"] = whole - sum(times.values())
    print(f"{options.model}, {options.kind}, batch {options.batch}, {options.dtype}: {whole:.0f} ms a step\n")
    print("| | ms | share |\n| --- | --- | --- |")
    for kind, time in times.items():
        if time > 0.001 * whole:
            print(f"| {kind} | {time:.0f} | {100 * time / whole:.0f} % |")


if __name__ == "__main__":
    main()
