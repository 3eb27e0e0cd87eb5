"""What it takes until a model is there: importing, building, and loading a file of weights, beside importing Keras and reading the file.

python benchmarks/startup.py            # ViT-B/16 and ViT-L/16, in a GB of temporary files
python benchmarks/startup.py --quick    # ViT-Ti/16

Every run is a process of its own; those that are compared take turns. Prints medians of wall time, of the processor time of all threads,
and of the memory at its peak over that before. Other work on the machine spoils the first more than the second. The file is read through
one buffer, so that no new memory is counted as reading.
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
def memory():  # in MB, the peak; 0 where the system does not say
    if not os.path.exists("/proc/self/status"):
        return 0
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
{before}
begun = now()
{measured}
print(json.dumps([end - begin for begin, end in zip(begun, now())]))
"""

READY = "import keras, keras_vit; keras_vit.ViTTi16(num_layers=1)  # what the backend takes at its first variable"
READ = """
memory_of_file = bytearray(16 << 20)
with open({path!r}, "rb", buffering=0) as file:
    while file.readinto(memory_of_file):
        pass
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
    parser.add_argument("--quick", action="store_true", help="a small model")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    models = ["ViTTi16"] if arguments.quick else ["ViTB16", "ViTL16"]

    print(f"{'':32} {'wall':>10} {'processor':>10} {'memory':>11}")
    compare(arguments.rounds, import_keras=("import keras",), import_keras_vit=("import keras_vit",))
    compare(arguments.rounds, **{f"build_{name}": (f"model = keras_vit.{name}()", READY) for name in models})
    with tempfile.TemporaryDirectory() as folder:
        save = f"keras_vit.checkpoints.save(keras_vit.{models[-1]}(), {folder!r}, format='timm')"
        measure(save, READY)
        path = os.path.join(folder, "model.safetensors")
        load = (f"model = keras_vit.from_pretrained({path!r})", READY)
        compare(arguments.rounds, **{"read_the_file": (READ.format(path=path), READY), f"load_{models[-1]}": load})


if __name__ == "__main__":
    main()
