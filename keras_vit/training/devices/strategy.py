"""Distribution strategies by name. Build and compile the model in the scope of the strategy."""

import contextlib
import functools
import io
import re
from typing import Any

import keras

from keras_vit.layers import checks
from keras_vit.messages import say
from keras_vit.runtime.devices import enter_cluster
from keras_vit.training.devices import cluster, sharding

NAMES = ("auto", "one_device", "mirrored", "multi_worker", "tpu")


def strategy(name: str = "auto", wait_seconds: float = 600.0) -> Any:
    """Returns a strategy that distributes training over devices, and prints one line about it on stderr.

    The result is a `tf.distribute.Strategy` on TensorFlow, and a `keras.distribution.Distribution` on JAX. Both have a `scope`.

    - "auto": "multi_worker" if there are several machines, "mirrored" if there are several GPUs (or JAX devices), else "one_device".
    - "one_device": the first GPU, or the CPU.
    - "mirrored": every GPU of this machine or, without one, every (virtual) CPU. Each holds all weights and computes its shard of a batch.
    - "multi_worker": the devices of all machines that TF_CONFIG or SLURM names (on JAX, those of `keras.distribution.initialize`).
    - "tpu": the TPU of this machine.
    - "fsdp", "tensor_parallel": the weights are sharded, too, see `keras_vit.training.layout_map`. These need JAX.

    Args:
        name: str, one of the above, or a `tf.distribute.Strategy`, which is returned as it is. Defaults to "auto".
        wait_seconds: float. How long to wait for the other machines at the start and, on TensorFlow, in each sum over them. Defaults to
            600.

    Raises:
        ValueError: if the name is unknown, the backend lacks the strategy, the variables that name the machines are malformed, a machine
            does not answer, or TensorFlow was used before "multi_worker" was created.

    Example:
    >>> with keras_vit.training.strategy().scope():
    ...     model = keras_vit.ViTMicro4(num_classes=10)
    ...     model.compile(keras_vit.training.AdamW(1e-3), "sparse_categorical_crossentropy")
    """
    if keras.backend.backend() == "jax":
        return sharding.distribution(name)
    if name in sharding.SHARDED:
        sharding.check_backend(f"strategy={name!r}")
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Strategies need TensorFlow or JAX: set KERAS_BACKEND=tensorflow. Received: the backend {keras.backend.backend()!r}"
        )
    import tensorflow as tf

    if isinstance(name, tf.distribute.MultiWorkerMirroredStrategy):
        enter_cluster(name.cluster_resolver.task_id or 0, name.extended._num_workers, name)
    if isinstance(name, tf.distribute.Strategy):
        return name
    checks.one_of("strategy", name, (*NAMES, *sharding.SHARDED))
    machines = cluster.find() if name in ("auto", "multi_worker") else None
    if name == "multi_worker" and machines is None:
        raise ValueError(
            "Several machines must be named by TF_CONFIG, or by SLURM: start the program with `srun`. Received: strategy='multi_worker'"
        )
    if machines and (name == "multi_worker" or len(machines.addresses) > 1):
        return _multi_worker(machines, wait_seconds)
    if name == "tpu":
        return _tpu()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        return _mirrored(tuple(device.name for device in gpus or tf.config.list_logical_devices("CPU")))
    return _one_device(gpus[0].name if gpus else "/cpu:0")


@functools.cache  # a strategy is created once, and printed once
def _one_device(device):
    import tensorflow as tf

    say(f"training on one device, {device}")
    return tf.distribute.OneDeviceStrategy(device)


@functools.cache
def _mirrored(devices):
    """Returns a `MirroredStrategy` with collective keys of its own: TensorFlow gives two strategies of a process the same, which fails."""
    import tensorflow as tf

    class Mirrored(tf.distribute.MirroredStrategy):
        _collective_key_base = 1_000 * (1 + _mirrored.cache_info().misses)

    say(f"training on {len(devices)} devices of this machine, {devices[0]} to {devices[-1]}")
    virtual = all("cpu" in device.lower() for device in devices)
    return Mirrored(devices, tf.distribute.ReductionToOneDevice() if virtual else None)


