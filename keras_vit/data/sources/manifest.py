"""Checks all files of a folder of images, and keeps the result: only new and changed files are checked again."""

import concurrent.futures
import hashlib
import logging
import os
import sys

import filelock
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from keras_vit.checkpoints.formats.archives import read_npz
from keras_vit.data.preprocessing import open_image, orientation, printable, read_image
from keras_vit.data.sources.decode import plain_form
from keras_vit.files import cache_folder, replacing

log = logging.getLogger("keras_vit")
UNREADABLE, BY_PILLOW, BY_TENSORFLOW = range(3)  # verdicts: how a file is decoded
VERSION = 2
CHUNK = 64  # files that a thread checks in one task
PIECE = 64 * CHUNK  # files whose tasks are submitted at once


class Table:
    """The files of a data set in arrays, folder by folder: 17 bytes and the length of the name for each.

    Args:
        folders: list of bytes. Paths of the folders.
        counts: sequence of int. Number of files in each folder.
        names: bytes. Paths of the files within their folders, each followed by a zero byte.
        sizes: int64 array. Size of each file in bytes.
        times: int64 array. Modification time of each file in nanoseconds.
        verdicts: uint8 array or None. How each file is decoded. UNREADABLE also stands for files that are not checked yet. Defaults to
            None, no file is checked.
        shapes: uint32 array `(n, 2)` or None. Rows and columns of each image.
    """

    def __init__(self, folders, counts, names, sizes, times, verdicts=None, shapes=None):
        self.folders, self.counts, self.names, self.sizes, self.times = folders, np.asarray(counts, np.int64), names, sizes, times
        self.verdicts = np.full(len(sizes), UNREADABLE, np.uint8) if verdicts is None else verdicts
        self.shapes = np.zeros((len(sizes), 2), np.uint32) if shapes is None else shapes
        self.firsts = np.cumsum([0, *self.counts])  # the first file of each folder
        # Where each name begins, and one entry more for the end of the last.
        self.begins = np.concatenate([[0], np.flatnonzero(np.frombuffer(names, np.uint8) == 0) + 1])

    def path(self, place):
        """Returns the path of a file."""
        folder = self.folders[np.searchsorted(self.firsts, place, side="right") - 1]
        return os.path.join(folder, self.names[self.begins[place] : self.begins[place + 1] - 1])

    def names_in(self, folder):
        """Returns the names of a folder's files, each followed by a zero byte."""
        return self.names[self.begins[self.firsts[folder]] : self.begins[self.firsts[folder + 1]]]


class Manifest:
    """The results of checking a data set, as a file: path, size, modification time, verdict, rows and columns of each image.

    The file is in `$KERAS_HOME/keras_vit/manifests` (by default `~/.keras/keras_vit/manifests`).

    Args:
        root: bytes. Path of the data set.
    """

    def __init__(self, root):
        home = cache_folder("manifests")
        self.path = home / f"{hashlib.sha256(os.path.abspath(root)).hexdigest()[:24]}.npz"

    def read(self):
        """Returns the `Table` of the last check, or None."""
        try:
            file = read_npz(self.path)
            if int(file["version"]) != VERSION:
                return None
            columns = [file[name] for name in ("sizes", "times", "verdicts", "shapes")]
            return Table(file["folders"].tobytes().split(b"\0"), file["counts"], file["names"].tobytes(), *columns)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError) as error:  # damaged, for instance by a full disk
            log.warning(f"The manifest cannot be read, and all files are checked again ({error}): {self.path}")
            return None

    def write(self, table):
        """Writes the manifest. Without space or permission it is not written, which only costs time."""
        texts = {"folders": b"\0".join(table.folders), "names": table.names}
        texts = {name: np.frombuffer(text, np.uint8) for name, text in texts.items()}
        columns = {name: getattr(table, name) for name in ("counts", "sizes", "times", "verdicts", "shapes")}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(f"{self.path}.lock"), replacing(self.path) as temporary:
                np.savez(temporary, version=VERSION, **texts, **columns)
        except OSError as error:
            log.warning(f"The manifest cannot be written: the files will be checked again next time ({error})")

    def check(self, table, links, strict=False):
        """Fills in the verdicts of all files, and returns a list of (path, reason) of those that cannot be read, in order.

        Args:
            table: `Table`.
            links: int64 array. A common number for several names of the same file; 0 for files with one name.
            strict: bool. Whether to raise a ValueError for the first file that cannot be read. Defaults to False.
        """
        known = self.read()
        if known is not None:
            remember(known, table)
            del known
        missing = np.flatnonzero(table.verdicts == UNREADABLE)
        if not len(missing):
            return []
        try:
            return decode_all(table, missing, links[missing], strict)
        finally:  # an interrupted check keeps its results, too
            self.write(table)


