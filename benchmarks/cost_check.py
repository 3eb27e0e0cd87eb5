"""Compares what `keras_vit.estimate_step` predicts with measured training steps, over models, patches, sizes and backends.

    python benchmarks/cost_check.py                       # prints Markdown tables; exits with 1 if a goal is missed
    python benchmarks/cost_check.py --backends torch --json cost.json

Goals: parameters and multiply-adds exact, peak memory within 10 %, time of a step within 20 %.

All backends run at once, a process each, and take turns: while one times steps, the others wait or compile. Each times the tiny models of
the calibration among those of the check. As root, timed steps run at real-time priority, so that other programs do not disturb them.

A second process measures memory, with an allocator that gives freed memory back: the peak of a step over what stood before, and weights,
optimizer and images by their sizes. On JAX it is XLA's analysis of the compiled step.
"""

import argparse
import concurrent.futures
import gc
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import filelock

BACKENDS = ("tensorflow", "jax", "torch")
# Preset, patch, side of the image, batch, and what differs from float32 with AdamW.
ROWS = [
    ("ViTTi16", 16, 224, 8, {}),
    ("ViTTi16", 32, 96, 64, {}),
    ("ViTTi16", 8, 160, 4, {}),
    ("ViTTi16", 16, 512, 2, {}),
    ("ViTS16", 16, 224, 4, {}),
    ("ViTS16", 32, 384, 8, {}),
    ("ViTS16", 8, 224, 1, {}),
    ("ViTS16", 16, 96, 16, {}),
    ("ViTB16", 32, 224, 4, {}),
    ("ViTB16", 16, 224, 2, {}),
    ("ViTB16", 16, 384, 1, {}),
    ("ViTB16", 32, 512, 2, {}),
]
MEMORY, TIME = 0.10, 0.20
LOCK = pathlib.Path(tempfile.gettempdir()) / "keras_vit_cost_check.lock"
ROOT = pathlib.Path(__file__).resolve().parents[1]


def arguments_of(row):
    model, patch, side, _, more = row
    from keras_vit.presets import preset

    return {**preset(model), "patch_size": patch, "input_shape": (side, side, 3), "num_classes": 1000, **more}


# In a process of a backend


def status(name):
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))


def real_time(on):
    """Lets all threads of this process go before those of other programs, if this user may."""
    for thread in os.listdir("/proc/self/task"):
        try:
            os.sched_setscheduler(int(thread), os.SCHED_RR if on else os.SCHED_OTHER, os.sched_param(int(on)))
        except (ProcessLookupError, PermissionError):
            pass


def timed(step, seconds):
    """Returns the median time of a step, of at least five."""
    import numpy as np

    for _ in range(2):
        step()
    with filelock.FileLock(LOCK):
        real_time(True)
        step()
        found, begun = [], time.perf_counter()
        while len(found) < 5 or time.perf_counter() - begun < seconds:
            start = time.perf_counter()
            step()
            found.append(time.perf_counter() - start)
        real_time(False)
    return float(np.median(found))


def times(job, row, seconds):
    import keras_vit
    from keras_vit.profiling.steps import step_of

    found = {"seconds": timed(step_of(job), seconds)}
    if row is not None and os.environ["KERAS_BACKEND"] == "tensorflow" and row[0] != "ViTB16":  # which takes long to build again
        model = keras_vit.VisionTransformer(**job.arguments)
        found["parameters"] = [keras_vit.cost(model).parameters, model.count_params()]
        found["macs"] = [keras_vit.cost(model).macs, macs_of_the_graph(model)]
    return found


def macs_of_the_graph(model):
    """Counts the multiply-adds of TensorFlow's graph by the shapes of its operations, all tokens in every block."""
    import keras
    import tensorflow as tf

    whole = keras.Model(model.input, model.output)  # which has no shortcut in its last block
    total = 0
    for op in tf.function(whole).get_concrete_function(tf.TensorSpec((1, *model.input_shape[1:]))).graph.get_operations():
        if op.type == "Conv2D":
            rows, columns, channels, _ = op.inputs[1].shape
            total += op.outputs[0].shape.num_elements() * rows * columns * channels
        elif op.type in ("MatMul", "BatchMatMulV2"):
            transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
            total += op.outputs[0].shape.num_elements() * op.inputs[0].shape[-2 if transposed else -1]
        elif op.type in ("While", "StatelessWhile"):  # attention of long sequences, a head at a time: counted by its formula
            c = model.config
            total += 2 * c.num_tokens**2 * c.hidden_dim
    return total