@functools.cache
def _multi_worker(machines, wait_seconds):
    import tensorflow as tf

    class MultiWorker(tf.distribute.MultiWorkerMirroredStrategy):
        def experimental_distribute_dataset(self, dataset, options=None):
            """Gives each worker its shard of every batch. A dataset with the policy OFF already consists of the worker's own shards.

            By itself, TensorFlow would shard the files of a dataset that reads any, and take batches with OFF for those of all workers.
            """
            policy = dataset.options().experimental_distribute.auto_shard_policy
            if policy == tf.data.experimental.AutoShardPolicy.OFF:
                here = self.num_replicas_in_sync // len(machines.addresses)
                return self.distribute_datasets_from_function(lambda context: _split(dataset, here))
            if policy == tf.data.experimental.AutoShardPolicy.AUTO:
                given = tf.data.Options()
                given.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
                dataset = dataset.with_options(given)
            return super().experimental_distribute_dataset(dataset, options)

    count, index = len(machines.addresses), machines.index
    if count > 1:
        cluster.wait_for(machines, wait_seconds)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(machines.addresses)}), task_type="worker", task_id=index, rpc_layer="grpc"
    )
    try:
        # Without a timeout, a sum waits forever for a worker that is alive but does not reach it.
        made = MultiWorker(resolver, tf.distribute.experimental.CommunicationOptions(timeout_seconds=wait_seconds))
    except RuntimeError as error:
        if "program startup" not in str(error):
            raise
        raise ValueError(
            "The strategy for several machines must be created before any tensor, dataset or model of TensorFlow. "
            "Received: strategy='multi_worker' after them"
        ) from None
    enter_cluster(index, count, made)
    here = made.num_replicas_in_sync // count
    say(f"training on {count} workers with {here} device{'s' * (here > 1)} each; this is worker {index}, {machines.addresses[index]}")
    return made


def _split(dataset, count):
    """Returns the dataset with each batch split into `count` shards."""
    import tensorflow as tf

    def shards(*batch):
        size = -(-tf.shape(tf.nest.flatten(batch)[0], tf.int64)[0] // count)
        return tf.data.Dataset.range(count).map(
            lambda number: tf.nest.map_structure(lambda value: value[number * size : (number + 1) * size], batch)
        )

    return dataset if count == 1 else dataset.flat_map(shards)


@functools.cache
def _tpu():
    import tensorflow as tf

    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
    except ValueError:
        raise ValueError("This machine has no TPU. Received: strategy='tpu'") from None
    tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
    made = tf.distribute.TPUStrategy(resolver)
    say(f"training on a TPU of {made.num_replicas_in_sync} cores")
    return made


def virtual_devices(text: str) -> None:
    """Splits the CPU into virtual devices, to try a strategy without several GPUs. Call it before any computation.

    Args:
        text: str such as "cpu:2".

    Raises:
        ValueError: if `text` has another form, or the backend is already in use.
    """
    if not (match := re.fullmatch(r"cpu:([1-9]\d?)", text)):
        raise ValueError(f"`devices` must be cpu:N, N from 1 to 99. Received: devices={text!r}")
    try:
        if keras.backend.backend() == "jax":
            import jax

            jax.config.update("jax_num_cpu_devices", int(match[1]))
        else:
            import tensorflow as tf

            (cpu,) = tf.config.list_physical_devices("CPU")
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(match[1]))
    except RuntimeError:
        raise ValueError(f"Virtual devices must be created before the backend is used. Received: devices={text!r}") from None


def devices(name: str | None = None, virtual: str | None = None) -> tuple[Any, int, str]:
    """Returns the devices of a run: (strategy or None, number of replicas, a line that describes them).

    Within the scope of a strategy, that strategy is used. A single device needs no strategy.

    Args:
        name: str, as in `strategy`, or None.
        virtual: str, as in `virtual_devices`, or None.
    """
    if virtual is not None:
        virtual_devices(virtual)
    backend, said = keras.backend.backend(), io.StringIO()
    if backend == "tensorflow":
        import tensorflow as tf

        if tf.distribute.has_strategy():
            current = tf.distribute.get_strategy()
            return current, current.num_replicas_in_sync, ""
    if backend == "torch" and name in (None, "one_device"):
        return None, 1, ""
    with contextlib.redirect_stderr(said):
        chosen = strategy("auto" if name is None else name)
    count = count_replicas(chosen)
    used = count > 1 or (backend == "jax" and name not in (None, "one_device"))
    return chosen if used else None, count, said.getvalue().strip().removeprefix("keras_vit: ")


def count_replicas(made: Any) -> int:
    """Returns the number of devices that a strategy or distribution splits a batch over."""
    if keras.backend.backend() == "jax":
        mesh = made.device_mesh
        return dict(zip(mesh.axis_names, mesh.shape))[made.batch_dim_name]
    return made.num_replicas_in_sync


def check_batch(batch_size: int, count: int) -> None:
    """Checks that the devices can share a batch equally.

    Raises:
        ValueError: if they cannot. The error names the nearest batch sizes that they can share.

    Example:
    >>> check_batch(30, 4)
    Traceback (most recent call last):
        ...
    ValueError: Devices must share a batch equally: 4 can share 28 or 32 images. Received: a batch of 30 images
    """
    if batch_size % count:
        less = batch_size - batch_size % count
        near = f"{less} or {less + count}" if less else f"{count}"
        raise ValueError(f"Devices must share a batch equally: {count} can share {near} images. Received: a batch of {batch_size} images")
