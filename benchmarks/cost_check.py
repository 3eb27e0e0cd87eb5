"""Compares what `keras_vit.estimate_step` predicts with measured training steps, over models, patches, sizes and backends.

    python benchmarks/cost_check.py --json cost.json          # prints the table; exits with 1 if a goal is missed
    python benchmarks/cost_check.py --json cost.json --docs   # also writes it into docs/cost.md

Goals: parameters and multiply-adds exact, peak memory within 10 %, time of a step within 20 %.

Row by row, the backends take turns. Each measurement has a process of its own, and no two processes run at the same time: one that waits
for its turn can slow down another, by its threads or by its memory. Calibrations, as `keras_vit.profiling.calibrate` makes them, are
measured before the first row and after the last; predictions are made from the mean of both.

    python benchmarks/cost_check.py --json cost.json --kinds memory   # not disturbed by other programs
    python benchmarks/cost_check.py --json cost.json --kinds time     # needs a quiet machine, for about ten minutes on two cores

What is measured is written to --json at once. The same command measures what that file lacks, and again what other programs disturbed (more
than 3 % of the processors). A process that does not answer in time is ended; its cell stays empty.

Memory is measured with an allocator that gives freed memory back: the peak of a step over what stood before, and weights, optimizer and
images by their sizes; the median of three steps. On JAX it is XLA's analysis of the compiled step.
"""

import argparse
import datetime
import gc
import importlib.metadata
import json
import os
import pathlib
import signal
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "torch"}
# Preset, patch, side of the image, batch.
ROWS = [
    ("ViTTi16", 16, 224, 8),
    ("ViTTi16", 32, 96, 64),
    ("ViTTi16", 8, 160, 4),
    ("ViTTi16", 16, 512, 2),
    ("ViTS16", 16, 224, 4),
    ("ViTS16", 32, 384, 8),
    ("ViTS16", 8, 224, 1),
    ("ViTS16", 16, 96, 16),
    ("ViTB16", 32, 224, 4),
    ("ViTB16", 16, 224, 2),
    ("ViTB16", 16, 384, 1),
    ("ViTB16", 32, 512, 2),
]
MEMORY, TIME = 0.10, 0.20
UNDISTURBED = 0.03  # share of the processors that other programs used
PATIENCE = 150.0  # seconds for a process to compile or measure
PAGE, BEGIN, END = ROOT / "docs" / "cost.md", "<!-- cost_check -->\n", "<!-- end of cost_check -->\n"


def arguments_of(row):
    from keras_vit.presets import preset

    model, patch, side, _ = row
    return {**preset(model), "patch_size": patch, "input_shape": (side, side, 3), "num_classes": 1000}


def name_of(row):
    return f"{row[0][3:-2]}/{row[1]} at {row[2]}"


# In a process for memory


def memory_worker():
    """Reads the number of a row as JSON, and answers what a step of it holds and how much the built model has of what is counted."""
    import keras

    import keras_vit
    from keras_vit.profiling.steps import Job

    row = ROWS[json.loads(sys.stdin.readline())]
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between
    job = Job(arguments_of(row), row[3], True)
    found = {"peak": peak(job)}
    if keras.backend.backend() == "tensorflow":
        model = keras_vit.VisionTransformer(**job.arguments)
        found["parameters"] = [keras_vit.cost(model).parameters, model.count_params()]
        found["macs"] = [keras_vit.cost(model).macs, macs_of_the_graph(model)]
    print(json.dumps(found), file=pipe, flush=True)


def status(name):
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))


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
    peaks = []
    for _ in range(3):  # TensorFlow computes what is ready in any order, and its peak differs from step to step
        gc.collect()
        before = status("VmRSS")
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak begins anew
        step()
        peaks.append(status("VmHWM") - before)
    weights = 4 * keras_vit.cost(job.arguments).parameters
    images = 4 * job.batch_size * int(np.prod(job.arguments["input_shape"]))
    copies = {"SGD": 1}.get(job.optimizer, 2)
    gradients = weights * (keras.backend.backend() == "torch")  # which torch keeps until the next backward pass
    return sorted(peaks)[1] + weights * (1 + copies) + gradients + images


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


# In the driver


