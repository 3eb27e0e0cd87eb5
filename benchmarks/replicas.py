"""Measures the cost of data parallelism on virtual devices of this machine, and models it for 8 to 1,024 GPUs.

python benchmarks/replicas.py            measures 1, 2 and 4 virtual replicas against one device, at the same batch
python benchmarks/replicas.py --paper    prints the model of the network as Markdown tables
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

# From NVIDIA's data sheets: H100 SXM, 989 TFLOP/s in bfloat16 without sparsity and NVLink with 900 GB/s in both directions together;
# ConnectX-7, a port of 400 Gb/s for each GPU. Here per direction, in bytes per second.
PEAK, NVLINK, INFINIBAND, GPUS_PER_NODE = 989e12, 450e9, 50e9, 8
# Assumptions: the share of the peak that a step reaches, the share of a link's rate that a collective reaches, and the time of a hop.
USED, LINK_USED, HOP = 0.35, 0.8, 5e-6
BUCKET = 32 * 2**20  # bytes that TensorFlow packs into one collective


def all_reduce_seconds(size, gpus):
    """Returns the time to sum `size` bytes: reduce-scatter within a node, a ring over the nodes per GPU, all-gather within the node."""
    local, nodes = min(gpus, GPUS_PER_NODE), -(-gpus // GPUS_PER_NODE)
    within = 2 * (local - 1) / local * size / (NVLINK * LINK_USED)
    between = 2 * (nodes - 1) / nodes * size / local / (INFINIBAND * LINK_USED)
    hops = 2 * (local - 1) + 2 * (nodes - 1)
    return within + between + HOP * hops * -(-size // BUCKET)


def paper(batch_per_gpu):
    from keras_vit import cost

    print(f"| model | gradients | {' | '.join(f'{gpus:,} GPUs' for gpus in (8, 16, 64, 256, 1024))} |")
    print("| --- " * 7 + "|")
    for name in ("ViTS16", "ViTB16", "ViTL16", "ViTH14"):
        one = cost(name)
        compute = 3 * 2 * one.macs * batch_per_gpu / (PEAK * USED)
        size = 4 * one.parameters  # float32, also under mixed_bfloat16
        cells = []
        for gpus in (8, 16, 64, 256, 1024):
            sums = all_reduce_seconds(size, gpus)
            cells.append(f"{1e3 * compute:.0f} + {1e3 * sums:.1f} ms: {100 * compute / (compute + sums):.0f} %")
        print(f"| {name} | {size / 1e6:.0f} MB | {' | '.join(cells)} |")


def steps_of(replicas, steps, batch):
    """Returns the CPU seconds of each step on this many virtual replicas; 0 stands for one device without a strategy."""
    from keras_vit.training import AdamW, strategy, virtual_devices

    if replicas:
        virtual_devices(f"cpu:{replicas}")
    import contextlib

    import keras
    import numpy as np
    import tensorflow as tf

    import keras_vit

    keras.utils.set_random_seed(0)
    images, labels = np.random.default_rng(0).uniform(0, 255, (batch, 64, 64, 3)).astype("float32"), np.eye(10)[np.arange(batch) % 10]
    batches = tf.data.Dataset.from_tensors((images, labels)).repeat()
    seconds, last = [], None

    def tick(batch, logs=None):
        nonlocal last
        now = time.process_time()  # of all threads: other work on the machine affects it less than wall time
        seconds.append(now - last) if last else None
        last = now

    with strategy("mirrored").scope() if replicas else contextlib.nullcontext():
        model = keras_vit.ViTTi16(num_classes=10, input_shape=(64, 64, 3), patch_size=8)
        model.compile(AdamW(1e-3, global_clipnorm=1.0), "categorical_crossentropy", jit_compile=False)
        model.fit(
            batches, steps_per_epoch=steps, verbose=0, shuffle=False, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=tick)]
        )
    return seconds[2:]


def measure(steps, batch, rounds):
    times = {replicas: [] for replicas in (0, 1, 2, 4)}
    for _ in range(rounds):  # in turns, so that other work on the machine affects all of them
        for replicas, found in times.items():
            command = [sys.executable, __file__, "--replicas", str(replicas), "--steps", str(steps), "--batch", str(batch)]
            found += json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    base = statistics.median(times[0])
    print("| | median processor time of a step | compared with one device |\n| --- | --- | --- |")
    for replicas, found in times.items():
        name = f"{replicas} virtual replicas" if replicas else "one device, no strategy"
        print(f"| {name} | {1e3 * statistics.median(found):.0f} ms | {100 * (statistics.median(found) / base - 1):+.1f} % |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paper", action="store_true")
    parser.add_argument("--batch-per-gpu", type=int, default=128, help="images per GPU, for --paper")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64, help="batch size on all replicas together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--replicas", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.paper:
        paper(options.batch_per_gpu)
    elif options.replicas is not None:
        print(json.dumps(steps_of(options.replicas, options.steps, options.batch)))
    else:
        measure(options.steps, options.batch, options.rounds)


if __name__ == "__main__":
    main()
