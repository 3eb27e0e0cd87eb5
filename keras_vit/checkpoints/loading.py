"""Loads a checkpoint in another library's format into a model."""

import collections
import concurrent.futures
import contextlib
import logging
import os
import pathlib
import re
from typing import Any

import keras
import numpy as np

from keras_vit.checkpoints.download import resolve
from keras_vit.checkpoints.formats.files import open_tensors
from keras_vit.checkpoints.formats.tensors import ALIGNMENT, Scratch, aligned, naming
from keras_vit.checkpoints.recognition import recognize
from keras_vit.config import ViTConfig
from keras_vit.layers.patch_embedding import fit_kernel
from keras_vit.layers.resampling import check_method, resample_grid
from keras_vit.reading import read_json
from keras_vit.runtime.keras_seams import create_with
from keras_vit.vision_transformer import VisionTransformer

log = logging.getLogger("keras_vit")

# Layers that may be missing in the model or in the checkpoint: everything after the backbone, and registers.
OPTIONAL = ("head", "distillation_head", "pre_logits", "attention_pooling", "register_tokens")

THREADS = min(4, os.cpu_count() or 1)  # Threads that read and transpose; each needs the memory of one tensor.


class Checkpoint:
    """Holds an open checkpoint of a known format: its tensors and the arguments of the `VisionTransformer` in it.

    Attributes:
        path: pathlib.Path. The opened file or folder.
        format: module of its format.
        names: dict. The file's key of each canonical key.
        keys: dict. The same without the prefixes that wrappers added.
        arguments: dict. Arguments of `VisionTransformer`.
        assumed: tuple of str. Arguments that the file does not state.
    """

    def __init__(
        self,
        path: pathlib.Path,
        tensors: Any,
        config: dict[str, Any],
        overrides: dict[str, Any],
        expected: dict[str, Any],
        ema: bool | None,
    ):
        self.path = path
        self.tensors = tensors
        self._scratch = Scratch()
        with naming(path):
            self.format, _, self.names, self.keys = recognize(tensors, ema)
        shapes = {name: tuple(tensors.shapes[key]) for name, key in self.names.items()}
        config = config or tensors.configuration
        if "rope_embed.periods" in self.names:  # Meta's models use what the file holds
            config = {**config, "rope_periods": np.asarray(tensors.read(self.names["rope_embed.periods"], None), "float32")}
        with naming(path):
            arguments, self.details = self.format.architecture(self.keys, shapes, config, overrides, expected)
        self.assumed = self.details.pop("assumed", ())
        self.patch_resample = arguments.pop("patch_resample", "bicubic_antialias")
        self.arguments = {key: value for key, value in arguments.items() if value is not None or key in ("pooling", "stem", "rotary")}

    def rows(self) -> list:
        """Returns the rows that map our weights to the file's tensors."""
        return self.format.rows(ViTConfig.of(self.arguments).to_dict(), **self.details)

    def read(self, row: Any) -> dict[str, np.ndarray]:
        """Returns `{our path: array}` of a row, as float32 in our layout. It is thread-safe."""
        scratch = self._scratch if len(row.keys) == 1 else None
        arrays = [np.asarray(self.tensors.read(self.names[key], scratch), "float32") for key in row.keys]
        return {path: copied(array) for path, array in _by_path(row, row.layout.read(*arrays)).items()}

    def shapes(self, row: Any) -> dict[str, tuple]:
        """Returns `{our path: shape}` of a row without reading it."""
        stand_ins = [np.broadcast_to(np.int8(0), self.tensors.shapes[self.names[key]]) for key in row.keys]
        return {path: array.shape for path, array in _by_path(row, row.layout.read(*stand_ins)).items()}


