"""What a folder of many images costs: seconds and memory until it is open, for the first time and again, and memory a file.

The folder is made of links to a few JPEG files, in classes of the same size, and is removed at the end. Each opening runs in a process of
its own, and memory is that process's largest; "TensorFlow alone" is what importing it takes. The second opening reads the manifest.

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
import tensorflow, keras_vit.data
load = keras_vit.data.load
start, alone = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
data = load(sys.argv[1], batch_size=256, image_size=32) if len(sys.argv) > 1 else None
seconds = time.perf_counter() - start
batch = float(next(iter(data.train_from(3)))[0].numpy().sum()) if data else 0.0
print(json.dumps({"seconds": seconds, "alone": alone / 1024, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    "sizes": data.sizes if data else None, "batch": batch}))
"""


def make(root, images, classes, size):
    """Writes a folder of links to eight JPEG files."""
    from PIL import Image

    random, originals = np.random.default_rng(0), []
    for number in range(8):
        coarse = Image.fromarray(random.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype="uint8"))
        originals.append(root / f"{number}.jpg")
        coarse.resize(size[::-1], Image.Resampling.BICUBIC).save(originals[-1], quality=90)
    folder = root / "images"
    for label in range(classes):
        place = folder / f"n{label:08d}"
        place.mkdir(parents=True)
        for number in range(label, images, classes):
            os.symlink(originals[number % 8], place / f"n{label:08d}_{number}.JPEG")
    return folder


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
        folder = make(root, arguments.images, arguments.classes, arguments.size)
        print(f"{arguments.images:,} links in {arguments.classes:,} classes, made in {time.perf_counter() - start:.0f} s", flush=True)
        environment = os.environ | {"KERAS_HOME": str(root / "home"), "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
        rows = [("TensorFlow alone", opened(environment))]
        for name in ("first opening", "second opening"):
            rows.append((name, opened(environment, str(folder))))
        manifest = sum(path.stat().st_size for path in root.glob("home/**/*.npz"))
    print(f"{'':20}{'seconds':>10}{'memory MB':>12}{'bytes a file more':>20}")
    alone = rows[0][1]["memory"]
    for name, row in rows:
        more = (row["memory"] - alone) * 2**20 / arguments.images if row["sizes"] else 0
        print(f"{name:20}{row['seconds']:10.1f}{row['memory']:12.0f}{more:20.0f}", flush=True)
    print(f"{sum(rows[1][1]['sizes'].values()):,} images found; the manifest takes {manifest / arguments.images:.0f} bytes a file")
    assert rows[1][1]["sizes"] == rows[2][1]["sizes"] and rows[1][1]["batch"] == rows[2][1]["batch"], "the openings differ"


if __name__ == "__main__":
    main()
