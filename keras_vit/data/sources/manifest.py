"""Checks the files of a folder of images, once: what was found is kept, and only new and changed files are checked again."""

import concurrent.futures
import hashlib
import logging
import os
import pathlib
import sys

import filelock
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_vit.data.preprocessing import orientation, printable, read_image
from keras_vit.files import replacing

UNREADABLE, BY_PILLOW, BY_TENSORFLOW = range(3)  # verdicts: how a file is decoded
VERSION = 1
CHUNK = 64  # files that a thread checks in a row


class Manifest:
    """What is known of the files of a data set: for each its path, size, time of change, verdict, rows and columns.

    Args:
        root: bytes. Path of the data set. The manifest is a file in `$KERAS_HOME/keras_vit/manifests` (default `~/.keras/...`).
    """

    def __init__(self, root):
        home = pathlib.Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "keras_vit" / "manifests"
        self.path = home / f"{hashlib.sha256(os.path.abspath(root)).hexdigest()[:24]}.npz"
        self.rows = self._read()

    def _read(self):
        """Returns a dict from class folders to (names, sizes, times, verdicts, shapes)."""
        try:
            with np.load(self.path) as file:
                if int(file["version"]) != VERSION:
                    return {}
                columns = {name: file[name] for name in ("sizes", "times", "verdicts", "shapes")}
                folders, names = (file[name].tobytes().split(b"\0\0") for name in ("folders", "names"))
                ends = np.cumsum(file["counts"])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, EOFError) as error:  # as a full disk may leave it
            say(f"The manifest is read no more, and made anew ({error}): {self.path}")
            return {}
        pieces = zip(*(np.split(column, ends[:-1]) for column in columns.values()))
        return {folder: (blob, *piece) for folder, blob, piece in zip(folders, names, pieces)}

    def write(self):
        """Writes the manifest. Without room or permission it is left out, which costs time only."""
        names, *columns = zip(*self.rows.values())
        blobs = {name: np.frombuffer(b"\0\0".join(blob), np.uint8) for name, blob in (("folders", self.rows), ("names", names))}
        joined = dict(zip(("sizes", "times", "verdicts", "shapes"), map(np.concatenate, columns)))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(f"{self.path}.lock"), replacing(self.path) as temporary:
                np.savez(temporary, version=VERSION, counts=[len(column) for column in columns[0]], **blobs, **joined)
        except OSError as error:
            say(f"The checked files are not remembered, and will be checked again ({error})")

    def check(self, listings, strict=False):
        """Returns the verdicts on all files and the errors of those that cannot be read, in order.

        Args:
            listings: dict from class folders, in bytes, to their `Files`.
            strict: bool. Whether the first file that cannot be read is an error.

        Returns:
            A list with a uint8 array for each folder, and a list of (path, reason).
        """
        known, self.rows = self.rows, {}
        for folder, files in listings.items():
            sizes, times = np.asarray(files.sizes, np.int64), np.asarray(files.times, np.int64)
            self.rows[folder] = (files.names, sizes, times, *remembered(known.get(folder), files.names, sizes, times))
        errors = []
        missing = sum(int((row[3] == UNREADABLE).sum()) for row in self.rows.values())
        if missing:
            try:
                self._decode(missing, errors, strict)
            finally:  # what is checked stays so, also if this one is stopped
                self.write()
        return [row[3] for row in self.rows.values()], errors

    def _decode(self, count, errors, strict):
        """Checks the files that have no verdict yet, in threads: decoders run outside of Python's lock."""
        with progress("Checking images", count) as bar, concurrent.futures.ThreadPoolExecutor() as pool:
            for folder, (names, _, _, verdicts, shapes) in self.rows.items():
                places = np.flatnonzero(verdicts == UNREADABLE)
                if not len(places):
                    continue
                names = names.split(b"\0")
                chunks = np.array_split(places, -(-len(places) // CHUNK))
                paths = ([os.path.join(folder, names[place]) for place in chunk] for chunk in chunks)
                for chunk, found in zip(chunks, pool.map(lambda chunk: list(map(inspect, chunk)), paths)):
                    for place, (verdict, shape, reason) in zip(chunk, found):
                        verdicts[place], shapes[place] = verdict, shape
                        if reason:
                            errors.append((os.path.join(folder, names[place]), reason))
                            if strict:
                                raise ValueError(reason)
                    bar.update(len(chunk))


def remembered(row, names, sizes, times):
    """Returns the verdicts and shapes of files as they are remembered: UNREADABLE where a file is new, changed or could not be read."""
    verdicts, shapes = np.zeros(len(sizes), np.uint8), np.zeros((len(sizes), 2), np.uint32)
    if row is None:
        return verdicts, shapes
    old_names, old_sizes, old_times, old_verdicts, old_shapes = row
    if old_names == names:
        same = (old_sizes == sizes) & (old_times == times)
        return np.where(same, old_verdicts, UNREADABLE), old_shapes
    places = {name: place for place, name in enumerate(old_names.split(b"\0"))}
    for place, name in enumerate(names.split(b"\0") if names else ()):
        old = places.get(name)
        if old is not None and (old_sizes[old], old_times[old]) == (sizes[place], times[place]):
            verdicts[place], shapes[place] = old_verdicts[old], old_shapes[old]
    return verdicts, shapes


def inspect(path):
    """Decodes an image, a JPEG in small, which reads all of the file.

    Args:
        path: bytes.

    Returns:
        Its verdict, (rows, columns), and why it cannot be read, or None. TensorFlow is taken where it decodes as Pillow does, but faster;
        and where Pillow fails on metadata, such as a large text in a PNG, and TensorFlow does not.
    """
    from PIL import Image

    shape, form, reason, refused = (0, 0), None, None, (OSError, ValueError)  # what Pillow raises on contents that it refuses
    try:
        with Image.open(os.fsdecode(path)) as image:
            shape, form = (image.height, image.width), (image.format, image.mode)
            upright = orientation(image) == 1
    except Exception as error:  # a decoder may raise anything on a damaged file
        upright, reason = isinstance(error, refused), f"{error}: {printable(path)}"
    plain = upright and form in (("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGB"))
    if form and not plain:
        try:
            read_image(path)
            return BY_PILLOW, shape, None
        except ValueError as error:
            upright, reason = upright and isinstance(error.__cause__, refused), str(error)
    if upright:
        try:
            with tf.device("CPU"):
                image = tf.image.decode_jpeg(tf.io.read_file(path), channels=3, ratio=8 if plain and form != ("PNG", "RGB") else 1)
            return BY_TENSORFLOW, shape if form else tuple(image.shape[:2]), None
        except tf.errors.OpError:
            pass
    if plain:
        try:
            read_image(path)
            return BY_PILLOW, shape, None
        except ValueError as error:
            reason = str(error)
    return UNREADABLE, shape, reason


def progress(text, count):
    """Returns a progress bar: on a terminal from the second second on, in a file a line every half minute."""
    return tqdm(total=count, desc=text, unit="", delay=2, mininterval=0.2 if sys.stderr.isatty() else 30, dynamic_ncols=True)


def say(text):
    logging.getLogger(__name__).warning("%s", text)
