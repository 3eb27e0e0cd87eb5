"""Kills a search by SIGKILL at random moments, restarts it each time, and compares its study with that of an uninterrupted search.

python benchmarks/kill_search.py --kills 3
python benchmarks/kill_search.py --kills 3 --whole STUDY -- --data fashion_mnist --train-images 2000 ... --trials 20

The options after `--` are those of `keras-vit tune`; the default is a small search on digits. `--whole` takes an existing study as that of
the uninterrupted search. Every trial must have the same values, score and epochs, bit for bit, and best.toml the same bytes. Exits with 1
if anything differs.
"""

import argparse
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

from keras_vit.tuning import read_trials
from keras_vit.tuning.study import BEST

TINY = "--data digits --image-size 8 --train-images 256 --epochs 4 --trials 8 --max-parameters 100000 --no-jit-compile".split()
ENVIRONMENT = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}


def search(options, folder, seconds=None):
    """Runs the command, and kills it after some seconds. Returns whether it ended by itself."""
    process = subprocess.Popen([sys.executable, "-m", "keras_vit_cli", "tune", *options, "--output", folder], env=ENVIRONMENT)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    if code:
        sys.exit(code)
    return True


def outcome(folder):
    trials = sorted(read_trials(folder), key=lambda trial: trial.number)
    return [(trial.number, trial.status, trial.values, trial.score, trial.history) for trial in trials]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--whole", type=pathlib.Path)
    parser.add_argument("options", nargs="*", default=TINY, help="options of keras-vit tune, after --")
    arguments = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp())
    begun = time.monotonic()
    whole = arguments.whole or folder / "whole"
    if not arguments.whole:
        search(arguments.options, whole)
    length = time.monotonic() - begun if not arguments.whole else length_of(whole)
    draw, kills = random.Random(arguments.seed), 0
    while kills < arguments.kills:
        if search(arguments.options, folder / "killed", draw.uniform(0.5, 1.5) * length / (arguments.kills + 1)):
            break
        kills += 1
        done = sum(trial.status == "COMPLETED" for trial in read_trials(folder / "killed"))
        print(f"killed, {done} trials completed", flush=True)
    search(arguments.options, folder / "killed")
    same = outcome(whole) == outcome(folder / "killed") and (whole / BEST).read_bytes() == (folder / "killed" / BEST).read_bytes()
    print(f"{kills} kills, {len(outcome(whole))} trials: {'identical' if same else 'DIFFERENT'} ({folder})")
    sys.exit(not same)


def length_of(study):
    """Returns the seconds between the first and the last file of a study."""
    times = [path.stat().st_mtime for path in study.rglob("*.json")]
    return max(times) - min(times)


if __name__ == "__main__":
    main()
