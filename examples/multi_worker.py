"""Trains on several machines. If one of them dies, all are restarted, and training resumes from the newest checkpoint.

On each machine, with TF_CONFIG or SLURM:                      python examples/multi_worker.py --output runs/shared
On one machine, with two processes in place of machines:       python examples/multi_worker.py --output runs/local --local 2
The same, and the second process is killed after step 23:      python examples/multi_worker.py --output runs/local --local 2 --kill-at 23
"""

import argparse
import hashlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--output", required=True, type=pathlib.Path, help="a folder that all machines share")
parser.add_argument("--data", default="digits")
parser.add_argument("--batch-size", type=int, default=64, help="of all machines together")
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--layers", type=int, default=2)
parser.add_argument("--local", type=int, metavar="N", help="start N processes here")
parser.add_argument("--kill-at", type=int, metavar="STEP", help="the second process kills itself then, once")


def work(arguments):
    """What each machine runs."""
    from keras_vit.training import strategy

    chosen = strategy()  # first of all: TensorFlow asks for that

    import keras
    from keras_vit.data import load
    from keras_vit.runtime import processes
    from keras_vit.training import RECIPES, Checkpoints

    keras.utils.set_random_seed(0)
    number, count = processes()
    data = load(arguments.data, batch_size=arguments.batch_size, augmentation="none", shard=(number, count))
    with chosen.scope():
        recipe = RECIPES["small_data"]
        model = recipe.build("ViTMicro4", num_classes=len(data.class_names), input_shape=data.image_shape, num_layers=arguments.layers)
        recipe.compile(model, data.steps_per_epoch)
        checkpoints = Checkpoints(arguments.output / "checkpoints", every_steps=5)
        model.fit(
            checkpoints.resume(data.train_from),
            steps_per_epoch=data.steps_per_epoch,
            epochs=arguments.epochs,
            validation_data=data.validation,
            callbacks=[
                checkpoints,
                keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: perhaps_die(arguments, checkpoints)),
            ],
            shuffle=False,
            verbose=0 if number else 2,
        )
    digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in [*model.weights, *model.optimizer.variables]))
    if number == 0:
        model.save(arguments.output / "model.keras")
    print(json.dumps({"worker": number, "weights and optimizer": digest.hexdigest(), "loss": model.history.history["loss"]}), flush=True)


def perhaps_die(arguments, checkpoints):
    from keras_vit.runtime import processes

    died = arguments.output / "killed"
    if arguments.kill_at == checkpoints.step and processes()[0] == 1 and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def schedule(arguments):
    """Starts the processes, and all of them again whenever one has failed, as SLURM or Kubernetes would."""
    for attempt in range(3):
        addresses = [f"127.0.0.1:{port}" for port in free_ports(arguments.local)]
        processes = []
        for index in range(arguments.local):
            config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment = os.environ | {"TF_CONFIG": json.dumps(config)}
            processes.append(subprocess.Popen([sys.executable, *sys.argv], env=environment))
        while not any(process.poll() for process in processes) and any(process.poll() is None for process in processes):
            time.sleep(0.1)
        start = time.monotonic()
        for process in processes:
            process.wait()
        if not any(process.returncode for process in processes):
            return
        print(f"attempt {attempt + 1} failed; all had ended {time.monotonic() - start:.0f} s after the first", file=sys.stderr, flush=True)
    sys.exit(1)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


if __name__ == "__main__":
    arguments = parser.parse_args()
    (schedule if arguments.local and "TF_CONFIG" not in os.environ else work)(arguments)
