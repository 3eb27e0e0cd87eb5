"""Features in a file, computed shard by shard: a killed process resumes after the last complete shard."""

import itertools
import json
import os
import pathlib
import shutil
import zlib
from typing import NamedTuple

import numpy as np
from keras import ops
from tqdm import tqdm

from keras_vit.backbone import find_vision_transformer
from keras_vit.checkpoints.formats.archives import read_npz
from keras_vit.features.embedding import feature_model, features_of
from keras_vit.features.parquet import check_text, read_parquet, require_pyarrow, write_parquet
from keras_vit.files import disown, own, replacing
from keras_vit.layers import checks

SHARD = 64  # batches: a kill costs at most their computation, seconds to minutes
SETTINGS = "settings.json"
KEYS = {"features", "splits", "indices", "class_names", "settings"}  # and labels, or names


class Features(NamedTuple):
    """The content of a file of features.

    Args:
        features: float32 array `(n, features)`.
        labels: int array `(n,)`, or `(n, classes)` of 0 and 1 where images have several classes; None for images without classes.
        splits: array `(n,)` of str. The split of each image; "all" for images without classes.
        indices: int array `(n,)`. The number of each image within its split, in the order of `data.splits[split]`.
        class_names: tuple of str, empty for images without classes.
        settings: dict. What the features were computed from and how.
        names: array `(n,)` of str, or None. The files of images without classes: paths within `settings["data"]`, or absolute ones.
    """

    features: np.ndarray
    labels: np.ndarray | None
    splits: np.ndarray
    indices: np.ndarray
    class_names: tuple[str, ...]
    settings: dict
    names: np.ndarray | None = None


def write_features(
    path, model, data, split="all", pooling=None, batch_size=32, settings=None, verbose=True, image_size=None, strict=False
) -> Features:
    """Computes the features of a data set, or of image files without classes, and writes them to a file.

    Finished shards are kept in a folder beside the file, named like it with ".shards" added. After a kill the same call resumes there.

    Args:
        path: path of a new file, which ends with ".npz" or ".parquet". Parquet needs pyarrow.
        model: a `keras_vit.VisionTransformer`, or a model whose first layer is one.
        data: a `keras_vit.data.Data`; or images without classes: the path of a folder, whose images are read at any depth, or a list of
            paths of image files.
        split: "test", "validation", "train" or "all". Images without classes have no splits.
        pooling: as in `keras_vit.embed`.
        batch_size: int. Images that are computed at once.
        settings: dict or None. Further values to keep in the file, which JSON can write. To resume, a call must give the same.
        verbose: bool. Whether a progress bar is shown on stderr.
        image_size: int, (rows, columns) or None. Size of images without classes, for a model that takes any size.
        strict: bool. If False, images without classes that cannot be read are named and skipped. If True, the first is an error.

    Returns:
        The `Features`.

    Raises:
        ValueError: if the file exists, shards of other settings lie beside it, or no image can be read.

    Example:
    >>> data = keras_vit.data.load("digits")  # doctest: +SKIP
    >>> write_features("digits.npz", model, data, "test").features.shape  # doctest: +SKIP
    (359, 192)
    """
    path = check_path(path)
    checks.integer("batch_size", batch_size)
    forward, vit = feature_model(model, pooling), find_vision_transformer(model)
    if isinstance(data, (str, os.PathLike, list, tuple)):
        from keras_vit.features import unlabeled  # needs `keras_vit.data`, which `import keras_vit` does not

        class_names, images, transform = (), unlabeled.find_images(data), unlabeled.transform_of(vit, image_size)
        checks.one_of("split", split, ("all",))
        if path.suffix == ".parquet":
            check_text(images.names)
        sizes = {"all": len(images.names)}
        found = {"files": unlabeled.fingerprint_of_files(images), "data": images.folder or None, "data_options": {"image_size": image_size}}

        def files(_, first):
            return unlabeled.batches_of_files(images, transform, batch_size, first, strict)

        batches = files
    else:
        class_names, sizes, found = data.class_names, {name: data.sizes[name] for name in splits_of(data, split)}, {}

        def labeled(name, first):
            return _labeled(data, name, batch_size, first)

        batches = labeled

    settings = {
        **found,
        **(settings or {}),
        "class_names": list(class_names),
        "splits": sizes,
        "pooling": pooling,
        "batch_size": batch_size,
        "weights_crc32": fingerprint(vit),
    }
    folder = path.with_name(path.name + ".shards")
    own(folder)
    try:
        _agree(folder, settings)
        steps = {name: -(-size // batch_size) for name, size in sizes.items()}
        parts = [part for name in sizes for part in _embed_split(folder, forward, vit, batches, name, steps[name], verbose)]
        parts = [part for part in parts if len(part["features"])]
        if not parts:
            raise ValueError(f"There must be an image to embed. Received: {sum(sizes.values())} files, none of which can be read")
        arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        with replacing(path) as temporary:
            if path.suffix == ".parquet":
                write_parquet(temporary, **{"labels": None, **arrays}, class_names=class_names, settings=settings)
            else:
                arrays |= {"class_names": np.array(class_names, str), "settings": np.array(json.dumps(settings))}
                np.savez(temporary, allow_pickle=False, **arrays)
    finally:
        disown(folder)
    shutil.rmtree(folder)
    return read_features(path)


def read_features(path) -> Features:
    """Returns the `Features` in a file that `write_features` or `keras-vit embed` wrote.

    Args:
        path: path of the file.

    Raises:
        ValueError: if the file does not exist, or is no file of features.

    Example:
    >>> read_features("digits.npz").class_names  # doctest: +SKIP
    ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')
    """
    if not pathlib.Path(path).is_file():
        raise ValueError(f"No such file of features. Received: {path}. `keras-vit embed` writes one")
    if pathlib.Path(path).suffix == ".parquet":
        return Features(*read_parquet(path))
    found = _arrays(path)
    kinds = {name: (array.dtype.kind, array.ndim) for name, array in found.items()}
    settings, rows = _settings(found), {len(array) for name, array in found.items() if array.ndim and name != "class_names"}
    wanted = {"features": ("f", 2), "splits": ("U", 1), "indices": ("i", 1), "class_names": ("U", 1), "names": ("U", 1)}
    whole = set(found) in (KEYS | {"labels"}, KEYS | {"names"}) and len(rows) == 1
    if settings is None or not whole or any(kinds[name] != wanted[name] for name in found.keys() & wanted.keys()):
        raise ValueError(f"A file of features must be one that `keras-vit embed` wrote. Received: {path}")
    class_names, _ = tuple(map(str, found.pop("class_names"))), found.pop("settings")
    return Features(**{"labels": None, **found}, class_names=class_names, settings=settings)


def _settings(found):
    """Returns the settings in the arrays of a file of features, or None."""
    try:
        settings = json.loads(str(found.get("settings")))
    except (ValueError, RecursionError):
        return None
    return settings if isinstance(settings, dict) else None


def check_path(path):
    """Returns the path of a new file of features. Raises ValueError if it exists or does not end with .npz."""
    path = pathlib.Path(path)
    if path.suffix not in (".npz", ".parquet"):
        raise ValueError(f"A file of features must end with .npz or .parquet. Received: output={path}")
    if path.suffix == ".parquet":
        require_pyarrow()  # before minutes of computing
    if path.exists():
        raise ValueError(f"The file of features already exists. Received: output={path}. Choose another name, or delete it")
    return path


def fingerprint(model):
    """Returns a checksum of the weights."""
    value = 0
    for variable in model.weights:
        value = zlib.crc32(ops.convert_to_numpy(variable).tobytes(), value)
    return value


def _agree(folder, settings):
    """Records the settings of the shards, or checks that they match those of existing shards."""
    path = folder / SETTINGS
    if not path.exists():
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(settings), encoding="utf-8")
        return
    before, now = json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(settings))
    different = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if different:
        key = different[0]
        raise ValueError(
            f"Unfinished features in {folder} were computed with {key}={before.get(key)!r}. Received: {key}={now.get(key)!r}. "
            "Resume with the same settings, or delete that folder to start again"
        )


