"""Measures how long a folder of many images takes to open, the first and the second time, and the memory per file.

The folder consists of links to a few JPEG files, in classes of equal size, and is removed at the end. The first opening lists all files
and checks them. A file with several names is checked once; `--distinct` is the number of files that the links lead to. The second opening
reads the manifest. Each opening is a new process, which then reads one batch. Memory is that of the process, including TensorFlow: its
peak, and its value after the batch. "Bytes per file" is the difference to a folder of 1,000 files.

Finally it checks that an epoch holds every training image once, in another order than the next epoch, that a run resumes with the same
images and the same pixels, and that all openings agree.

    python benchmarks/folder_scale.py                       200,000 files in 1,000 classes
    python benchmarks/folder_scale.py --images 1000000
    python benchmarks/folder_scale.py --images 100000 --distinct 20000
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

OPEN = """
import json, resource, sys, time, zlib
import keras_vit
load = keras_vit.data.load
start, processor = time.perf_counter(), time.process_time()
data = load(sys.argv[1], batch_size=256, image_size=32)
seconds, processor = time.perf_counter() - start, time.process_time() - processor
batches = iter(data.train_from(int(sys.argv[2])))
batch = next(batches)
to_batch = time.perf_counter() - start
now = int(next(line for line in open("/proc/self/status") if "VmRSS" in line).split()[1])
most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in range(2 - int(sys.argv[2])):
    batch = next(batches)
sums = [zlib.crc32(tensor.numpy().tobytes()) for tensor in batch]  # of the third batch
times = {"seconds": seconds, "processor": processor, "batch": to_batch}
print(json.dumps(times | {"now": now / 1024, "most": most / 1024, "sizes": data.sizes, "sums": sums}))
"""
# As above, but with the number of an image instead of its pixels, which is fast enough for whole epochs.
SHUFFLE = """
import dataclasses, json, sys
import numpy as np, tensorflow as tf
import keras_vit
from keras_vit.data.sources import Split, open_source
source = open_source(sys.argv[1], {"image_size": 32})
size = source.splits["train"].size
numbers = Split(size, lambda indices: (tf.cast(tf.reshape(indices, (-1, 1, 1, 1)) * [1, 0, 0], tf.float32), tf.zeros_like(indices)))
source = dataclasses.replace(source, image_shape=(1, 1, 3), splits=source.splits | {"train": numbers})
data = keras_vit.data.load(source, batch_size=256)
def order(batches):
    return np.concatenate([images.numpy()[:, 0, 0, 0] for images, _ in batches]).astype("int64")
steps = data.steps_per_epoch
one, two = order(data.train_from(0).take(steps)), order(data.train_from(steps).take(steps))
assert len(np.unique(one)) == len(one) == steps * 256 and len(np.unique(two)) == len(two), "an image came twice"
assert (one == two).mean() < 0.01, "two epochs have one order"
third = steps // 3
np.testing.assert_array_equal(order(data.train_from(third).take(steps - third)), one[third * 256 :])
np.testing.assert_array_equal(order(data.train), one)
print(json.dumps({"distinct": len(one), "size": size}))
"""


def make(folder, images, classes, size, distinct=8):
    """Writes a folder of links to a few JPEG files."""
    from PIL import Image

    random = np.random.default_rng(0)
    originals = folder.with_name(f"originals of {folder.name}")
    originals.mkdir(parents=True)
    for number in range(distinct):
        if number < 8:
            coarse = Image.fromarray(random.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype="uint8"))
            coarse.resize(size[::-1], Image.Resampling.BICUBIC).save(originals / f"{number}.jpg", quality=90)
        else:
            shutil.copyfile(originals / f"{number % 8}.jpg", originals / f"{number}.jpg")
    for label in range(classes):
        place = folder / f"n{label:08d}"
        place.mkdir(parents=True)
        for number in range(label, images, classes):
            os.symlink(originals / f"{number % distinct}.jpg", place / f"n{label:08d}_{number}.JPEG")


def run(program, environment, *arguments):
    """Runs a program and returns the JSON in its last line."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    found = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--distinct", type=int, default=8, help="number of files that the links lead to")
    parser.add_argument("--size", type=int, nargs=2, default=(96, 128), help="rows and columns of an image")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as root:
        root = pathlib.Path(root)
        start = time.perf_counter()
        make(root / "few", 1_000, 10, arguments.size)
        make(root / "many", arguments.images, arguments.classes, arguments.size, arguments.distinct)
        print(f"{arguments.images:,} links in {arguments.classes:,} classes, made in {time.perf_counter() - start:.0f} s", flush=True)
        environment = os.environ | {"KERAS_HOME": str(root / "home"), "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
        print(f"{'':18}{'opened after s':>16}{'CPU s':>7}{'first batch':>13}{'peak MB':>9}{'then MB':>9}{'bytes/file: peak, then':>26}")
        rows = []
        # The second opening starts at the third batch, like a resumed run.
        for name, folder, step in (("1,000 files", "few", 0), ("first opening", "many", 0), ("second opening", "many", 2)):
            rows.append(row := run(OPEN, environment, root / folder, step))
            times = f"{row['seconds']:16.1f}{row['processor']:7.1f}{row['batch']:13.1f}"
            more = [(row[key] - rows[0][key]) * 2**20 / arguments.images for key in ("most", "now")]
            print(f"{name:18}{times}{row['most']:9.0f}{row['now']:9.0f}{more[0]:19.0f}{more[1]:7.0f}", flush=True)
        manifest = max(path.stat().st_size for path in root.glob("home/**/*.npz"))
        print(f"{sum(rows[1]['sizes'].values()):,} images found; the manifest takes {manifest / arguments.images:.0f} bytes per file")
        assert rows[1]["sizes"] == rows[2]["sizes"], "the openings found different images"
        assert rows[1]["sums"] == rows[2]["sums"], "the run resumed with other pixels or labels"
        found = run(SHUFFLE, environment, root / "many")
        print(f"Two epochs of {found['distinct']:,} of {found['size']:,} training images: no image twice, two orders, exact to resume")


if __name__ == "__main__":
    main()
