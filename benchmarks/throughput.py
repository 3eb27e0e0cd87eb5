"""Compares the speed of keras_vit with other libraries and with the limit of the machine. Prints a Markdown table for each group.

    benchmarks/setup.sh                                        # once: the virtual environments of the other libraries
    python benchmarks/throughput.py --quick                    # a minute
    python benchmarks/throughput.py --json throughput.json     # every group; or --groups batch8 train, or --only 'keras_vit TF'
    python benchmarks/throughput.py --groups AVX2 AVX2_train                # on a processor without AVX-512
    python benchmarks/throughput.py --groups AVX2 AVX2_train --isa AVX2     # the same, on one that has it
    python benchmarks/throughput.py --gpu                      # on a GPU: other tables, within five minutes

The floor is only the matrix products of the model's blocks: with these kernels, no implementation of the same work can be faster. keras_vit
skips what no head reads in the last block, so this work has a second floor. The "full" rows compute everything.

Each row runs in a process of its own, which is stopped while another one is timed. The processes take turns, in reverse order every other
round. Each turn records how much of the CPUs other programs used meanwhile. Turns with less than 3 % count, or the less disturbed half of
all turns if that is more. Differences under 8 % are not significant.
"""

import argparse
import glob
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import gpu
from others import share_of_others
from workers import BACKENDS, Row, onnx_file

HERE = pathlib.Path(__file__).resolve().parent
VENVS = os.environ.get("KERAS_VIT_BENCHMARK_VENVS", HERE / ".venvs")
UNDISTURBED, SPOILT = 0.03, 0.1  # shares of the CPUs that other programs used
# What keeps oneDNN (in TensorFlow, torch and OpenVINO), XLA's compiler, torch and MKL from using later instructions. Eigen in TensorFlow
# never uses more than AVX2. onnxruntime's kernels and XLA's library of matrix products cannot be limited: their rows do not count.
INSTRUCTIONS = {
    "AVX2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
}


def on_gpu():
    return bool(glob.glob("/dev/nvidia[0-9]*"))


class Group(NamedTuple):
    """One table. `rows` are separated by semicolons: library, runtime, then the dtype or form if it is not that of the group."""

    kind: str
    model: str
    batch: int
    dtype: str
    rows: str  # besides the two floors and the anchor, which every table has
    size: int = 224
    anchor: str = "timm, torch"

    def expand(self):
        """Yields the rows; on a GPU those of JAX and torch."""
        floor = "floor, torch" if on_gpu() else "floor, TF"
        for spec in (floor, f"{floor}, shortcut", self.anchor, *filter(None, self.rows.split("; "))):
            who, runtime, *more = spec.split(", ")
            if on_gpu() and runtime.split()[0] not in ("JAX", "torch"):
                continue
            form = next((word for word in more if word in ("full", "shortcut", "at once", "keras first", "huge pages")), "")
            dtype = next((word for word in more if word != form), self.dtype)
            yield Row(who, runtime, self.kind, self.model, self.size, self.batch, dtype, form)


