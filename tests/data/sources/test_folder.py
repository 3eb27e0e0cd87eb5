import logging

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_vit.data import AUGMENTATIONS, load, read_image
from keras_vit.data.sources.folder import check, decode

generator = np.random.default_rng(0)


def picture(colour, size=(40, 30)):
    noise = generator.integers(0, 60, (size[1] // 5, size[0] // 5, 3)) + colour
    return Image.fromarray(noise.clip(0, 255).astype("uint8")).resize(size, Image.Resampling.BICUBIC)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def animals(tmp_path):
    for name, colour in (("ant", (200, 0, 0)), ("bee", (0, 200, 0)), ("cat", (0, 0, 200))):
        for i in range(10):
            save(tmp_path / name / f"{i}.jpg", picture(colour, (30 + 5 * i, 60 - 3 * i)))
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
    (plain,) = check([path])
    image = decode(tf.constant(str(path)), tf.constant(plain))
    assert image.shape == (30, 40, 3) and image.dtype == tf.uint8
    np.testing.assert_array_equal(image, np.asarray(read_image(path)))


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "a.jpg", picture((0, 0, 0)), exif=exif)
    (plain,) = check([tmp_path / "a.jpg"])
    assert decode(tf.constant(str(tmp_path / "a.jpg")), tf.constant(plain)).shape == (40, 30, 3)


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
    for path, rule in ((empty, "subfolder for each of two or more classes"), (empty / "none", "A folder of images must exist")):
        with pytest.raises(ValueError, match=rule):
            load(path, batch_size=4)
    for kind in "ab":
        (empty / kind).mkdir()
    with pytest.raises(ValueError, match="Every part must hold an image"):
        load(str(empty), batch_size=4)