def splits_of(data, split):
    """Returns the names of the splits to embed. "all" stands for every split; of two names for the same images, only the first."""
    checks.one_of("split", split, (*data.splits, "all"))
    if split != "all":
        return [split]
    return list({id(dataset): name for name, dataset in reversed(data.splits.items())}.values())[::-1]


def _labeled(data, name, batch_size, first):
    """Yields (images, columns) of the batches of a split from a number on."""
    number = first * batch_size
    for images, labels in data.splits[name].rebatch(batch_size).skip(first):
        count = len(labels)
        yield images.numpy(), {"labels": labels.numpy(), "splits": np.full(count, name), "indices": np.arange(number, number + count)}
        number += count


def _embed_split(folder, forward, vit, batches, name, steps, verbose):
    """Computes the missing shards of a split, and yields all of them.

    Args:
        folder: path of the folder of shards.
        forward, vit: as in `features_of`.
        batches: function from the name of a split and the number of a batch to an iterator of (images, columns) from that batch on.
        name: str. The split.
        steps: int. Number of its batches.
        verbose: bool. Whether a progress bar is shown.
    """
    shards = [folder / f"{name}-{first:08d}.npz" for first in range(0, steps, SHARD)]
    done = next((number for number, shard in enumerate(shards) if not shard.exists()), len(shards))
    yield from map(_arrays, shards[:done])
    if done == len(shards):
        return
    rest = iter(batches(name, done * SHARD))
    with tqdm(desc=f"Embedding {name}", total=steps, initial=min(done * SHARD, steps), unit="batch", disable=not verbose) as bar:
        for shard in shards[done:]:
            features, columns = [np.zeros((0, forward.output_shape[-1]), "float32")], []
            for images, of_batch in itertools.islice(rest, SHARD):
                if len(images):  # none of a batch may be readable
                    features.append(features_of(forward, vit, np.asarray(images)))
                columns.append(of_batch)
                bar.update()
            found = {"features": np.concatenate(features)}
            found |= {key: np.concatenate([column[key] for column in columns]) for key in columns[0]}
            with replacing(shard) as temporary:
                np.savez(temporary, **found)
            yield found


def _arrays(path):
    try:
        return read_npz(path)
    except ValueError as error:
        raise ValueError(f"A file of features must be one that `keras-vit embed` wrote. {error}") from None
