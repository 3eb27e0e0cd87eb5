"""Reads a folder of images with one subfolder per class."""

import collections
import concurrent.futures
import logging
import os

import numpy as np
import tensorflow as tf

from keras_vit.data.preprocessing import printable
from keras_vit.data.sources.decode import decode
from keras_vit.data.sources.guard import guarded
from keras_vit.data.sources.listing import class_folders, find_splits, list_files, listed, stray_images
from keras_vit.data.sources.manifest import BY_TENSORFLOW, UNREADABLE, Manifest, Table, progress
from keras_vit.data.sources.source import Source, Split, held_out
from keras_vit.layers import checks

log = logging.getLogger("keras_vit")
MOST_NAMED = 10  # files that a message names; it counts the others


def folder(
    path: str | bytes | os.PathLike,
    image_size: int | tuple[int, int] = 224,
    strict: bool = False,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
) -> Source:
    """Reads a folder with one subfolder of images per class, or with folders such as `train`, `val` and `test` of this form.

    Missing splits are held out from the training images, stratified by class. If there is a validation split but no test split, it is
    used for both. Gray images, palettes and CMYK become RGB, transparency is dropped, and photographs are turned upright.

    All files are checked once, in threads. A manifest in `~/.keras/keras_vit` keeps the result by size and modification time, so that only
    new and changed files are checked again.

    Args:
        path: str or path-like. The folder.
        image_size: int or (rows, columns). Size that images are resized to. Defaults to 224.
        strict: bool. If False, files that cannot be read are logged, counted and skipped. If True, the first of them is an error. Defaults
            to False.
        validation_fraction: float in (0, 1). Share of validation images among the images that are not test images. Defaults to 0.1.
        test_fraction: float in (0, 1). Share of test images among all images. Defaults to 0.2.

    Returns:
        A `Source`.

    Raises:
        ValueError: if the folder has another form or holds no images; or, with `strict`, if a file cannot be read.
        ImportError: if Pillow is not installed.
    """
    path, image_shape = os.path.abspath(os.fsencode(path)), checks.positive_pair("image_size", image_size)
    if not os.path.isdir(path):
        hint = ", which is a file: unpack an archive first" if os.path.exists(path) else ""
        raise ValueError(f"No such folder of images. Received: {printable(path)}{hint}")
    splits, messages = find_splits(path)
    names = class_folders(splits)
    messages += [text for root in splits.values() for text in stray_images(root)]
    folders = [(split, label, os.path.join(root, name)) for split, root in splits.items() for label, name in enumerate(names)]
    folders = [row for row in folders if os.path.isdir(row[2])]  # validation and test splits may lack a class
    with progress("Listing files", len(folders)) as bar, concurrent.futures.ThreadPoolExecutor() as pool:
        listings = []
        for files in pool.map(list_files, [place for *_, place in folders]):
            listings.append(files)
            bar.update()
    troubles = [(place, f"{reason}: {printable(place)}") for files in listings for place, reason in files.troubles]
    if strict and troubles:
        raise ValueError(f"A file cannot be read. Received: {troubles[0][1]}")
    unread = [files.unread for files in listings]
    table, links = joined([place for *_, place in folders], listings)
    errors = Manifest(path).check(table, links, strict)
    readable = table.verdicts != UNREADABLE
    of_folder = np.repeat(np.arange(len(folders), dtype=np.int32), table.counts)
    report(messages, folders, np.bincount(of_folder[readable], minlength=len(folders)), unread, troubles + errors, len(readable))

    labels = np.array([label for _, label, _ in folders], np.int32)
    of_split = np.array([list(splits).index(split) for split, *_ in folders], np.int8)
    indices = {split: np.flatnonzero(readable & (of_split[of_folder] == number)) for number, split in enumerate(splits)}
    for split, root in splits.items():
        if not len(indices[split]):
            raise ValueError(f"Every split must hold an image. Received: none that can be read in {printable(root)}")
    if "validation" in indices and "test" not in indices:
        indices["test"] = indices["validation"]
    indices = held_out(indices, labels[of_folder], {"test": test_fraction, "validation": validation_fraction})
    read = reader(table, labels)
    made = {id(chosen): split_of_files(*read, chosen, strict) for chosen in indices.values()}  # validation and test may be the same
    class_names = tuple(name.decode(errors="backslashreplace") for name in names)
    return Source(class_names, (*image_shape, 3), {name: made[id(chosen)] for name, chosen in indices.items()})


