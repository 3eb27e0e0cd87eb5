"""Which devices a run trains on: names for `tf.distribute`'s strategies. The model is built and compiled in the strategy's scope."""

import functools
import re

import keras

from keras_vit.layers import checks

NAMES = ("auto", "one_device", "mirrored")


def strategy(name="auto"):
    """Returns a strategy of `tf.distribute`.

    Args:
        name: "one_device": the first GPU, or the CPU. "mirrored": every GPU or, without one, every (virtual) CPU; each takes its share
            of a batch. "auto": "mirrored" if there are several GPUs, else "one_device". Or a `tf.distribute.Strategy`, which is returned.

    Raises:
        ValueError: if the name is unknown, or Keras's backend is not TensorFlow.

    Example:
    >>> with keras_vit.training.strategy().scope():
    ...     model = keras_vit.ViTMicro4(num_classes=10)
    ...     model.compile(keras_vit.training.AdamW(1e-3), "sparse_categorical_crossentropy")
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(f"Strategies are TensorFlow's; set KERAS_BACKEND=tensorflow. Received: the backend {keras.backend.backend()!r}")
    import tensorflow as tf

    if isinstance(name, tf.distribute.Strategy):
        return name
    checks.one_of("strategy", name, NAMES)
    gpus = tf.config.list_logical_devices("GPU")
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        return _mirrored(tuple(device.name for device in gpus or tf.config.list_logical_devices("CPU")))
    return tf.distribute.OneDeviceStrategy(gpus[0].name if gpus else "/cpu:0")


@functools.cache
def _mirrored(devices):
    """One object for all: a second one in a process fails ("Shape mismatch in the collective instance")."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(devices)


def virtual_devices(text):
    """Divides the CPU into virtual devices, to try a strategy without several GPUs. Before anything is computed.

    Args:
        text: str such as "cpu:2".

    Raises:
        ValueError: if `text` is of another form, or TensorFlow is in use already.
    """
    import tensorflow as tf

    if not (match := re.fullmatch(r"cpu:([1-9]\d?)", text)):
        raise ValueError(f"`devices` must be cpu:N, N from 1 to 99. Received: devices={text!r}")
    (cpu,) = tf.config.list_physical_devices("CPU")
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(match[1]))
    except RuntimeError:
        raise ValueError(f"Virtual devices must be made before TensorFlow is used. Received: devices={text!r}") from None
