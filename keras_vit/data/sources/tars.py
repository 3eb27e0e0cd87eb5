"""Reads images in tar files (WebDataset) by index: for data sets that are too large for one machine or have too many files."""

import hashlib
import io
import os
import pathlib
import tarfile

import filelock
import numpy as np
import tensorflow as tf

from keras_vit.checkpoints.formats.archives import read_npz
from keras_vit.data.preprocessing import printable
from keras_vit.data.sources.decode import decode, is_plain
from keras_vit.data.sources.guard import guarded
from keras_vit.data.sources.listing import split_of, suffix_of, suffixes
from keras_vit.data.sources.manifest import progress
from keras_vit.data.sources.source import Source, Split, held_out
from keras_vit.files import cache_folder, replacing
from keras_vit.layers import checks
from keras_vit.reading import read_json

MOST_CLASSES, MOST_DIGITS = 1_000_000, 20


def tars(
    path: str | os.PathLike,
    image_size: int | tuple[int, int] = 224,
    strict: bool = False,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    part: tuple[int, int] | None = None,
) -> Source:
    """Reads a folder of tar files in which each image `KEY.jpg` comes with its class index in a text file `KEY.cls`.

    The split of a tar file is the name of its folder, or the beginning of its own name: `train/000.tar`, `val-000.tar`. Other files hold
    training images. `classes.txt` in the folder may name the classes, one per line.

    At first only the headers are read. The position of each image is kept in `~/.keras/keras_vit/tars`, so that images can be read in any
    order.

    Args:
        path: str or path-like. The folder.
        image_size: int or (rows, columns). Size that images are resized to. Defaults to 224.
        strict: bool. If False, an image that cannot be read is logged, and the next image takes its place. If True, it is an error.
            Defaults to False.
        validation_fraction: float in (0, 1). Share of validation images among the images that are not test images. Defaults to 0.1.
        test_fraction: float in (0, 1). Share of test images among all images. Defaults to 0.2.
        part: (index, count) or None. Only every `count`-th training file is opened, starting at `index`. Set by `load(shard_by="files")`.

    Returns:
        A `Source`.

    Raises:
        ValueError: if a tar file cannot be read or has an image without a label, or a split is missing.
    """
    path, image_shape = os.path.abspath(os.fsdecode(path)), checks.positive_pair("image_size", image_size)
    files, counts = find_tars(path)
    shares = []
    if part:
        if len(files.get("train", ())) < part[1] or "validation" not in files:
            raise ValueError(
                "`shard_by='files'` needs at least one training file per machine, and validation files. "
                f"Received: {', '.join(f'{len(names)} {split} files' for split, names in files.items())} for {part[1]} machines"
            )
        shares = [files["train"][number :: part[1]] for number in range(part[1])]
        files["train"] = shares[part[0]]
    opened = list(dict.fromkeys(name for names in files.values() for name in names))
    with progress("Reading tar files", len(opened)) as bar:
        found = {name: (index(name), bar.update())[0] for name in opened}
    smallest = None
    if part:
        known = counts | {name: len(rows) for name, rows in found.items()}
        missing = [name for share in shares for name in share if name not in known]
        known |= {name: len(index(name)) for name in missing if os.path.exists(name)}
        if lacking := [name for name in missing if name not in known]:
            raise ValueError(
                "The tar files of all machines must be in the folder, or sizes.json must give the number of images of each. "
                f"Received: no {lacking[0]}"
            )
        smallest = min(sum(known[name] for name in share) for share in shares)
    rows = np.concatenate([found[name] for name in opened])
    of_file = np.repeat(np.arange(len(opened)), [len(found[name]) for name in opened])
    numbers = {name: number for number, name in enumerate(opened)}
    places = {split: np.flatnonzero(np.isin(of_file, [numbers[name] for name in names])) for split, names in files.items()}
    if "validation" in places:
        places.setdefault("test", places["validation"])
    if "train" not in places:
        raise ValueError(f"There must be tar files of training images. Received: {printable(path)} with {', '.join(files)}")
    labels = rows[:, 2]
    places = held_out(places, labels, {"test": test_fraction, "validation": validation_fraction})
    made = {id(chosen): split_of_rows(opened, of_file, rows, chosen, strict) for chosen in places.values()}
    splits = {name: made[id(chosen)] for name, chosen in places.items()}
    return Source(class_names(path, int(labels.max()) + 1), (*image_shape, 3), splits, smallest)


def find_tars(path):
    """Returns a dict from splits to the paths of their tar files, and a dict from paths to numbers of images, where they are known.

    Args:
        path: str. The folder. It may hold WebDataset's `sizes.json`, which gives the number of images of each file, including files on
            other machines.
    """
    root, counts = pathlib.Path(path), {}
    if (root / "sizes.json").is_file():
        sizes = read_json(root / "sizes.json", "The sizes.json of tar files")
        if not isinstance(sizes, dict) or not all(checks.is_int(count, 0) and is_inside(name) for name, count in sizes.items()):
            raise ValueError(
                f"sizes.json must give the number of images of tar files beside it. Received: {printable(root / 'sizes.json')}"
            )
        counts = {str(root / name): count for name, count in sizes.items()}
    names = sorted({*counts, *map(str, root.glob("*.tar")), *map(str, root.glob("*/*.tar"))})
    files = {}
    for name in names:
        inside = pathlib.Path(name).relative_to(root)
        begin = inside.name.removesuffix(".tar").rstrip("0123456789-_.{}")
        split = split_of(os.fsencode(inside.parent.name)) or split_of(os.fsencode(begin)) or "train"
        files.setdefault(split, []).append(name)
    return files, counts