OURS = "keras_vit, JAX; keras_vit, torch; " if on_gpu() else "keras_vit, TF predict_on_batch; keras_vit, TF XLA; "
KERAS_HUB = "keras-hub, JAX" if on_gpu() else "keras-hub, TF tf.function"
PEERS = "timm, torch compile; " + ("" if on_gpu() else "openvino, CPU; ") + KERAS_HUB
OPENVINO = () if on_gpu() else ("Ti", "S", "B")  # our models run by OpenVINO, beside timm's ONNX files run by it
GROUPS = {
    "quick": Group("inference", "B/16", 8, "float32", OURS.split("; ")[0]),
    "batch8": Group(
        "inference",
        "B/16",
        8,
        "float32",
        OURS + PEERS + "; onnxruntime, CPU; transformers, torch; keras-hub, TF XLA; keras-hub, TF predict",
    ),
    "batch8_forms": Group(
        "inference",
        "B/16",
        8,
        "float32",
        OURS + "keras_vit, TF predict_on_batch, full; keras_vit, TF XLA, full; keras_vit, TF tf.function; keras_vit, TF predict; "
        "keras_vit, JAX; keras_vit, JAX, huge pages; keras_vit, torch; keras-hub, JAX; keras-hub, torch",
    ),
    "batch1": Group(
        "inference",
        "B/16",
        1,
        "float32",
        OURS + "keras_vit, TF call; keras_vit, TF predict; keras_vit, JAX; timm, torch compile; onnxruntime, CPU; openvino, CPU; "
        "keras-hub, TF XLA",
    ),
    "bfloat16": Group(
        "inference",
        "B/16",
        8,
        "bfloat16",
        "timm, torch, mixed_bfloat16; timm, torch compile; keras_vit, TF predict_on_batch; keras_vit, TF predict_on_batch, mixed_bfloat16; "
        "keras_vit, TF predict_on_batch, full; keras_vit, JAX; keras_vit, torch; openvino, CPU; "
        f"{KERAS_HUB}, mixed_bfloat16; " + "keras_vit, JAX, at once" * on_gpu(),
    ),
    "Ti16": Group("inference", "Ti/16", 8, "float32", OURS + PEERS),
    "S16": Group("inference", "S/16", 8, "float32", OURS + PEERS),
    "L16": Group("inference", "L/16", 8, "float32", OURS + "openvino, CPU; keras-hub, TF tf.function"),
    "B16_384": Group("inference", "B/16", 8, "float32", OURS + PEERS, 384),
    "R50_B16": Group("inference", "R50+B/16", 8, "float32", OURS + "keras_vit, JAX; timm, torch compile"),
    "R26_S32": Group("inference", "R26+S/32", 8, "float32", OURS + "keras_vit, JAX; timm, torch compile"),
    **{
        f"openvino_{model}": Group("inference", f"{model}/16", 8, "float32", "keras_vit, OpenVINO", anchor="openvino, CPU")
        for model in OPENVINO
    },
    "AVX2": Group(
        "inference",
        "B/16",
        8,
        "float32",
        OURS
        + "keras_vit, TF predict_on_batch, keras first; timm, torch compile; openvino, CPU; keras-hub, TF tf.function; keras-hub, TF XLA",
    ),
    "AVX2_train": Group(
        "train",
        "S/16",
        8,
        "float32",
        "keras_vit, TF; keras_vit, TF XLA; keras_vit, TF, keras first; timm, torch compile; keras-hub, TF; keras-hub, TF XLA",
    ),
    # A training step, Keras's `train_on_batch`, needs gigabytes: few processes per group.
    "train": Group(
        "train",
        "S/16",
        8,
        "float32",
        "keras_vit, TF; keras_vit, TF XLA; keras_vit, TF XLA, full; timm, torch compile; keras-hub, TF; keras-hub, TF XLA",
    ),
    "train_backends": Group(
        "train",
        "S/16",
        8,
        "float32",
        "keras_vit, TF; keras_vit, TF XLA; keras_vit, JAX; keras_vit, JAX, huge pages; keras_vit, torch; "
        "transformers, torch; keras-hub, JAX",
    ),
    "train_bfloat16": Group(
        "train",
        "S/16",
        8,
        "mixed_bfloat16",
        "keras_vit, TF; keras_vit, TF XLA; keras_vit, JAX; keras_vit, torch; timm, torch compile; keras-hub, TF; "
        + "keras-hub, JAX; keras_vit, JAX, at once" * on_gpu(),
    ),
}


def name(row, dtype=None):
    return " ".join(filter(None, (row.who, row.runtime, row.dtype if row.dtype != dtype else "", row.form)))