def peak(job):
    """Returns the bytes that a step holds at its peak."""
    import keras
    import numpy as np

    import keras_vit
    from keras_vit.profiling.steps import step_of

    if keras.backend.backend() == "jax":
        return peak_by_xla(job)
    step = step_of(job)
    for _ in range(2):
        step()
    gc.collect()
    before = status("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew
    step()
    weights = 4 * keras_vit.cost(job.arguments).parameters
    images = 4 * job.batch_size * int(np.prod(job.arguments["input_shape"]))
    copies = {"SGD": 1}.get(job.optimizer, 2)
    gradients = weights * (keras.backend.backend() == "torch")  # which torch keeps until the next backward pass
    return status("VmHWM") - before + weights * (1 + copies) + gradients + images


def peak_by_xla(job):
    import jax
    import keras
    import numpy as np

    from keras_vit.training import AdamW
    from keras_vit.vision_transformer import VisionTransformer

    model = VisionTransformer(**job.arguments)
    model.compile(AdamW(1e-4, weight_decay=0.05), "sparse_categorical_crossentropy")
    data = (np.zeros((job.batch_size, *model.input_shape[1:]), "float32"), np.zeros(job.batch_size, "int32"), None)
    model._symbolic_build(data_batch=data)
    kinds = ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables")
    state = model._get_jax_state(**dict.fromkeys(kinds, True))
    found = jax.jit(model.train_step, donate_argnums=0).lower(state, data).compile().memory_analysis()
    keras.utils.clear_session()
    return found.argument_size_in_bytes + found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes


def worker(kind, seconds):
    import keras

    from keras_vit.profiling.calibration import fit, jobs
    from keras_vit.profiling.steps import Job

    rows = [Job(arguments_of(row), row[3], True) for row in ROWS]
    calibration = jobs(True) if kind == "time" else []
    found = {"rows": [], "calibration": []}
    for number in range(max(len(rows), len(calibration))):  # by turns
        for key, some in (("calibration", calibration), ("rows", rows)):
            if number < len(some):
                row = ROWS[number] if key == "rows" else None
                found[key].append(peak(some[number]) if kind == "memory" else times(some[number], row, seconds))
                print(kind, keras.backend.backend(), key, number, found[key][-1], file=sys.stderr, flush=True)
                keras.utils.clear_session()
                gc.collect()
    if kind == "time":
        found["machine"] = fit(True, None, [each["seconds"] for each in found["calibration"]])._asdict()
    print("\n" + json.dumps(found))


# In the driver


def run(kind, backend, seconds):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if kind == "memory":
        environment |= {
            "TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1",  # TensorFlow's own keeps what it has had
            "MALLOC_MMAP_THRESHOLD_": "1000000",
            "MALLOC_TRIM_THRESHOLD_": "1000000",
            "MALLOC_ARENA_MAX": "1",
            # Buffers are assigned before this, which only saves time.
            "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
        }
    command = [sys.executable, __file__, "--worker", kind, "--seconds", str(seconds)]
    text = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(text.splitlines()[-1])


def measure(backend, seconds):
    return {kind: run(kind, backend, seconds) for kind in ("time", "memory")}


def table(backend, memory, measured):
    """Returns the Markdown of a backend, and whether all goals are met."""
    from keras_vit.cost import Machine, step_memory
    from keras_vit.cost.seconds import step_seconds

    machine = measured["machine"]
    machine = Machine(**machine | {"dense": {int(width): value for width, value in machine["dense"].items()}})
    lines = [f"| {backend} | tokens | batch | peak, MB | measured | error | step, ms | measured | error |", "| --- " * 9 + "|"]
    good = True
    for row, held, took in zip(ROWS, memory["rows"], measured["rows"]):
        arguments, batch = arguments_of(row), row[3]
        predicted = step_memory(arguments, batch, backend=backend).total
        seconds = step_seconds(arguments, batch, machine).total
        errors = predicted / held - 1, seconds / took["seconds"] - 1
        good &= abs(errors[0]) <= MEMORY and abs(errors[1]) <= TIME
        good &= all(ours == theirs for ours, theirs in (took.get("parameters", (0, 0)), took.get("macs", (0, 0))))
        tokens = (row[2] // row[1]) ** 2 + 1
        cells = [f"{row[0][3:-2]}/{row[1]} at {row[2]}", tokens, batch, f"{predicted / 1e6:,.0f}", f"{held / 1e6:,.0f}"]
        cells += [mark(errors[0], MEMORY), f"{1e3 * seconds:,.0f}", f"{1e3 * took['seconds']:,.0f}", mark(errors[1], TIME)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    for name in ("parameters", "macs"):
        counted = [took[name] for took in measured["rows"] if name in took]
        if counted:
            lines.append(f"\n{name}: {sum(ours == theirs for ours, theirs in counted)} of {len(counted)} exact")
    return "\n".join(lines) + "\n", good


def mark(error, limit):
    return f"{100 * error:+.0f} %" if abs(error) <= limit else f"**{100 * error:+.0f} %**"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--seconds", type=float, default=1.5, help="of the timed steps of a model")
    parser.add_argument("--json", type=pathlib.Path, help="where everything measured is written")
    parser.add_argument("--from", dest="read", type=pathlib.Path, help="a file of --json, whose tables are printed again")
    parser.add_argument("--worker", choices=("time", "memory"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(options.worker, options.seconds)
    if options.read:
        found = json.loads(options.read.read_text())
    else:
        with concurrent.futures.ThreadPoolExecutor() as pool:
            found = dict(zip(options.backends, pool.map(lambda backend: measure(backend, options.seconds), options.backends)))
    if options.json:
        options.json.write_text(json.dumps(found) + "\n")
    good = True
    for backend in options.backends:
        text, met = table(backend, found[backend]["memory"], found[backend]["time"])
        print(text, flush=True)
        good &= met
    print("All goals are met." if good else "Goals are missed: in bold.")
    sys.exit(not good)


if __name__ == "__main__":
    main()