def is_inside(name):
    """Whether a relative path leads to nothing outside of the folder that it is relative to."""
    return not os.path.isabs(name) and ".." not in pathlib.PurePath(name).parts


def holds_tars(path):
    """Returns whether a folder is a data set of tar files: it holds tar files, and no folders except splits."""
    folders = [entry for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith(".")] if os.path.isdir(path) else []
    splits = all(split_of(os.fsencode(entry.name)) and any(pathlib.Path(entry.path).glob("*.tar")) for entry in folders)
    return os.path.isdir(path) and splits and any(find_tars(os.path.abspath(path)))


def class_names(path, known):
    """Returns the class names in `classes.txt` or, without this file, the class numbers."""
    file = pathlib.Path(path, "classes.txt")
    names = tuple(file.read_text("utf-8").splitlines()) if file.is_file() else tuple(map(str, range(known)))
    if len(names) < known:
        raise ValueError(f"classes.txt must name every class. Received: {len(names)} names, {known} classes in {printable(path)}")
    return names


def index(path):
    """Returns the positions of the images in a tar file: an int64 array `(n, 3)` of first byte, number of bytes and label."""
    status = os.stat(path)
    home = cache_folder("tars")
    kept, state = home / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:24]}.npz", [status.st_size, status.st_mtime_ns]
    try:
        file = read_npz(kept)
        if file["state"].tolist() == state:
            return file["rows"]
    except (OSError, ValueError, KeyError):  # missing or damaged
        pass
    rows = read_headers(path)
    home.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{kept}.lock"), replacing(kept) as temporary:
        np.savez(temporary, state=state, rows=rows)
    return rows


def read_headers(path):
    """Reads the array of `index` from the headers of the tar file."""
    images, labels = {}, {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # this list would grow by a kilobyte per file
                folder, name = os.path.split(member.name)
                key, _, suffix = name.partition(".")
                if member.isfile() and not name.startswith("."):
                    if suffix == "cls":
                        label = int(tar.extractfile(member).read(MOST_DIGITS))
                        if not 0 <= label < MOST_CLASSES:
                            raise ValueError(f"a label of {label}")
                        labels[folder, key] = label
                    elif suffix_of(os.fsencode(name)) in suffixes():
                        images[folder, key] = member.offset_data, member.size
    except (tarfile.TarError, OSError, ValueError) as error:
        raise ValueError(
            f"A tar file must be complete and uncompressed, with numbers as labels ({error}). Received: {printable(path)}"
        ) from None
    if lacking := ["/".join(filter(None, key)) for key in images if key not in labels]:
        raise ValueError(f"Each image of a tar file must have a label file, such as {lacking[0]}.cls. Received: {printable(path)}")
    if not images:
        raise ValueError(f"A tar file must hold images. Received: {printable(path)}")
    return np.array([(*place, labels[key]) for key, place in images.items()], np.int64)


def split_of_rows(files, of_file, rows, places, strict):
    """Returns the `Split` of some images.

    Args:
        files: list of str. Paths of the tar files.
        of_file: int array `(n,)`. The number of each image's file.
        rows: int64 array `(n, 3)`. Position and label of each image, see `index`.
        places: int array. The images of the split.
        strict: bool. As in `tars`.
    """
    of_file, rows = of_file[places], rows[places]
    plain = np.zeros(len(rows), np.uint8)  # 0: not known yet, 1: decoded by Pillow, 2: by TensorFlow

    def contents(place):
        begin, count, label = rows[place]
        with open(files[of_file[place]], "rb") as file:
            file.seek(begin)
            found = file.read(count)
        if not plain[place]:
            plain[place] = 1 + is_plain(io.BytesIO(found))
        return found, plain[place] == 2, label

    def read(place, window):
        found, by_tensorflow, label = tf.numpy_function(contents, [place], (tf.string, tf.bool, tf.int64), stateful=False)
        image = decode(tf.ensure_shape(found, ()), tf.ensure_shape(by_tensorflow, ()), window)
        return image, tf.ensure_shape(label, ())

    def name_of(place):
        path = files[of_file[place]]
        with open(path, "rb") as file:
            file.seek(rows[place, 0] - tarfile.BLOCKSIZE)
            header = file.read(tarfile.BLOCKSIZE)
        return f"{tarfile.TarInfo.frombuf(header, 'utf-8', 'surrogateescape').name} in {printable(path)}"

    read = guarded(read, len(rows), name_of, strict)
    return Split(len(rows), read, same_shape=False, read_window=read)
