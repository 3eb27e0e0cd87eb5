"""Lists a folder of images: which folders are splits and classes, and which files are images."""

import array
import dataclasses
import functools
import os
import re
import stat

from keras_vit.data.preprocessing import formats, printable

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
# Files and folders of operating systems and programs, in lower case. They are skipped, as are hidden ones.
LEFTOVERS = {
    b"__macosx",
    b"__pycache__",
    b"@eadir",
    b"#recycle",
    b"$recycle.bin",
    b"desktop.ini",
    b"lost+found",
    b"system volume information",
    b"thumbs.db",
}


@dataclasses.dataclass
class Files:
    """The images under one class folder in order, in a compact form.

    Args:
        names: bytes. Paths within the folder, each followed by a zero byte.
        sizes: array of int64. Size of each file in bytes.
        times: array of int64. Modification time of each file in nanoseconds.
        links: array of int64. A common number for several names of the same file; 0 for files with one name.
        unread: dict from a suffix that is not read to (number of files, path of the first one).
        troubles: list of (path, reason). Files and folders that cannot be opened, and links in a loop.
    """

    names: bytes
    sizes: array.array
    times: array.array
    links: array.array
    unread: dict
    troubles: list


@functools.cache
def suffixes():
    """Returns the file suffixes that the installed Pillow reads, as lower-case bytes."""
    from PIL import Image

    known = formats()
    return frozenset(suffix.encode() for suffix, kind in Image.registered_extensions().items() if kind in known)


def list_files(root):
    """Returns the `Files` under a folder, at any depth. Links are followed.

    Args:
        root: bytes. Path of the folder.
    """
    names, known, found = [], suffixes(), Files(b"", *(array.array("q") for _ in range(3)), {}, [])

    def walk(folder, inside, above):
        for entry in entries(folder, found.troubles):
            try:
                if entry.is_dir():
                    identity = os.stat(entry.path)
                    identity = (identity.st_dev, identity.st_ino)
                    if identity in above:
                        found.troubles.append((entry.path, "a link to a folder that contains it"))
                    else:
                        walk(entry.path, inside + entry.name + b"/", above | {identity})
                    continue
                suffix = suffix_of(entry.name)
                if suffix not in known:
                    count, first = found.unread.get(suffix, (0, entry.path))
                    found.unread[suffix] = count + 1, first
                    continue
                status = entry.stat()
                if not stat.S_ISREG(status.st_mode):
                    found.troubles.append((entry.path, "not a regular file"))
                    continue
            except OSError as error:  # such as a broken link
                found.troubles.append((entry.path, error.strerror))
                continue
            names.append(inside + entry.name + b"\0")
            found.sizes.append(status.st_size)
            found.times.append(status.st_mtime_ns)
            several = status.st_nlink > 1 or entry.is_symlink()
            found.links.append(hash((status.st_dev, status.st_ino)) if several and status.st_ino else 0)

    status = os.stat(root)
    walk(root, b"", frozenset({(status.st_dev, status.st_ino)}))
    found.names = b"".join(names)
    names.clear()  # `walk` refers to itself, so that Python frees its variables late
    return found


def entries(folder, troubles):
    """Returns the entries of a folder, sorted by name, without those that `is_leftover` skips."""
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry in found if not is_leftover(entry.name)), key=lambda entry: entry.name)
    except OSError as error:
        troubles.append((folder, error.strerror))
        return []


def is_leftover(name):
    """Returns whether a file or folder, named in bytes, is hidden or belongs to an operating system."""
    return name.startswith((b".", b"~$")) or name.lower() in LEFTOVERS


def suffix_of(name):
    """Returns the suffix of a file name in bytes, in lower case and with its dot, or b"" without one."""
    point = name.rfind(b".")
    return name[point:].lower() if point > 0 else b""


def subfolders(path):
    """Returns the sorted names of the folders in a folder, including links to folders."""
    troubles = []
    names = [entry.name for entry in entries(path, troubles) if entry.is_dir()]
    if troubles:
        raise ValueError(f"The folder cannot be read ({troubles[0][1]}). Received: {printable(path)}")
    return names


def split_of(name):
    """Returns the split that a folder's name stands for, or None. `Training`, `test_set` and `val-images` are splits, too."""
    plain = re.sub(r"[\W_]", "", name.lower().decode(errors="replace"))
    return SPLITS.get(plain) or SPLITS.get(re.sub(r"(set|data|images|imgs|split)$", "", plain))


def find_splits(path):
    """Finds the folders of the splits.

    Args:
        path: bytes. Path of the data set.

    Returns:
        (splits, messages): a dict from "train", and the other existing splits, to the paths of the folders that hold their classes; and a
        list of messages for the user.

    Raises:
        ValueError: if folders that are named like splits stand next to others with images, or there is no training split.
    """
    names = subfolders(path)
    named = {name: split_of(name) for name in names if split_of(name)}
    with_classes = [name for name in named if subfolders(os.path.join(path, name))]
    others = [name for name in names if name not in named]
    seen = f"{printable(path)} with the folders {listed(names)}"
    if not with_classes:
        if len(named) > 1 or (named and not others):
            raise ValueError(
                f"A split must hold a folder for each class; {listed(named)} hold none. "
                f"If they are classes, rename them, such as to class_{printable(next(iter(named)))}. Received: {seen}"
            )
        return {"train": path}, [f"{listed(named)} is treated as a class: it holds no class folders"] if named else []
    if holding := [name for name in others if list_files(os.path.join(path, name)).names]:
        raise ValueError(
            f"Folders named like splits ({listed(named)}) must not stand next to others with images ({listed(holding)}). If the others are "
            "classes, move all classes into the splits, or pass the folder of one split; if they are not, move them elsewhere. "
            f"Received: {seen}"
        )
    splits, messages = {}, []
    for name in with_classes:
        if named[name] in splits:
            both = listed([os.path.basename(splits[named[name]]), name])
            raise ValueError(f"There must be one folder for the {named[name]} split. Received: {both} in {printable(path)}")
        splits[named[name]] = os.path.join(path, name)
    if unused := [name for name in names if name not in with_classes]:
        messages.append(f"Not used: {listed(unused)} in {printable(path)}, which hold no class folders")
    if "train" not in splits:
        raise ValueError(f"There must be a folder for the training split, such as train. Received: {seen}")
    return splits, messages


def class_folders(splits):
    """Returns the class names: the folders of the training split. Other splits may have no others.

    Args:
        splits: dict as `find_splits` returns it.

    Raises:
        ValueError: if there are fewer than two classes, or another split has a class that the training split lacks.
    """
    path = splits["train"]
    names = subfolders(path)
    if len(names) < 2:
        inner = os.path.join(path, names[0]) if names else path
        hint = f". Did you mean {printable(inner)}?" if names and len(subfolders(inner)) > 1 else ""
        raise ValueError(
            f"There must be a folder of images for each of two or more classes. Received: {len(names)} in {printable(path)}{hint}"
        )
    for split, other in splits.items():
        if strangers := [name for name in subfolders(other) if name not in {*names}]:
            raise ValueError(f"All splits must have the classes of the training split. Received: {listed(strangers)} in {split} only")
    return names


def stray_images(root):
    """Returns a list with a message about images next to the class folders, which are not used; empty if there are none."""
    found = [entry.name for entry in entries(root, []) if suffix_of(entry.name) in suffixes()]
    return [f"Not used: {len(found)} images next to the class folders of {printable(root)}, such as {printable(found[0])}"] if found else []


def listed(names, most=8):
    """Returns names as text, at most `most` of them."""
    names = [printable(name) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
