import logging
import os
import pathlib
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from keras_vit.data import AUGMENTATIONS, load, read_image
from keras_vit.data.sources import manifest
from keras_vit.data.sources.decode import decode
from keras_vit.data.sources.manifest import BY_TENSORFLOW, inspect
from keras_vit.messages import file_error

generator = np.random.default_rng(0)


def picture(color, size=(40, 30)):
    noise = generator.integers(0, 60, (size[1] // 5, size[0] // 5, 3)) + color
    return Image.fromarray(noise.clip(0, 255).astype("uint8")).resize(size, Image.Resampling.BICUBIC)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def animals(tmp_path):
    for name, color in (("ant", (200, 0, 0)), ("bee", (0, 200, 0)), ("cat", (0, 0, 200))):
        for i in range(10):
            save(tmp_path / name / f"{i}.jpg", picture(color, (30 + 5 * i, 60 - 3 * i)))
    return tmp_path


FORMS = {
    "rgb.jpg": lambda image: image,
    "gray.jpg": lambda image: image.convert("L"),
    "cmyk.jpg": lambda image: image.convert("CMYK"),
    "rgb.png": lambda image: image,
    "palette.png": lambda image: image.quantize(16),
    "alpha.png": lambda image: image.convert("RGBA"),
    "gray.png": lambda image: image.convert("L"),
    "rgb.webp": lambda image: image,
    "rgb.bmp": lambda image: image,
    "film.gif": lambda image: image.quantize(64),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_decoded_as_pillow_does(tmp_path, name):
    path = tmp_path / name
    more = {"save_all": True, "append_images": [Image.new("RGB", (40, 30))]} if name == "film.gif" else {}
    FORMS[name](picture((120, 60, 30))).save(path, **more)
    verdict, shape, reason = inspect(os.fsencode(path))
    assert shape == (30, 40) and reason is None
    image = decode(tf.io.read_file(str(path)), tf.constant(verdict == BY_TENSORFLOW))
    assert image.shape == (30, 40, 3) and image.dtype == tf.uint8
    np.testing.assert_array_equal(image, np.asarray(read_image(path)))


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.jpg", picture((0, 0, 0)), exif=exif)
    verdict, _, _ = inspect(os.fsencode(tmp_path / "a.jpg"))
    assert decode(tf.io.read_file(str(tmp_path / "a.jpg")), tf.constant(verdict == BY_TENSORFLOW)).shape == (40, 30, 3)


def test_what_it_returns(animals):
    data = load(animals, batch_size=4, image_size=(16, 24))
    assert data.class_names == ("ant", "bee", "cat") and data.image_shape == (16, 24, 3)
    assert data.sizes == {"train": 22, "validation": 2, "test": 6} and data.test.cardinality() == 2
    images, labels = next(iter(data.train))
    assert images.shape == (4, 16, 24, 3)
    np.testing.assert_array_equal(images.numpy().mean(axis=(1, 2)).argmax(axis=-1), labels)
    counts = np.bincount(np.concatenate([labels for _, labels in data.test]))
    assert counts.tolist() == [2, 2, 2]  # stratified


def test_augmented_training_goes_on_anywhere(animals):
    data = load(animals, batch_size=4, image_size=16, augmentation="better_plain")
    there, here = list(data.train_from(0).take(7))[5:], list(data.train_from(5).take(2))
    for one, other in zip(there, here):
        np.testing.assert_array_equal(one[0], other[0])
    assert "better_plain" in AUGMENTATIONS


def test_parts_in_subfolders_are_kept(animals):
    for part, names in (("train", "0123456"), ("val", "789")):
        for kind in ("ant", "bee", "cat"):
            (animals / part / kind).mkdir(parents=True)
            for name in names:
                (animals / kind / f"{name}.jpg").rename(animals / part / kind / f"{name}.jpg")
    data = load(animals, batch_size=4, image_size=16)
    assert data.class_names == ("ant", "bee", "cat")
    assert data.sizes == {"train": 21, "validation": 9, "test": 9}


def test_damaged_files_are_named_counted_and_skipped(animals, caplog):
    whole = (animals / "bee" / "3.jpg").read_bytes()
    (animals / "bee" / "3.jpg").write_bytes(whole[: len(whole) // 2])
    (animals / "cat" / "9.jpg").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        data = load(animals, batch_size=4, image_size=16)
    assert sum(data.sizes.values()) == 28
    assert str(animals / "bee" / "3.jpg") in caplog.text and str(animals / "cat" / "9.jpg") in caplog.text
    assert "Skipped 2 of 30 files" in caplog.text
    with pytest.raises(ValueError, match="3.jpg"):
        load(animals, batch_size=4, image_size=16, strict=True)


def test_wrong_folders_are_refused(animals, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    for path, rule in ((empty, "folder of images for each of two or more classes"), (empty / "none", "No such folder of images")):
        with pytest.raises(ValueError, match=rule):
            load(path, batch_size=4)
    for kind in "ab":
        (empty / kind).mkdir()
    with pytest.raises(ValueError, match="Every split must hold an image"):
        load(str(empty), batch_size=4)


def tiny(path, level=0):
    save(path, Image.new("RGB", (8, 8), (level, level, level)))


def sizes_of(path, **options):
    data = load(path, batch_size=2, image_size=8, **options)
    return data.class_names, data.sizes


def fill(root, count, *folders):
    for folder in folders:
        for i in range(count):
            tiny(root / folder / f"{i}.png", i)


@pytest.mark.parametrize(
    "names",
    [
        ("Training", "Testing", "DEV"),
        ("TRAIN", "TEST", "Valid"),
        ("training_set", "test_set", "validation-data"),
        ("train", "testing", "val"),
    ],
)
def test_splits_go_by_the_names_that_people_use(tmp_path, names):
    train, test, validation = names
    fill(tmp_path, 6, f"{train}/a", f"{train}/b")
    fill(tmp_path, 2, f"{test}/a", f"{test}/b")
    fill(tmp_path, 1, f"{validation}/a", f"{validation}/b")
    assert sizes_of(tmp_path) == (("a", "b"), {"train": 12, "validation": 2, "test": 4})


@pytest.mark.parametrize(
    "folders, rule",
    [
        (("train/a", "train/b", "test/a", "cat"), r"named like splits \(test, train\) must not stand next to others with images \(cat\)"),
        (("train", "test"), "must hold a folder for each class; test, train hold none"),
        (("cat", "train", "test"), "must hold a folder for each class; test, train hold none"),
        (("train/a", "train/b", "Training/a"), "one folder for the train split. Received: Training, train"),
        (("val/a", "test/a"), "a folder for the training split"),
        (("train/a", "train/b", "val/c"), "classes of the training split. Received: c in validation only"),
        (("photos/a", "photos/b"), "Received: 1 in .*Did you mean .*photos?"),
    ],
)
def test_folders_that_could_be_meant_otherwise_are_refused(tmp_path, folders, rule):
    fill(tmp_path, 1, *folders)
    with pytest.raises(ValueError, match=rule):
        load(tmp_path, batch_size=1)


def test_what_is_not_used_is_said_with_counts_and_first_names(tmp_path, caplog):
    fill(tmp_path, 5, "train/a", "train/b", "test")  # a test split without labels
    (tmp_path / "train" / "c").mkdir()
    for name in ("a/0.heic", "b/labels.csv", "b/1.HEIC"):
        (tmp_path / "train" / name).touch()
    tiny(tmp_path / "train" / "stray.png")
    (tmp_path / "annotations").mkdir()
    assert sizes_of(tmp_path)[1] == {"train": 7, "validation": 1, "test": 2}
    for words in (
        "1 of the 3 classes a, b, c have no readable training image: c",
        "Not read: 2 files with the suffix .heic, such as " + str(tmp_path / "train" / "a" / "0.heic"),
        "Not read: 1 files with the suffix .csv",
        "Not used: 1 images next to the class folders",
        "Not used: annotations, test in",
    ):
        assert words in caplog.text


def test_what_systems_leave_behind_is_no_data(tmp_path):
    fill(tmp_path, 6, "a", "b")
    for path in (
        "__MACOSX/a/._0.png",
        "a/.ipynb_checkpoints/0.png",
        "b/@eaDir/0.png",
        "a/._1.png",
        ".git/x.png",
        "a/deep/$RECYCLE.BIN/2.png",
    ):
        tiny(tmp_path / path)
    (tmp_path / "a" / "Thumbs.db").touch()
    assert sizes_of(tmp_path)[0] == ("a", "b") and sum(sizes_of(tmp_path)[1].values()) == 12


def test_every_suffix_that_pillow_reads(tmp_path):
    fill(tmp_path, 3, "a", "b")
    for suffix in (".jfif", ".JPE", ".tif", ".TIFF", ".avif", ".jp2", ".ppm"):
        save(tmp_path / "a" / f"image{suffix}", picture((90, 90, 90)))
    assert sum(sizes_of(tmp_path)[1].values()) == 13


@pytest.mark.skipif(os.name == "nt", reason="file names are no bytes there")
def test_names_that_are_not_utf_8_links_and_loops(tmp_path, caplog):
    fill(tmp_path / "set", 4, "a", "b")
    fill(tmp_path, 3, "elsewhere/c/deep", "elsewhere")
    for old, new in ((b"set/a/0.png", b"set/a/caf\xe9.png"), (b"set/b", b"set/b\xff")):
        os.rename(os.path.join(os.fsencode(tmp_path), old), os.path.join(os.fsencode(tmp_path), new))
    (tmp_path / "set" / "c").symlink_to(tmp_path / "elsewhere" / "c")
    (tmp_path / "set" / "a" / "loop").symlink_to(tmp_path / "set" / "a")
    (tmp_path / "set" / "a" / "nowhere.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "set" / "a" / "linked.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    data = load(tmp_path / "set", batch_size=2, image_size=8)
    assert data.class_names == ("a", "b\\xff", "c") and sum(data.sizes.values()) == 4 + 1 + 4 + 3
    for split in data.splits.values():
        assert all(len(labels) for _, labels in split)  # all can be read
    assert "a link to a folder that contains it" in caplog.text and "nowhere.png" in caplog.text
    with pytest.raises(ValueError, match="A file cannot be read. Received: .*: .*set/a/"):
        load(tmp_path / "set", batch_size=2, strict=True)


def test_whatever_a_decoder_raises_one_file_ends_no_run(animals, caplog, monkeypatch):
    errors = [TypeError("odd"), RuntimeError("odd"), struct.error("odd"), Image.DecompressionBombError("odd"), IndexError("odd")]
    opened = Image.open

    def open_or_fail(path, *arguments, **options):
        name = os.path.basename(os.fspath(path))
        if os.path.dirname(os.fspath(path)).endswith("bee") and name[0] in "01234":
            raise errors[int(name[0])]
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Image, "open", open_or_fail)
    assert sum(sizes_of(animals)[1].values()) == 25
    assert f"Skipped 5 of 30 files that cannot be read: 5 in {animals / 'bee'}" in caplog.text
    with pytest.raises(ValueError, match="odd.*bee/0.jpg"):
        load(animals, batch_size=4, strict=True)


def test_only_new_and_changed_files_are_checked_again(animals, monkeypatch):
    checked = []

    def count(path):
        checked.append(os.path.basename(path).decode())
        return inspect(path)

    monkeypatch.setattr(manifest, "inspect", count)
    (animals / "ant" / "0.jpg").write_bytes(b"no image")
    before = sizes_of(animals)
    assert len(checked) == 30 and sum(before[1].values()) == 29
    checked.clear()
    assert sizes_of(animals) == before and checked == ["0.jpg"]  # what could not be read is tried again
    tiny(animals / "ant" / "0.jpg")
    tiny(animals / "bee" / "new.jpg")
    tiny(animals / "cat" / "1.jpg", 7)
    (animals / "cat" / "2.jpg").unlink()
    checked.clear()
    assert sum(sizes_of(animals)[1].values()) == 30 and sorted(checked) == ["0.jpg", "1.jpg", "new.jpg"]
    for path in pathlib.Path(os.environ["KERAS_HOME"]).glob("**/*.npz"):
        path.write_bytes(b"damaged")
    checked.clear()
    assert sum(sizes_of(animals)[1].values()) == 30 and len(checked) == 30


def test_odd_metadata_do_not_cost_an_image(animals):
    text = PngInfo()
    text.add_text("workflow", "0" * 3_000_000, zip=True)  # more than Pillow unpacks
    for name, mode in (("a.png", "RGB"), ("b.png", "RGBA")):
        picture((90, 90, 90)).convert(mode).save(animals / "ant" / name, pnginfo=text)
    exif = Image.Exif()
    exif[0x0112] = 77
    picture((90, 90, 90)).save(animals / "ant" / "c.jpg", exif=exif)
    data = load(animals, batch_size=4, image_size=16, strict=True)
    assert sum(data.sizes.values()) == 33
    assert sum(len(labels) for split in data.splits.values() for _, labels in split) == 33


def test_floating_point_images_and_archives_are_refused(tmp_path, caplog):
    fill(tmp_path, 4, "a", "b")
    Image.fromarray(np.linspace(0, 1, 64, dtype="float32").reshape(8, 8)).save(tmp_path / "a" / "float.tif")
    assert sum(sizes_of(tmp_path)[1].values()) == 8 and "floating-point pixels" in caplog.text
    (tmp_path / "pets.zip").touch()
    with pytest.raises(ValueError, match="pets.zip, which is a file: unpack an archive first"):
        load(tmp_path / "pets.zip")


def test_a_file_that_is_damaged_after_the_check_is_named_and_replaced(tmp_path, caplog):
    root = tmp_path / "with [brackets] 100% \N{FLEXED BICEPS}"
    for i in range(10):
        save(root / "ant" / f"{i}\n.JPG", picture((200, 0, 0), (48, 40)))
        save(root / "bee" / f"{i}.png", picture((0, 200, 0), (48, 40)).convert("RGBA" if i % 2 else "RGB"))
    data, strict = (load(root, batch_size=4, image_size=16, augmentation="inception", strict=strict) for strict in (False, True))
    whole = list(data.train_from(0).take(2))
    lost = [path for path in sorted(root.glob("*/*")) if path.name[0] in "135"]
    for path, content in zip(lost, (None, b"", b"no image", None, first_half(lost[4]), b"GIF89a")):
        path.unlink() if content is None else path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        batches = list(data.train_from(0).take(2))
        rows = sum(len(labels) for split in data.splits.values() for _, labels in split)
    assert [images.shape for images, _ in batches] == [images.shape for images, _ in whole] and rows == 20
    pairs = zip(*(np.concatenate([images for images, _ in found]) for found in (batches, whole)))
    assert 0 < sum(np.array_equal(one, other) for one, other in pairs) < 8
    assert all(f"so far: {path}" in caplog.text for path in lost)
    resumed = next(iter(data.train_from(1)))
    np.testing.assert_array_equal(resumed[0], batches[1][0])
    with pytest.raises(tf.errors.OpError) as error:
        list(strict.train_from(0).take(2))
    assert file_error(error.value).startswith("An image that was whole") and str(root) in file_error(error.value)
    for path in root.glob("*/*"):
        path.unlink()
    with pytest.raises(tf.errors.OpError) as error:
        next(iter(data.test))
    assert "No image of the split can be read any more" in file_error(error.value)


def first_half(path):
    """Returns the first half of a file."""
    return path.read_bytes()[: path.stat().st_size // 2]


def test_a_window_is_decoded_as_it_is_in_the_whole_image(tmp_path):
    image = Image.fromarray(generator.integers(0, 256, (70, 90, 3)).astype("uint8")).resize((181, 141))
    kinds = [
        dict(quality=90),
        dict(quality=60, subsampling=1),
        dict(subsampling=0),
        dict(progressive=True),
        dict(quality=30, optimize=True),
    ]
    for number, options in enumerate(kinds):
        image.save(tmp_path / f"{number}.jpg", **options)
    image.convert("L").save(tmp_path / "gray.jpg")
    image.save(tmp_path / "whole.png")
    image.convert("CMYK").save(tmp_path / "cmyk.jpg")
    for path in sorted(tmp_path.iterdir()):
        plain = tf.constant(inspect(os.fsencode(path))[0] == BY_TENSORFLOW)
        whole = decode(tf.io.read_file(str(path)), plain).numpy()
        for _ in range(12):
            rows, columns = generator.integers(1, 142), generator.integers(1, 182)
            top, left = generator.integers(0, 142 - rows), generator.integers(0, 182 - columns)
            part = decode(tf.io.read_file(str(path)), plain, lambda shape: tf.constant([top, left, rows, columns], tf.int32))  # noqa: B023
            np.testing.assert_array_equal(part, whole[top : top + rows, left : left + columns])


def test_a_file_of_several_names_is_checked_once(tmp_path, monkeypatch, caplog):
    fill(tmp_path / "set", 3, "a", "b")
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    for i in range(20):
        (tmp_path / "set" / "a" / f"l{i}.png").symlink_to(tmp_path / "set" / "b" / "0.png")
        os.link(tmp_path / "set" / "b" / "1.png", tmp_path / "set" / "b" / f"h{i}.png")
    for name in ("x.jpg", "y.jpg"):
        (tmp_path / "set" / "a" / name).symlink_to(tmp_path / "bad.jpg")
    checked = []
    monkeypatch.setattr(manifest, "inspect", lambda path: checked.append(path) or inspect(path))
    assert sum(sizes_of(tmp_path / "set")[1].values()) == 46 and len(checked) == 8  # b/0.png is no link, but others lead to it
    assert "The same file as" in caplog.text and "Skipped 2 of 48 files" in caplog.text
