"""Compares the speed of keras_vit on a GPU with other libraries, and prints a Markdown table for each kind of work.

    python benchmarks/throughput.py --gpu                     # every table, within five minutes
    python benchmarks/throughput.py --gpu --groups train_S --only 'keras_vit JAX'
    python benchmarks/throughput.py --gpu --tiny              # tiny models, to see that every row runs, also without a GPU

Each row runs in a process of its own. The processes of a table start and compile at the same time and are then timed one after another, so
a table takes little longer than its slowest start. A time is the median of five series of ten steps. Only the end of a series waits for the
GPU, which otherwise works while the host prepares the next step. `fit` is timed as a user calls it, on uint8 images in host memory.

The floor is the matrix products of the model's dense layers alone, in bfloat16. The rows run in the virtual environments that
`benchmarks/setup.sh` makes or, if there are none, in the Python that runs this file.
"""

import contextlib
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import NamedTuple

import numpy as np
import workers
from workers import CLASSES, Row

HERE = pathlib.Path(__file__).resolve().parent
SERIES, STEPS = 5, 10
START, TURN = 150, 60  # a row is left out if it starts and compiles for more than START seconds, or is timed for more than TURN


class Table(NamedTuple):
    """One table. `rows` are separated by semicolons: library, runtime and, for some, the form. All are compared with the rows `ANCHORS`."""

    kind: str
    model: str
    size: int
    batch: int
    rows: str

    def expand(self):
        dtype = "bfloat16" if self.kind == "inference" else "mixed_bfloat16"
        for spec in self.rows.split("; "):
            who, runtime, *form = spec.split(", ")
            yield Row(who, runtime, self.kind, self.model, self.size, self.batch, dtype, "".join(form))


TABLES = {
    "infer_B": Table(
        "inference",
        "B/16",
        224,
        256,
        "floor, torch; timm, torch; timm, torch compile; keras_vit, JAX; keras_vit, JAX, full; keras_vit, torch; keras-hub, JAX",
    ),
    "train_S": Table(
        "train",
        "S/16",
        224,
        128,
        "floor, torch; timm, torch; timm, torch compile; keras_vit, JAX; keras_vit, JAX, fit arrays; keras_vit, JAX, fit generator; "
        "keras_vit, JAX, fit tf.data; keras_vit, torch; keras_vit, torch, fit arrays; keras-hub, JAX",
    ),
    "train_B": Table(
        "train", "B/16", 224, 128, "floor, torch; timm, torch; timm, torch compile; keras_vit, JAX, fit arrays; keras_vit, JAX, remat"
    ),
    "infer_L": Table("inference", "L/16", 384, 64, "floor, torch; timm, torch; timm, torch compile; keras_vit, JAX; keras_vit, JAX, full"),
}
ANCHORS = ("timm torch", "timm torch compile")
TINY = {"model": "Ti/16", "size": 32, "batch": 2}


def name(row):
    return " ".join(filter(None, (row.who, row.runtime, row.form)))


def model_of(row):
    """Returns a model of keras_vit or KerasHub, compiled for training."""
    import keras

    if row.who == "keras-hub":
        model = workers.keras_hub_model(row)
    else:
        more = {"include_preprocessing": True} if row.form.startswith("fit") else {}
        model = workers.keras_vit_model(row, **more)
    model.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def fit_of(row, model):
    """Returns a function that trains for some steps on uint8 images by `model.fit`."""
    generator = np.random.default_rng(0)
    count = 4 * STEPS * row.batch
    images = generator.integers(0, 256, (count, row.size, row.size, 3), "uint8")
    labels = generator.integers(0, CLASSES, count)

    def batches(steps):
        for i in range(steps):
            part = slice(i * row.batch, (i + 1) * row.batch)
            yield images[part], labels[part]

    def data(steps):
        if row.form == "fit generator":
            return dict(x=batches(steps), steps_per_epoch=steps)
        arrays = (images[: steps * row.batch], labels[: steps * row.batch])
        if row.form == "fit arrays":
            return dict(x=arrays[0], y=arrays[1], batch_size=row.batch)
        import tensorflow as tf

        return dict(x=tf.data.Dataset.from_tensor_slices(arrays).batch(row.batch).prefetch(tf.data.AUTOTUNE))

    return lambda steps: model.fit(**data(steps), verbose=0)


def keras_run(row):
    model = model_of(row)
    if row.form.startswith("fit"):
        return fit_of(row, model)
    images, labels = workers.data(row)
    if row.runtime == "JAX":
        import jax

        images, labels = jax.device_put(images), jax.device_put(labels)
        if row.kind == "train":
            step, wait = lambda: model.train_on_batch(images, labels), lambda _: None  # `train_on_batch` itself waits for the result
        else:
            variables = [[v.value for v in some] for some in (model.trainable_variables, model.non_trainable_variables)]
            forward = jax.jit(lambda *arguments: model.stateless_call(*arguments, training=False)[0])
            step, wait = lambda: forward(*variables, images), jax.block_until_ready
    else:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        images, labels = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)
        step = torch.inference_mode()(lambda: model(images, training=False))
        if row.kind == "train":
            step = lambda: model.train_on_batch(images, labels)  # noqa: E731
        wait = synchronize
    return repeat(step, wait)


def timm_run(row):
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = (torch.from_numpy(array).to(device) for array in workers.data(row))
    model = workers.timm_model(row).to(device, torch.bfloat16 if row.dtype == "bfloat16" else torch.float32)
    images = images.permute(0, 3, 1, 2).to(next(model.parameters()).dtype).contiguous()
    network = torch.compile(model) if row.runtime == "torch compile" else model
    if row.kind == "inference":
        model.eval()
        return repeat(torch.inference_mode()(lambda: network(images)), synchronize)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05, fused=True)

    def step():
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(network(images).float(), labels)
        loss.backward()
        optimizer.step()

    return repeat(step, synchronize)


