"""Images in tar files of the WebDataset form, read by index: what is too large for one machine, or too many files for a disk."""

import hashlib
import io
import json
import os
import pathlib
import tarfile
import zipfile

import filelock
import numpy as np
import tensorflow as tf

from keras_vit.data.preprocessing import printable
from keras_vit.data.sources.decode import decode, is_plain
from keras_vit.data.sources.guard import guarded
from keras_vit.data.sources.listing import split_of, suffix_of, suffixes
from keras_vit.data.sources.manifest import progress
from keras_vit.data.sources.source import Source, Split, held_out
from keras_vit.files import replacing
from keras_vit.layers import checks


def tars(
    path: str | os.PathLike,
    image_size: int | tuple[int, int] = 224,
    strict: bool = False,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    part: tuple[int, int] | None = None,
) -> Source:
    """Reads a folder of tar files in which each image `KEY.jpg` lies beside its class index, the text file `KEY.cls`.

    A tar file belongs to the split that its folder is named after, or the beginning of its own name: `train/000.tar`, `val-000.tar`. Others
    hold training images. `classes.txt` in the folder may name the classes, one a line.

    Only the headers are read at first. Where each image begins is remembered in `~/.keras/keras_vit/tars`, so images are read in any order.

    Args:
        path: str or path-like. The folder.
        image_size: int or (rows, columns). Size that images are resized to. Defaults to 224.
        strict: bool. If False, the next image comes in place of one that cannot be read, which is named. If True, it is an error.
        validation_fraction: float in (0, 1). Share of validation images among the images that are not test images. Defaults to 0.1.
        test_fraction: float in (0, 1). Share of test images among all images. Defaults to 0.2.
        part: (index, count) or None. Only every `count`-th training file is opened. Set by `load(shard_by="files")`.

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
                "Files can be shared out where there are at least as many for training as machines, and others for validation. "
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
                f"The tar files of all machines must be here, or sizes.json say how many images each holds. Received: {lacking[0]}"
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
    """Returns a dict from splits to the paths of their tar files, and one from paths to numbers of images, as far as they are known.

    Args:
        path: str. The folder. Its `sizes.json`, as WebDataset has it, names the files with their numbers of images, also those that lie
            on other machines.
    """
    root, counts = pathlib.Path(path), {}
    if (root / "sizes.json").is_file():
        counts = {str(root / name): int(count) for name, count in json.loads((root / "sizes.json").read_text()).items()}
    names = sorted({*counts, *map(str, root.glob("*.tar")), *map(str, root.glob("*/*.tar"))})
    files = {}
    for name in names:
        inside = pathlib.Path(name).relative_to(root)
        begin = inside.name.removesuffix(".tar").rstrip("0123456789-_.{}")
        split = split_of(os.fsencode(inside.parent.name)) or split_of(os.fsencode(begin)) or "train"
        files.setdefault(split, []).append(name)
    return files, counts


def holds_tars(path):
    """Whether a folder is one of tar files, which has no other folders than those of splits."""
    folders = [entry for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith(".")] if os.path.isdir(path) else []
    splits = all(split_of(os.fsencode(entry.name)) and any(pathlib.Path(entry.path).glob("*.tar")) for entry in folders)
    return os.path.isdir(path) and splits and any(find_tars(os.path.abspath(path)))


def class_names(path, known):
    """Returns the names of the classes: of `classes.txt`, else the numbers."""
    file = pathlib.Path(path, "classes.txt")
    names = tuple(file.read_text("utf-8").splitlines()) if file.is_file() else tuple(map(str, range(known)))
    if len(names) < known:
        raise ValueError(f"classes.txt must name every class. Received: {len(names)} names, {known} classes in {printable(path)}")
    return names


def index(path):
    """Returns where the images of a tar file are: an int64 array `(n, 3)` with first byte, number of bytes and label of each."""
    status = os.stat(path)
    home = pathlib.Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "keras_vit" / "tars"
    kept, state = home / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:24]}.npz", [status.st_size, status.st_mtime_ns]
    try:
        with np.load(kept) as file:
            if file["state"].tolist() == state:
                return file["rows"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # not there, or damaged
        pass
    rows = read_headers(path)
    home.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{kept}.lock"), replacing(kept) as temporary:
        np.savez(temporary, state=state, rows=rows)
    return rows


def read_headers(path):
    """Returns what `index` does, from the tar file itself."""
    images, labels = {}, {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # which would grow by a kilobyte for each file
                folder, name = os.path.split(member.name)
                key, _, suffix = name.partition(".")
                if member.isfile() and not name.startswith("."):
                    if suffix == "cls":
                        labels[folder, key] = int(tar.extractfile(member).read())
                    elif suffix_of(os.fsencode(name)) in suffixes():
                        images[folder, key] = member.offset_data, member.size
    except (tarfile.TarError, OSError, ValueError) as error:
        raise ValueError(
            f"A tar file must be whole, not compressed, and hold labels as numbers ({error}). Received: {printable(path)}"
        ) from None
    if lacking := ["/".join(filter(None, key)) for key in images if key not in labels]:
        raise ValueError(f"Each image of a tar file must lie beside its label, such as {lacking[0]}.cls. Received: {printable(path)}")
    if not images:
        raise ValueError(f"A tar file must hold images. Received: {printable(path)}")
    return np.array([(*place, labels[key]) for key, place in images.items()], np.int64)


def split_of_rows(files, of_file, rows, places, strict):
    """Returns the `Split` of the images at some places of `rows`, see `index`, which belong to the files numbered `of_file`."""
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