def joined(folders, listings):
    """Returns the `Table` of the files in all folders, and their links. It empties `listings`, to save memory."""
    counts = [len(files.sizes) for files in listings]
    names = b"".join(files.names for files in listings)
    sizes, times, links = (
        np.concatenate([np.asarray(getattr(files, column), np.int64) for files in listings]) for column in ("sizes", "times", "links")
    )
    listings.clear()
    return Table(folders, counts, names, sizes, times), links


def reader(table, labels):
    """Returns two functions of a file's place in a table: one returns its image and label, the other its path.

    In memory they need the name of each file and five bytes.

    Args:
        table: `Table`.
        labels: int32 array. The label of each folder.
    """
    # Names are bytes with offsets, because strings would be copied for each function that `tf.data` traces from `read`.
    with tf.device("CPU"):
        names, firsts = tf.constant(np.frombuffer(table.names, np.uint8)), tf.constant(table.firsts)
        begins = tf.constant(table.begins, tf.int32 if table.begins[-1] < 2**31 else tf.int64)
        letters = tf.constant([bytes([number]) for number in range(256)])
        folders, labels, plain = tf.constant(table.folders), tf.constant(labels), tf.constant(table.verdicts == BY_TENSORFLOW)

    def path_of(place):
        folder = tf.searchsorted(firsts, place[None], side="right")[0] - 1
        name = tf.strings.reduce_join(tf.gather(letters, tf.cast(names[begins[place] : begins[place + 1] - 1], tf.int32)))
        return tf.strings.join([folders[folder], name], os.sep), tf.cast(labels[folder], tf.int64)

    def read(place, window):
        path, label = path_of(place)
        return decode(tf.io.read_file(path), plain[place], window), label

    return read, lambda place: printable(path_of(place)[0].numpy())


def split_of_files(read_at, name_of, places, strict):
    """Returns the `Split` of the files at some places of a table."""
    with tf.device("CPU"):
        places = tf.constant(places, tf.int32 if places.max() < 2**31 else tf.int64)

    def place(index):
        return tf.cast(places[index], tf.int64)

    read = guarded(lambda index, window: read_at(place(index), window), len(places), lambda index: name_of(place(index)), strict)
    return Split(len(places), read, same_shape=False, read_window=read)


def report(messages, folders, counts, unread_in, errors, count):
    """Logs what is not used, with counts and the first names."""
    for text in messages:
        log.warning(text)
    for _, reason in errors[:MOST_NAMED]:
        log.warning(f"Skipped: {reason}")
    if errors:
        places = collections.Counter(os.path.dirname(path) for path, _ in errors)
        first = [f"{number} in {printable(place)}" for place, number in sorted(places.items())[:MOST_NAMED]]
        more = f" and {len(places) - MOST_NAMED} more folders" if len(places) > MOST_NAMED else ""
        log.warning(f"Skipped {len(errors)} of {count} files that cannot be read: {', '.join(first)}{more}")
    unread = {}
    for of_folder in unread_in:
        for suffix, (number, first) in of_folder.items():
            before, place = unread.get(suffix, (0, first))
            unread[suffix] = before + number, place
    for suffix, (number, first) in sorted(unread.items()):
        kind = f"with the suffix {printable(suffix)}" if suffix else "without a suffix"
        log.warning(f"Not read: {number} files {kind}, such as {printable(first)}")
    empty = [os.path.basename(place) for (split, _, place), number in zip(folders, counts) if split == "train" and not number]
    if empty:
        classes = [os.path.basename(place) for split, _, place in folders if split == "train"]
        log.warning(f"{len(empty)} of the {len(classes)} classes {listed(classes)} have no readable training image: {listed(empty)}")