def floor_run(row):
    """Returns a function that runs the dense products. Their operands are drawn on the GPU, since the host is very slow at it."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def drawn(*shape):
        return torch.randn(shape, device=device, dtype=torch.bfloat16)

    shapes = workers.products(row)
    kernels = [drawn(*shape[1:]) for shape in shapes]
    inputs = {shape[:2]: drawn(*shape[:2]) for shape in shapes}
    gradients = {shape[::2]: drawn(*shape[::2]) for shape in shapes}

    def step():
        for (rows, ins, outs), kernel in zip(shapes, kernels):
            result = inputs[rows, ins] @ kernel
            if row.kind == "train":
                result = gradients[rows, outs] @ kernel.T, inputs[rows, ins].T @ gradients[rows, outs]
        return result

    return repeat(torch.inference_mode()(step), synchronize)


def synchronize(_=None):
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def repeat(step, wait):
    def run(steps):
        for _ in range(steps):
            result = step()
        wait(result)

    return run


RUNS = {"floor": floor_run, "timm": timm_run, "keras_vit": keras_run, "keras-hub": keras_run}


def serve(row):
    begun = time.perf_counter()
    run = RUNS[row.who](row)
    run(1)
    first = time.perf_counter() - begun
    run(2)
    print("ready", flush=True)
    sys.stdin.readline()
    steps = STEPS if row.num_layers is None else 1  # tiny models only show that their rows run
    run(steps)
    steps *= 4 if row.form.startswith("fit") else 1  # an epoch, whose beginning and end are part of the time
    seconds = []
    for _ in range(SERIES):
        begun = time.perf_counter()
        run(steps)
        seconds.append((time.perf_counter() - begun) / steps)
    print(json.dumps({"seconds": seconds, "first": first, "peak": workers.memory("VmHWM")}), flush=True)


class Process:
    """The process of a row."""

    def __init__(self, row, venvs):
        self.row, self.result, self.late, self.errors = row, None, False, tempfile.TemporaryFile("w+")
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH")))),
            "KERAS_BACKEND": workers.BACKENDS.get(row.runtime.split()[0], "tensorflow"),
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        python = os.path.join(venvs, row.venv, "bin", "python")
        command = [python if os.path.exists(python) else sys.executable, __file__, json.dumps(row)]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors)
        self.process = subprocess.Popen(command, env=environment, text=True, **pipes)

    def read(self, start, seconds):
        """Returns the next line that begins with `start`, or None if the process ends first or takes too long."""
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        try:
            return next((line for line in self.process.stdout if line.startswith(start)), None)
        finally:
            self.late = not timer.is_alive()
            timer.cancel()

    def warm(self, seconds):
        if self.read("ready", seconds) is None:
            self.give_up()

    def time(self):
        if self.process.poll() is None:
            with contextlib.suppress(BrokenPipeError):
                print(file=self.process.stdin, flush=True)
                line = self.read("{", TURN)
                self.result = json.loads(line) if line else self.give_up()

    def give_up(self):
        self.process.kill()
        self.process.wait()
        self.errors.seek(0)
        reason = "it took too long" if self.late else " ".join(self.errors.read().strip().splitlines()[-3:])
        print(f"Left out: {name(self.row)}: {reason}", file=sys.stderr, flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def measure(rows, venvs):
    """Returns a pair (row, result) for each row that ran."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(Process(row, venvs)) for row in rows]
        begun = time.monotonic()
        for process in processes:
            process.warm(max(1.0, START - (time.monotonic() - begun)))
        for process in processes:
            process.time()
        return [(process.row, process.result) for process in processes if process.result]


def markdown(table, results):
    medians = {name(row): statistics.median(result["seconds"]) for row, result in results}
    anchors = [anchor for anchor in ANCHORS if anchor in medians]
    lines = [f"ViT-{table.model} at {table.size}, {table.kind}, batch {table.batch}, bfloat16", ""]
    columns = ["", "images/s", "ms (least to most)", *(f"x {anchor}" for anchor in anchors), "peak MB", "first result, s"]
    lines += [f"| {' | '.join(columns)} |".replace("|  |", "| |"), "| --- " * len(columns) + "|"]
    for row, result in results:
        seconds, median = sorted(result["seconds"]), medians[name(row)]
        ratios = [f"{medians[anchor] / median:.2f}" for anchor in anchors]
        times = f"{1e3 * median:.1f} ({1e3 * seconds[0]:.1f} to {1e3 * seconds[-1]:.1f})"
        cells = [name(row), f"{table.batch / median:,.0f}", times, *ratios, f"{result['peak']:,.0f}", f"{result['first']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(groups, only, venvs, records, batch, tiny):
    """Prints the tables `groups` (all if empty): the anchors and the rows that match `only`. Writes all times to the file `records`."""
    found = {}
    for key in groups or TABLES:
        table = TABLES[key]._replace(**(TINY if tiny else {}) | ({"batch": batch} if batch else {}))
        rows = [row for row in table.expand() if re.search(only, name(row)) or name(row) in ANCHORS]
        rows = [row._replace(num_layers=1) for row in rows] if tiny else rows
        results = measure(rows, venvs)
        print(markdown(table, results), flush=True)
        found[key] = [{"row": row._asdict(), **result} for row, result in results]
        if records:
            pathlib.Path(records).write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    serve(Row(*json.loads(sys.argv[1])))