class Worker:
    """The process of a row, stopped while it has nothing to do."""

    def __init__(self, row, venvs, tree=HERE.parent):
        self.row, self.chunks = row, []
        environment = os.environ | {
            "PYTHONPATH": str(tree),
            "KERAS_BACKEND": BACKENDS.get(row.runtime.split()[0], "tensorflow"),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",  # the default of JAX and TensorFlow
        }
        if row.form == "keras first" or row.who == "keras-hub" and "ONEDNN_MAX_CPU_ISA" in os.environ:
            environment["TF_ENABLE_ONEDNN_OPTS"] = "0"  # TensorFlow's default with AVX2 alone, if keras_vit is not imported before it
        if row.form == "huge pages":
            environment["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        if os.path.exists(mkl := os.path.join(venvs, "libmkl_fast.so")) and row.runtime.startswith("torch"):
            environment["LD_PRELOAD"] = mkl
        command = [os.path.join(venvs, row.venv, "bin", "python"), str(HERE / "workers.py"), json.dumps(row)]
        if row.who in ("onnxruntime", "openvino") and not os.path.exists(onnx_file(row)):
            subprocess.run([*command, "export"], env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        begun = time.perf_counter()
        # A session of its own, so that what it starts is stopped with it.
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=tempfile.TemporaryFile("w+"))
        self.process = subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes)
        self.errors = pipes["stderr"]
        self.read()
        self.first = time.perf_counter() - begun
        self.ready = self.read()
        self.peak = self.ready["peak"]
        self.pause()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise RuntimeError(f"{name(self.row)} ended:\n{self.errors.read()[-2000:]}")
        return json.loads(line)

    def signal(self, number):
        os.killpg(self.process.pid, number)

    def pause(self):
        if not on_gpu():  # on a GPU, a stopped process may hold a lock of the driver; an idle one disturbs nobody
            self.signal(signal.SIGSTOP)

    def turn(self, seconds):
        """Times steps for the given seconds, at least two steps."""
        self.signal(signal.SIGCONT)
        share = share_of_others(self.process.pid, "self")
        print(max(2, round(seconds / self.ready["seconds"])), file=self.process.stdin, flush=True)
        reply = self.read()
        foreign = share()
        self.pause()
        self.peak = max(self.peak, reply["peak"])
        self.chunks.append({"foreign": foreign, "seconds": reply["seconds"], "peak": reply["peak"]})

    def kept(self):
        """Returns the turns that count, the least disturbed first."""
        chunks = sorted(self.chunks, key=lambda chunk: chunk["foreign"])
        return chunks[: max(sum(chunk["foreign"] < UNDISTURBED for chunk in chunks), (len(chunks) + 1) // 2)]

    def seconds(self):
        """Returns (first quartile, median, third quartile, least) of the steps that count."""
        steps = [step for chunk in self.kept() for step in chunk["seconds"]]
        return (*statistics.quantiles(steps, n=4, method="inclusive"), min(steps))

    def foreign(self):
        return statistics.mean(chunk["foreign"] for chunk in self.kept())

    def record(self):
        return {"row": self.row._asdict(), "first": self.first, "peak": self.peak, "ready": self.ready, "chunks": self.chunks}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.signal(signal.SIGKILL)
        self.process.wait()


def measure(workers, rounds, seconds):
    for number in range(rounds):
        for worker in workers[::-1] if number % 2 else workers:
            worker.turn(seconds)


def start(rows, venvs, stack):
    """Returns the workers of all rows that can run, entered into the ExitStack. Says which rows are left out, and why."""
    workers = []
    for row in rows:
        if not os.path.exists(os.path.join(venvs, row.venv, "bin", "python")):
            print(f"Left out, as {venvs}/{row.venv} does not exist: {name(row)}", file=sys.stderr)
            continue
        try:
            workers.append(stack.enter_context(Worker(row, venvs)))
            print(f"{name(row)}: first result after {workers[-1].first:.1f} s", file=sys.stderr)
        except (RuntimeError, subprocess.CalledProcessError) as error:
            print(f"Left out: {error}", file=sys.stderr)
    return workers


def table(group, workers):
    """Returns the Markdown table of a group."""
    found = {name(worker.row): worker.seconds()[1] for worker in workers}
    floor, own_floor, anchor = (found.get(name(row)) for row in list(group.expand())[:3])
    work = {worker.row.form: worker.ready["work"] for worker in workers if worker.ready["work"]}
    title = f"{group.kind}, ViT-{group.model} at {group.size}, batch {group.batch}, {group.dtype}"
    if work:
        full, done = next(iter(work.values()))[0], min(done for _, done, _ in work.values())
        title += f": {full:.2f} GFLOP per image forward, of which keras_vit computes {done:.2f} except in its full rows"
    lines = [title, "", "| | images/s, median | best | ms (quartiles) | x timm | time / floor | / floor of own work | others' CPU |"]
    lines = [*lines[:2], lines[2] + " peak MB | first result, s |", "| --- " * 10 + "|"]
    for worker in workers:
        low, median, high, least = worker.seconds()
        short = worker.row.who == "keras_vit" and worker.row.form != "full"
        ratios = (part / whole if part and whole else None for part, whole in ((anchor, median), (median, floor)))
        cells = [f"{ratio:.2f}" if ratio else "" for ratio in (*ratios, median / own_floor if short and own_floor else None)]
        times = f"{1e3 * median:.0f} ({1e3 * low:.0f} to {1e3 * high:.0f})"
        foreign = worker.foreign()
        cells = [name(worker.row, group.dtype), f"{group.batch / median:.2f}", f"{group.batch / least:.2f}", times, *cells]
        lines.append(f"| {' | '.join(cells)} | {100 * foreign:.0f} % | {worker.peak:.0f} | {worker.first:.1f} |")
    if max(worker.foreign() for worker in workers) > SPOILT:
        # Threads that wait for each other, such as torch's, lose far more time than other programs take.
        lines += ["", f"Do not quote these numbers: other programs used more than {100 * SPOILT:.0f} % of the CPUs."]
    return "\n".join(lines) + "\n"


def arguments(parser):
    """Adds the options that scaling.py and check.py share."""
    parser.add_argument("--venvs", default=VENVS, help="folder that benchmarks/setup.sh made (or KERAS_VIT_BENCHMARK_VENVS)")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each row")
    parser.add_argument("--seconds", type=float, default=2.5, help="duration of a turn, which has at least two steps")


def main():
    from contextlib import ExitStack

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser)
    parser.add_argument("--groups", nargs="+", choices=[*GROUPS, *gpu.TABLES], metavar="NAME")
    parser.add_argument("--only", type=re.compile, default="", metavar="REGEX", help="only the floors, the anchor and matching rows")
    parser.add_argument("--gpu", action="store_true", help="the tables of a GPU, within five minutes: see gpu.py")
    parser.add_argument("--tiny", action="store_true", help="with --gpu: tiny models, to see that every row runs, also without a GPU")
    parser.add_argument("--quick", action="store_true", help="one group of four rows, in a minute")
    parser.add_argument("--batch", type=int, help="in place of the groups' own")
    parser.add_argument("--isa", choices=INSTRUCTIONS, help="let all libraries use these instructions at most")
    parser.add_argument("--json", type=pathlib.Path, help="where every turn's times are written")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.groups, options.rounds, options.seconds = ["quick"], 4, 2
    if options.gpu:
        return gpu.main(options.groups, options.only, options.venvs, options.json, options.batch, options.tiny)
    os.environ.update(INSTRUCTIONS.get(options.isa, {}))
    records = {}
    for key in options.groups or [group for group in GROUPS if group not in ("quick", "AVX2", "AVX2_train")]:
        group = GROUPS[key]._replace(batch=options.batch or GROUPS[key].batch)
        rows = list(dict.fromkeys(group.expand()))
        rows = [row for number, row in enumerate(rows) if number < 3 or re.search(options.only, name(row))]
        if options.list:
            print(key, *map(name, rows), sep="\n    ")
            continue
        with ExitStack() as stack:
            workers = start(rows, options.venvs, stack)
            measure(workers, options.rounds, options.seconds)
            print(table(group, workers), flush=True)
            records[key] = [worker.record() for worker in workers]
        if options.json:
            options.json.write_text(json.dumps(records) + "\n")


if __name__ == "__main__":
    main()
