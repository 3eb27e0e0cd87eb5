"""Measures importing, building and loading a model, and compares it with importing Keras and reading the file.

python benchmarks/startup.py                    # ViT-L/16, in 1.2 GB of temporary files
python benchmarks/startup.py --model ViTTi16    # a quick run
python benchmarks/startup.py --predict          # the ways to predict one image, on TensorFlow

Every run is a process, and the compared ones take turns. Prints medians of the wall time, of the CPU time of all threads, and of the peak
memory minus the memory before. Other work on the machine affects the wall time more than the CPU time. The file is read through one
buffer, so that reading does not count as new memory.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

MEASURE = """
import json, os, sys, time
def now():
    return time.perf_counter(), time.process_time(), memory()
def memory():  # peak in MB; 0 where the system does not report it
    if not os.path.exists("/proc/self/status"):
        return 0
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
{before}
begun = now()
{measured}
print(json.dumps([end - begin for begin, end in zip(begun, now())]))
"""

READY = "import keras, keras_vit; keras_vit.ViTTi16(num_layers=1)  # the first variable initializes the backend"
READ = """
memory_of_file = bytearray(16 << 20)
with open({path!r}, "rb", buffering=0) as file:
    while file.readinto(memory_of_file):
        pass
"""

# The ways take turns, so that other work on the machine affects all of them. The first two calls of each are not counted: they trace.
PREDICT = """
import os, statistics, time
os.environ["KERAS_BACKEND"] = "tensorflow"
import keras, keras_vit, numpy as np, tensorflow as tf
model = keras_vit.{model}(input_shape=(32, 32, 3), num_classes=10)
image = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3)).astype("float32")
graph = tf.function(lambda x: model(x, training=False))
ways = {{
    "tf.function(model)": lambda: graph(tf.constant(image)).numpy(),
    "model.predict_on_batch": lambda: model.predict_on_batch(image),
    "model.predict": lambda: model.predict(image, verbose=0),
    "Keras's predict": lambda: keras.Model.predict(model, image, verbose=0),
    "model(x)": lambda: model(image).numpy(),
}}
taken = {{way: [] for way in ways}}
for _ in range({rounds} + 2):
    for way, predict in ways.items():
        begun = time.perf_counter(), time.process_time()
        predict()
        taken[way].append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
print(f"{{'':32}} {{'wall':>11}} {{'processor':>11}}")
for way, found in taken.items():
    wall, processor = (1e3 * statistics.median(column) for column in zip(*found[2:]))
    print(f"{{way:32}} {{wall:8.1f}} ms {{processor:8.1f}} ms")
"""


def measure(measured, before=""):
    code = MEASURE.format(before=before, measured=measured)
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if process.returncode:
        sys.exit(process.stderr)
    return json.loads(process.stdout.splitlines()[-1])


def compare(rounds, **cases):
    """Measures cases `name=(measured, before)` in turn, and prints a row for each."""
    runs = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            runs[name].append(measure(*case))
    for name, found in runs.items():
        wall, processor, memory = (statistics.median(column) for column in zip(*found))
        print(f"{name.replace('_', ' '):32} {wall:8.3f} s {processor:8.3f} s {memory:8.0f} MB", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a function of keras_vit (default: ViTL16, with --predict ViTTi16)")
    parser.add_argument("--rounds", type=int, help="default: 5, with --predict 50")
    parser.add_argument("--predict", action="store_true", help="measure the ways to predict one image of 32 x 32 pixels instead")
    arguments = parser.parse_args()
    if arguments.predict:
        code = PREDICT.format(model=arguments.model or "ViTTi16", rounds=arguments.rounds or 50)
        sys.exit(subprocess.run([sys.executable, "-c", code]).returncode)
    model, rounds = arguments.model or "ViTL16", arguments.rounds or 5

    print(f"{'':32} {'wall':>10} {'processor':>10} {'memory':>11}")
    compare(rounds, import_keras=("import keras",), import_keras_vit=("import keras_vit",))
    compare(rounds, **{f"build_{model}": (f"model = keras_vit.{model}()", READY)})
    with tempfile.TemporaryDirectory() as folder:
        measure(f"keras_vit.checkpoints.save(keras_vit.{model}(), {folder!r}, format='timm')", READY)
        path = os.path.join(folder, "model.safetensors")
        load = (f"model = keras_vit.from_pretrained({path!r})", READY)
        compare(rounds, **{"read_the_file": (READ.format(path=path), READY), f"load_{model}": load})


if __name__ == "__main__":
    main()