def start_memory(backend, number):
    from keras_vit.profiling.steps import start_command

    environment = {
        "KERAS_BACKEND": backend,
        "TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1",  # TensorFlow's own keeps what it has had
        # Arrays of more than 64 KB go back to the system when they are freed, or what is left of earlier ones would not be counted.
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "MALLOC_ARENA_MAX": "1",
        # Buffers are assigned before this, which only saves time.
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    }
    return start_command([sys.executable, __file__, "--worker"], number, environment)


def time_of(backend, row, seconds):
    """Returns the times of a row's steps, timed for some seconds in a process of its own, and the share of other programs meanwhile."""
    from others import share_of_others

    from keras_vit.profiling.steps import Job, answer, proceed, start, stop

    running = start([Job(arguments_of(row), row[3], True, seconds=seconds, least=6)], backend)
    try:
        answer(running, PATIENCE)
        share = share_of_others(running.process.pid, "self")
        proceed(running)
        ((seconds, _),) = answer(running, PATIENCE)
        return {"seconds": sorted(seconds), "others": share()}
    finally:
        stop(running)


def memory_of(backend, number):
    """Returns what `memory_worker` finds for a row."""
    from keras_vit.profiling.steps import answer, stop

    running = start_memory(backend, number)
    try:
        return answer(running, PATIENCE)
    finally:
        stop(running)


def calibration(backend):
    """Returns the seconds of a calibration's probes, how long it took after the import, and the share of other programs."""
    import subprocess

    from others import share_of_others

    code = (
        "import json, time; from keras_vit.profiling import calibration as c; begun = time.perf_counter(); "
        "probes, page = c.measured(True); "
        "print(json.dumps({'probes': probes, 'page': page, 'took': time.perf_counter() - begun}))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    share = share_of_others("self")
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=2 * PATIENCE)
    if found.returncode:
        raise RuntimeError(found.stderr.strip().splitlines()[-1])
    return json.loads(found.stdout.splitlines()[-1]) | {"others": share()}


def measure(found, keep, backends, kinds, seconds):
    """Fills in what is missing or was disturbed in `found`, and calls `keep` after every measurement."""

    def fill(kept, key, label, function, *arguments):
        before = kept[key].get("others", 0.0) if key in kept else 1.0
        if before > UNDISTURBED:
            try:
                now = function(*arguments)
            except RuntimeError as error:
                return print(f"{key} of {label}: {error}", file=sys.stderr, flush=True)
            if now.get("others", 0.0) < before:
                kept[key] = now
            keep()

    def calibrate(number):
        for backend in backends if "time" in kinds else ():
            fill(found["calibrations"].setdefault(backend, {}), str(number), f"the calibrations of {backend}", calibration, backend)

    calibrate(0)
    for number, row in enumerate(ROWS):
        kept = found["rows"].setdefault(" ".join(map(str, row)), {})
        for backend in backends:
            if "time" in kinds:
                fill(kept, f"{backend} time", name_of(row), time_of, backend, row, seconds)
            if "memory" in kinds:
                fill(kept, f"{backend} memory", name_of(row), memory_of, backend, number)
        print(f"{datetime.datetime.now():%H:%M:%S} {name_of(row)}", file=sys.stderr, flush=True)
    calibrate(1)


def machine_of(backend, calibrations):
    """Returns the `Machine` of the mean of a backend's calibrations, in a process of that backend."""
    import subprocess

    import numpy as np

    from keras_vit.cost import Machine

    mean = np.mean([each["probes"] for each in calibrations.values()], axis=0).tolist()
    page = float(np.mean([each["page"] for each in calibrations.values()]))
    code = f"import json; from keras_vit.profiling.calibration import fit; print(json.dumps(fit(True, None, {mean}, {page})._asdict()))"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    text = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    found = json.loads(text.splitlines()[-1])
    return Machine(**found | {"dense": {int(width): value for width, value in found["dense"].items()}})


