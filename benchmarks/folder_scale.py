"""Measures how long a folder of many images takes to open, the first time and again, and the memory per file.

The folder consists of links to a few JPEG files, in classes of equal size, and is removed at the end. Each opening is a process that reads
one batch. The second opening reads the manifest. Memory is that of the process, including TensorFlow: its peak, and its value after the
batch. "Bytes a file" is the difference to a folder of 1,000 files.

python benchmarks/folder_scale.py                       200,000 files in 1,000 classes
python benchmarks/folder_scale.py --images 1000000
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

OPEN = """
import json, resource, sys, time
import keras_vit
load = keras_vit.data.load
start = time.perf_counter()
data = load(sys.argv[1], batch_size=256, image_size=32)
seconds = time.perf_counter() - start
batch = float(next(iter(data.train_from(3)))[0].numpy().sum())
now = int(next(line for line in open("/proc/self/status") if "VmRSS" in line).split()[1])
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "now": now / 1024, "most": most / 1024, "sizes": data.sizes, "batch": batch}))
"""


def make(folder, images, classes, size):
    """Writes a folder of links to eight JPEG files."""
    from PIL import Image

    random, originals = np.random.default_rng(0), []
    for number in range(8):
        coarse = Image.fromarray(random.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype="uint8"))
        originals.append(folder.with_name(f"{number}.jpg"))
        coarse.resize(size[::-1], Image.Resampling.BICUBIC).save(originals[-1], quality=90)
    for label in range(classes):
        place = folder / f"n{label:08d}"
        place.mkdir(parents=True)
        for number in range(label, images, classes):
            os.symlink(originals[number % 8], place / f"n{label:08d}_{number}.JPEG")


def opened(environment, *arguments):
    found = subprocess.run([sys.executable, "-c", OPEN, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--size", type=int, nargs=2, default=(96, 128), help="rows and columns of an image")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as root:
        root = pathlib.Path(root)
        start = time.perf_counter()
        make(root / "few", 1_000, 10, arguments.size)
        make(root / "many", arguments.images, arguments.classes, arguments.size)
        print(f"{arguments.images:,} links in {arguments.classes:,} classes, made in {time.perf_counter() - start:.0f} s", flush=True)
        environment = os.environ | {"KERAS_HOME": str(root / "home"), "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
        print(f"{'':20}{'seconds':>10}{'most MB':>10}{'then MB':>10}{'bytes a file':>14}")
        rows = []
        for name, folder in (("1,000 files", "few"), ("first opening", "many"), ("second opening", "many")):
            rows.append(row := opened(environment, str(root / folder)))
            more = [(row[key] - rows[0][key]) * 2**20 / arguments.images for key in ("most", "now")]
            print(f"{name:20}{row['seconds']:10.1f}{row['most']:10.0f}{row['now']:10.0f}{more[0]:8.0f}{more[1]:6.0f}", flush=True)
        manifest = max(path.stat().st_size for path in root.glob("home/**/*.npz"))
    print(f"{sum(rows[1]['sizes'].values()):,} images found; the manifest takes {manifest / arguments.images:.0f} bytes a file")
    assert rows[1]["sizes"] == rows[2]["sizes"] and rows[1]["batch"] == rows[2]["batch"], "the openings differ"


if __name__ == "__main__":
    main()