@contextlib.contextmanager
def open_checkpoint(
    source: str | os.PathLike[str],
    overrides: dict[str, Any] | None = None,
    expected: dict[str, Any] | None = None,
    ema: bool | None = None,
    sha256: str | None = None,
    size: int | None = None,
):
    """Opens a checkpoint in a foreign format.

    Args:
        source: str or path-like. A file or folder, `hf://owner/repository[@revision]`, or an https URL. A config.json beside a file is
            read, too.
        overrides: dict or None. Arguments of `VisionTransformer` that the file does not state, such as `num_heads`. Defaults to None.
        expected: dict or None. Arguments of the preset that the weights are for, which fill the remaining gaps. Defaults to None.
        ema: bool or None. Which weights to read if the file also holds their running average: True reads the average, False the weights
            themselves, None the average if there is one. Defaults to None.
        sha256: str or None. Expected digest of a downloaded file. Defaults to None.
        size: int or None. Expected number of bytes of a downloaded file. Defaults to None.

    Yields:
        A `Checkpoint`.

    Raises:
        ValueError: if the source does not exist, is damaged, or holds no Vision Transformer in a known format.
    """
    path = resolve(source, sha256=sha256, size=size)
    with open_tensors(path) as tensors:
        config = _configuration(path if path.is_dir() else path.parent)
        yield Checkpoint(path, tensors, config, overrides or {}, expected or {}, ema)


def _configuration(folder):
    """Returns the config.json of a folder, with the image processor's file under "image_processor"; empty if there is none."""
    config = read_json(folder / "config.json", "A config.json") if (folder / "config.json").is_file() else {}
    if not isinstance(config, dict) or not config.keys() & {"architecture", "architectures", "model_type", "hidden_size"}:
        config = {}  # it does not describe a model
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            processor = read_json(folder / name, f"A {name}")
            processor = processor.get("image_processor", processor) if isinstance(processor, dict) else None
            if not isinstance(processor, dict):
                raise ValueError(f"A {name} must hold an object. Received: {folder / name}")
            return {**config, "image_processor": processor}
    return config


def new_model(checkpoint: Checkpoint, arguments: dict[str, Any], resample: str | None = None) -> VisionTransformer:
    """Builds a model whose variables are created directly from the checkpoint's tensors, without initial values.

    Args:
        checkpoint: Checkpoint. The open checkpoint.
        arguments: dict. All arguments of `VisionTransformer`.
        resample: str or None. How positions and the patch kernel are resampled; None takes the method of the checkpoint's family. Defaults
            to None.

    Returns:
        A `VisionTransformer`.

    Raises:
        ValueError: if a tensor is missing, unexpected or of a wrong shape. The error lists all of them.
    """
    # Variables of this scope get their values when it ends. Until then, their initializers can be replaced.
    with keras.StatelessScope(initialize_variables=False):
        model = VisionTransformer(**arguments)
    variables = _variables(model)
    plan = _match(checkpoint, variables, resample)
    if checkpoint.details.get("stacked"):  # one tensor holds weights of every block: too many arrays would wait for their variables
        for path in _paths(plan):
            create_with(variables[path], keras.initializers.Zeros())
        with keras.StatelessScope():
            pass  # leaving the scope creates the variables
        _assign(variables, checkpoint, plan)
        return model
    # Variables are created in about the order of the plan. An array that is read early waits for its variable.
    arrays, waiting = _read_ahead(checkpoint, plan), {}

    def take(path, dtype):
        while path not in waiting:
            waiting.update([next(arrays)])
        return keras.ops.cast(_tensor(waiting.pop(path)), dtype)

    for path in _paths(plan):
        create_with(variables[path], lambda shape, dtype=None, path=path: take(path, dtype))
    with contextlib.closing(arrays), keras.StatelessScope():
        pass
    return model


def load_into(model: VisionTransformer, checkpoint: Checkpoint, resample: str | None = None) -> None:
    """Loads a checkpoint into an existing model, or changes nothing if a tensor does not fit. Arguments as in `new_model`."""
    variables = _variables(model)
    _assign(variables, checkpoint, _match(checkpoint, variables, resample))


def _assign(variables, checkpoint, plan):
    for path, array in _read_ahead(checkpoint, plan):
        variables[path].assign(_tensor(array))