def table(found, backends):
    """Returns the Markdown of what was measured, and a list of the goals that are missed."""
    import numpy as np

    from keras_vit.cost import step_memory
    from keras_vit.cost.seconds import step_seconds

    machines = {backend: machine_of(backend, found["calibrations"][backend]) for backend in backends if found["calibrations"].get(backend)}
    header = "".join(f" {BACKENDS[backend]}, MB | error | ms | error |" for backend in backends)
    lines, missed = [f"| | batch | tokens |{header}", "| --- " * (3 + 4 * len(backends)) + "|"], []
    others = []
    exact = {"parameters": [], "macs": []}
    for row in ROWS:
        kept, arguments, batch = found["rows"].get(" ".join(map(str, row)), {}), arguments_of(row), row[3]
        cells = [name_of(row), batch, (row[2] // row[1]) ** 2 + 1]
        for backend in backends:
            memory, times = kept.get(f"{backend} memory"), kept.get(f"{backend} time")
            pairs = [("", "", 1.0), ("", "", 1.0)]
            if memory:
                error = step_memory(arguments, batch, backend=backend).total / memory["peak"] - 1
                pairs[0] = f"{memory['peak'] / 1e6:,.0f}", error, MEMORY
                for name, counted in exact.items():
                    counted += [memory[name][0] == memory[name][1]] if name in memory else []
            if times:
                median = float(np.median(times["seconds"]))
                others.append(times["others"])
                error = step_seconds(arguments, batch, machines[backend]).total / median - 1 if backend in machines else ""
                pairs[1] = f"{1e3 * median:,.0f}", error, TIME
            for kind, (value, error, limit) in zip(("memory", "time"), pairs):
                good = error == "" or abs(error) <= limit
                cells += [value, error if error == "" else f"{100 * error:+.0f} %" if good else f"**{100 * error:+.0f} %**"]
                missed += [] if good else [f"the {kind} of {name_of(row)} on {BACKENDS[backend]}, {100 * error:+.0f} %"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    missed += [f"the exact number of {name}" for name, counted in exact.items() if not all(counted)]
    counted = " and ".join(f"{name.replace('macs', 'multiply-adds')} for {sum(each)}" for name, each in exact.items())
    took = ", ".join(
        f"{np.mean([each['took'] for each in found['calibrations'][backend].values()]):.0f} s on {BACKENDS[backend]}"
        for backend in machines
    )
    kinds = ", ".join(f"{sum(each.startswith(f'the {kind}') for each in missed)} of {kind}" for kind in ("memory", "time"))
    summary = f"Beyond their goals are {kinds}." if missed else "All goals are met."
    conditions = found["about"] + (f" A calibration took {took}." if took else "")
    if others:
        conditions += f" Other programs used {100 * np.median(others):.0f} % of the processors, and {100 * max(others):.0f} % at most."
    counts = f"Exact were {counted} of {len(ROWS)} models. {summary}"
    text = "\n".join([*lines, "", counts, "", conditions, ""])
    return text, missed


def about():
    """Returns a sentence on the machine and the versions."""
    from keras_vit.cost.device import processor_name, threads

    installed = importlib.metadata.packages_distributions()
    names = {"keras": "Keras", **BACKENDS}
    versions = [f"{name} {importlib.metadata.version(installed[module][0])}" for module, name in names.items() if module in installed]
    return f"Float32, AdamW, 1000 classes; {', '.join(versions)}, on {threads()} threads of an {processor_name()}."


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--kinds", nargs="+", choices=("time", "memory"), default=["time", "memory"])
    parser.add_argument("--seconds", type=float, default=2.0, help="of the timed steps of a model; at least six are")
    parser.add_argument("--json", type=pathlib.Path, help="file of what is measured; what it has is not measured again")
    parser.add_argument("--docs", action="store_true", help="also write the table into docs/cost.md")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return memory_worker()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `finally` ends the processes
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from keras_vit.files import replacing

    found = {"about": about(), "rows": {}, "calibrations": {}}
    if options.json and options.json.exists():
        known = json.loads(options.json.read_text())
        if known["about"] != found["about"]:
            parser.error(f"{options.json} is of another machine or other versions: {known['about']} Delete it, or name another file")
        found = known

    def keep():
        if options.json:
            with replacing(options.json) as temporary:
                temporary.write_text(json.dumps(found) + "\n")

    measure(found, keep, options.backends, options.kinds, options.seconds)
    text, missed = table(found, options.backends)
    print(text, *missed, sep="\n")
    if options.docs:
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
