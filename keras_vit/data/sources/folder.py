"""A folder of images, one subfolder a class."""

import collections
import concurrent.futures
import os

import numpy as np
import tensorflow as tf

from keras_vit.data.preprocessing import printable, read_image
from keras_vit.data.sources.listing import class_folders, find_splits, list_files, listed, stray_images
from keras_vit.data.sources.manifest import BY_TENSORFLOW, UNREADABLE, Manifest, progress, say
from keras_vit.data.sources.source import Source, Split, held_out
from keras_vit.layers import checks

MOST_NAMED = 10  # files that are named, of those that are counted


def folder(
    path: str | bytes | os.PathLike,
    image_size: int | tuple[int, int] = 224,
    strict: bool = False,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
) -> Source:
    """Reads a folder with one subfolder of images a class, or with subfolders such as `train`, `val` and `test` of that form.

    A split that is missing is held out of the training images, stratified by class; but if there is a validation split and no test split,
    it is both. Gray images, palettes and CMYK become RGB, transparency is left out, and photographs are turned upright. All files are
    checked once, in threads; a manifest in `~/.keras/keras_vit` remembers them by size and time, so that only new ones are checked again.

    Args:
        path: str or path-like. The folder.
        image_size: int or (rows, columns). Size that images are resized to. Defaults to 224.
        strict: bool. If False, files that cannot be read are named, counted and skipped. If True, the first of them is an error. Defaults
            to False.
        validation_fraction: float in (0, 1). Share of validation images among the images that are not test images. Defaults to 0.1.
        test_fraction: float in (0, 1). Share of test images among all images. Defaults to 0.2.

    Returns:
        A `Source`.

    Raises:
        ValueError: if the folder is not of that form or holds no images; or, if `strict`, if a file cannot be read.
        ImportError: if Pillow is not installed.
    """
    path, image_shape = os.path.abspath(os.fsencode(path)), checks.positive_pair("image_size", image_size)
    if not os.path.isdir(path):
        hint = ", which is a file: unpack an archive first" if os.path.exists(path) else ""
        raise ValueError(f"No such folder of images. Received: {printable(path)}{hint}")
    splits, tell = find_splits(path)
    names = class_folders(splits)
    tell += [text for root in splits.values() for text in stray_images(root)]
    folders = [(split, label, os.path.join(root, name)) for split, root in splits.items() for label, name in enumerate(names)]
    folders = [row for row in folders if os.path.isdir(row[2])]  # a class may have no images of another split
    with progress("Listing files", len(folders)) as bar, concurrent.futures.ThreadPoolExecutor() as pool:
        listings = {}
        for (*_, place), files in zip(folders, pool.map(list_files, [row[2] for row in folders])):
            listings[place] = files
            bar.update()
    verdicts, errors = Manifest(path).check(listings, strict)
    troubles = [(place, f"{reason}: {printable(place)}") for files in listings.values() for place, reason in files.troubles]
    if strict and troubles:
        raise ValueError(f"A file cannot be read. Received: {troubles[0][1]}")
    counts = [int((verdict != UNREADABLE).sum()) for verdict in verdicts]
    report(tell, folders, counts, listings, troubles + errors, sum(map(len, verdicts)))

    of_folder = np.repeat(np.arange(len(folders), dtype=np.int32), counts)
    labels = np.array([label for _, label, _ in folders], np.int64)
    of_split = np.array([list(splits).index(split) for split, *_ in folders])[of_folder]
    indices = {split: np.flatnonzero(of_split == number) for number, split in enumerate(splits)}
    for split, root in splits.items():
        if not len(indices[split]):
            raise ValueError(f"Every split must hold an image. Received: none that can be read in {printable(root)}")
    if "validation" in indices and "test" not in indices:
        indices["test"] = indices["validation"]
    indices = held_out(indices, labels[of_folder], {"test": test_fraction, "validation": validation_fraction})
    read = reader([place for *_, place in folders], labels, of_folder, listings, verdicts)

    def read_at(places):
        places = tf.constant(places, tf.int64)
        return Split(len(places), lambda index: read(places[index]), same_shape=False)

    made = {id(chosen): read_at(chosen) for chosen in indices.values()}  # where validation is both, both are one
    class_names = tuple(name.decode(errors="backslashreplace") for name in names)
    return Source(class_names, (*image_shape, 3), {name: made[id(chosen)] for name, chosen in indices.items()})


def reader(folders, labels, of_folder, listings, verdicts):
    """Returns the function from an index to an image and its label. A file takes about fifty bytes of memory."""
    names = tf.strings.split(b"\0".join(files.names for files in listings.values() if files.names), b"\0")
    verdicts = np.concatenate(verdicts)
    if not verdicts.all():
        names = tf.gather(names, np.flatnonzero(verdicts != UNREADABLE))
    plain = tf.constant(verdicts[verdicts != UNREADABLE] == BY_TENSORFLOW)
    folders, labels, of_folder = tf.constant(folders), tf.constant(labels), tf.constant(of_folder)

    def read(index):
        place = of_folder[index]
        return decode(tf.strings.join([folders[place], names[index]], os.sep), plain[index]), labels[place]

    return read


def decode(path, plain):
    """Returns the image in a file, as uint8 `(rows, columns, 3)`: by TensorFlow if it is `plain`, else by Pillow."""

    def by_tensorflow():
        # The accurate transform is Pillow's: TensorFlow's default is up to some levels away from it.
        return tf.image.decode_jpeg(tf.io.read_file(path), channels=3, dct_method="INTEGER_ACCURATE")

    def by_pillow():
        return tf.numpy_function(lambda path: np.array(read_image(bytes(np.asarray(path).item()))), [path], tf.uint8, stateful=False)

    image = tf.cond(plain, by_tensorflow, by_pillow)
    image.set_shape((None, None, 3))
    return image


def report(tell, folders, counts, listings, errors, count):
    """Says what is not used, with counts and first names."""
    for text in tell:
        say(text)
    for _, reason in errors[:MOST_NAMED]:
        say(f"Skipped: {reason}")
    if errors:
        places = collections.Counter(os.path.dirname(path) for path, _ in errors)
        first = [f"{number} in {printable(place)}" for place, number in sorted(places.items())[:MOST_NAMED]]
        more = f" and {len(places) - MOST_NAMED} more folders" if len(places) > MOST_NAMED else ""
        say(f"Skipped {len(errors)} of {count} files that cannot be read: {', '.join(first)}{more}")
    unread = {}
    for files in listings.values():
        for suffix, (number, first) in files.unread.items():
            before, place = unread.get(suffix, (0, first))
            unread[suffix] = before + number, place
    for suffix, (number, first) in sorted(unread.items()):
        say(f"Not read: {number} files {f'of the kind {printable(suffix)}' if suffix else 'without a suffix'}, such as {printable(first)}")
    empty = [os.path.basename(place) for (split, _, place), number in zip(folders, counts) if split == "train" and not number]
    if empty:
        classes = [os.path.basename(place) for split, _, place in folders if split == "train"]
        say(f"{len(empty)} of the {len(classes)} classes {listed(classes)} have no training image that can be read: {listed(empty)}")
