"""Checks whether keras_vit in the working tree is slower than in another commit. Both take turns on one machine.

    python benchmarks/check.py main            # exits with 1 if anything is more than 8 % slower
    python benchmarks/check.py HEAD            # of a clean working tree: shows the noise of the machine

Rows, turns and medians are those of throughput.py. Differences under 8 % do not count, nor do larger ones that
another pair of processes does not show. It needs only the environment `keras` of benchmarks/setup.sh.
"""

import argparse
import io
import subprocess
import sys
import tarfile
import tempfile
from contextlib import ExitStack

from throughput import HERE, Worker, arguments, measure, name
from workers import Row

CLAIMED = 1.08
ROWS = [
    Row("keras_vit", "TF predict_on_batch", "inference", "Ti/16", 224, 8, "float32"),
    Row("keras_vit", "TF predict_on_batch", "inference", "S/16", 224, 8, "float32"),
    Row("keras_vit", "TF", "train", "S/16", 224, 8, "float32"),
    *(Row("keras_vit", backend, kind, "S/16", 224, 8, "float32") for backend in ("JAX", "torch") for kind in ("inference", "train")),
]


def compare(row, folder, options):
    """Returns the times of the commit in `folder` and of the working tree, measured in turn by two new processes, and their ratio."""
    with ExitStack() as stack:
        pair = [stack.enter_context(Worker(row, options.venvs, tree)) for tree in (folder, HERE.parent)]
        measure(pair, options.rounds, options.seconds)
    (_, before, *_), (_, now, *_) = times = [worker.seconds() for worker in pair]
    return times, now / before


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", nargs="?", default="HEAD", help="commit to compare with")
    arguments(parser)
    options = parser.parse_args()
    slower = False
    print(f"| | {options.commit}, ms (quartiles) | working tree, ms (quartiles) | time / {options.commit}'s | |\n" + "| --- " * 5 + "|")
    with tempfile.TemporaryDirectory() as folder:
        files = subprocess.run(["git", "-C", HERE.parent, "archive", options.commit, "keras_vit"], check=True, stdout=subprocess.PIPE)
        tarfile.open(fileobj=io.BytesIO(files.stdout)).extractall(folder, filter="data")
        for row in ROWS:
            times, ratio = compare(row, folder, options)
            if ratio > CLAIMED:  # the memory layout of a process can cost a fifth of its speed: only two agreeing pairs of processes count
                times, ratio = compare(row, folder, options)
            verdict = "slower" if ratio > CLAIMED else "faster" if ratio < 1 / CLAIMED else ""
            slower |= verdict == "slower"
            cells = [f"{1e3 * median:.1f} ({1e3 * low:.1f} to {1e3 * high:.1f})" for low, median, high, _ in times]
            print(f"| ViT-{row.model} {row.kind}, {name(row, row.dtype)} | {' | '.join(cells)} | {ratio:.2f} | {verdict} |", flush=True)
    sys.exit(slower)


if __name__ == "__main__":
    main()