def decode_all(table, places, links, strict):
    """Checks files in threads, because decoders release Python's lock. A file with several names is checked once.

    Args:
        table: `Table` whose verdicts and shapes are filled in.
        places: int array. The files to check.
        links: int64 array. A common number for several names of the same file; 0 for files with one name.
        strict: bool. Whether to raise a ValueError for the first file that cannot be read.

    Returns:
        A list of (path, reason) of the files that cannot be read, in order.
    """
    numbers, reasons = np.where(links == 0, -1 - np.arange(len(links)), links), {}
    _, first, same = np.unique(numbers, return_index=True, return_inverse=True)
    chosen = np.sort(places[first])
    with progress("Checking images", len(chosen)) as bar, concurrent.futures.ThreadPoolExecutor() as pool:
        for begin in range(0, len(chosen), PIECE):  # the tasks of all files at once would need more memory than their table
            chunks = [chosen[start : start + CHUNK] for start in range(begin, min(begin + PIECE, len(chosen)), CHUNK)]
            for chunk, found in zip(chunks, pool.map(lambda chunk: [inspect(table.path(place)) for place in chunk], chunks)):
                for place, (verdict, shape, reason) in zip(chunk, found):
                    table.verdicts[place], table.shapes[place] = verdict, shape
                    if reason and strict:
                        raise ValueError(reason)
                    if reason:
                        reasons[int(place)] = reason
                bar.update(len(chunk))
    representatives = places[first][same]
    table.verdicts[places], table.shapes[places] = table.verdicts[representatives], table.shapes[representatives]
    failed = places[table.verdicts[places] == UNREADABLE], representatives[table.verdicts[places] == UNREADABLE]
    same_as = "The same file as {}, which cannot be read: {}".format
    return [
        (path, reasons[int(one)] if place == one else same_as(printable(table.path(one)), printable(path)))
        for place, one, path in zip(*failed, map(table.path, failed[0]))
    ]


def remember(known, table):
    """Copies the verdicts and shapes of files that have not changed since they were checked.

    Args:
        known: `Table` of the last check.
        table: `Table` of the present files.
    """
    folders = {folder: number for number, folder in enumerate(known.folders)}
    for number, folder in enumerate(table.folders):
        old = folders.get(folder)
        if old is None:
            continue
        names, old_names = table.names_in(number), known.names_in(old)
        new_places, old_places = (np.arange(rows.firsts[place], rows.firsts[place + 1]) for rows, place in ((table, number), (known, old)))
        if names != old_names:
            where = {name: place for name, place in zip(old_names.split(b"\0"), old_places)}
            pairs = [(new, where[name]) for name, new in zip(names.split(b"\0"), new_places) if name in where]
            new_places, old_places = np.array(pairs, np.int64).reshape(-1, 2).T
        same = (known.sizes[old_places] == table.sizes[new_places]) & (known.times[old_places] == table.times[new_places])
        table.verdicts[new_places[same]] = known.verdicts[old_places[same]]
        table.shapes[new_places[same]] = known.shapes[old_places[same]]


def inspect(path):
    """Checks a file by decoding its image. A JPEG is decoded at a reduced size, which also reads the whole file.

    Args:
        path: bytes.

    Returns:
        (verdict, (rows, columns), reason). `reason` is None if the file can be read. The verdict is BY_TENSORFLOW where TensorFlow decodes
        as Pillow does, but faster, and where Pillow fails on metadata, such as a large text in a PNG, and TensorFlow does not.
    """
    shape, form, plain, reason = (0, 0), None, False, None
    refused = (OSError, ValueError)  # Pillow's errors for contents that it does not accept
    try:
        with open_image(os.fsdecode(path)) as image:
            shape, form = (image.height, image.width), image.format
            upright = orientation(image) == 1
            plain = upright and plain_form(image)
    except Exception as error:  # a decoder may raise anything on a damaged file
        upright, reason = isinstance(error, refused), f"{error}: {printable(path)}"
    if form and not plain:
        try:
            read_image(path)
            return BY_PILLOW, shape, None
        except ValueError as error:
            upright, reason = upright and isinstance(error.__cause__, refused), str(error)
    if upright:
        try:
            with tf.device("CPU"):
                image = tf.image.decode_jpeg(tf.io.read_file(path), channels=3, ratio=8 if plain and form != "PNG" else 1)
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
    """Returns a progress bar. On a terminal it appears after two seconds; in a log file it writes a line every half minute."""
    return tqdm(total=count, desc=text, unit="", delay=2, mininterval=0.2 if sys.stderr.isatty() else 30, dynamic_ncols=True)