def _match(checkpoint, variables, resample):
    """Returns a list of `(row, {our path: function that resamples its array, or None})` after checking that all tensors fit."""
    if resample is not None:
        check_method(resample)
    positions = resample or checkpoint.arguments["position_resample"]
    kernel = resample or checkpoint.patch_resample
    missing, wrong, plan, used = [], [], [], set()
    new = {path for path in variables if path.split("/")[0] in OPTIONAL}
    for row in checkpoint.rows():
        used.update(row.keys)
        if lacking := [key for key in row.keys if key not in checkpoint.names]:
            missing += lacking
            continue
        try:
            shapes = checkpoint.shapes(row)
        except ValueError:
            wrong.append(f"{', '.join(row.keys)}: {[tuple(checkpoint.tensors.shapes[checkpoint.names[k]]) for k in row.keys]}")
            continue
        fits = {}
        for path, shape in shapes.items():
            if path not in variables:
                if path.split("/")[0] not in OPTIONAL:
                    wrong.append(f"{', '.join(row.keys)}: the model has no {path}")
                continue
            wanted = tuple(variables[path].shape)
            fit = None
            if path == "position_embedding/table" and len(shape) == 3 and shape[-1] == wanted[-1]:
                fit = lambda table, wanted=wanted: resample_grid(table, wanted[:2], positions)  # noqa: E731
            elif path == "patch_embedding/kernel" and len(shape) == 4 and shape[-1] == wanted[-1] and shape[2] in (3, wanted[2]):
                fit = lambda array, wanted=wanted: fit_kernel(array, wanted, kernel)  # noqa: E731
            if shape == wanted or fit is not None:
                fits[path] = None if shape == wanted else fit
            elif path not in new:
                wrong.append(f"{', '.join(row.keys)}: {shape} for {path}, which is {wanted}")
        plan.append((row, fits))
    filled = set(_paths(plan))
    unexpected = [key for name, key in checkpoint.names.items() if name not in used and not re.fullmatch(checkpoint.format.IGNORED, name)]
    fixed = [path for path in variables if path not in filled and path not in new]
    if missing or unexpected or wrong or fixed:
        lists = {"Missing": missing, "Unexpected": unexpected, "Of a wrong shape": wrong, "Without a tensor": fixed}
        found = "; ".join(f"{title}: {_first(items)}" for title, items in lists.items() if items)
        raise ValueError(
            f"The checkpoint, in the format {checkpoint.format.NAME!r}, does not fit the model, which was left as it was. {found}. "
            f"Received: {checkpoint.path}"
        )
    fresh = sorted({path.split("/")[0] for path in new if path not in filled})
    if fresh:
        log.warning("%s is not in %s or is of another shape there, and starts new", ", ".join(fresh), checkpoint.path)
    return plan


def _first(items, most=8):
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def _paths(plan):
    return [path for _, fits in plan for path in fits]


def _read_ahead(checkpoint, plan):
    """Yields `(our path, array)` in the order of a plan, while threads read and transpose the next rows."""
    threads = 1 if checkpoint.details.get("stacked") else THREADS  # one row holds weights of all blocks, which is enough memory
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        pending = collections.deque()
        for row, fits in plan:
            if fits:
                pending.append((pool.submit(checkpoint.read, row), fits))
            if len(pending) == threads:
                yield from _fitted(*pending.popleft())
        for future, fits in pending:
            yield from _fitted(future, fits)


def _fitted(future, fits):
    arrays = future.result()
    for path, fit in fits.items():
        array = arrays.pop(path)
        yield path, array if fit is None else fit(array)


def _tensor(array):
    """Returns a tensor of an array that has no other owner. On TensorFlow's CPU, the tensor shares the memory of the array."""
    shareable = isinstance(array, np.ndarray) and array.flags.carray and array.ctypes.data % ALIGNMENT == 0
    if shareable and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return keras.ops.convert_to_tensor(array)


def _variables(model):
    """Returns the model's weights by path, such as "block_0/mlp/fc1/kernel"."""
    return {v.path[v.path.index(f"{layer.name}/") :]: v for layer in model.layers for v in layer.weights}


def _by_path(row, arrays):
    return dict(zip(row.paths, arrays if isinstance(arrays, tuple) else (arrays,)))


def copied(array: np.ndarray, band: int = 128) -> np.ndarray:
    """Returns a copy in C order, in memory that a tensor can share.

    A transposed kernel is copied in bands that fit the cache, in a sixth of the time of a NumPy copy.
    """
    copy = aligned(array.shape, array.dtype)
    if array.ndim == 2 and array.flags.f_contiguous:
        for i in range(0, array.shape[1], band):
            copy[:, i : i + band] = array[:, i : i + band]
    else:
        copy[...] = array
    return copy
