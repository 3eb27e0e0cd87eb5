import json
import logging
import shutil

import numpy as np
import pytest
from data.sources.tar_files import write_tar
from PIL import Image

from keras_vit.data import load
from keras_vit.data.sources import open_source, tars


@pytest.fixture
def shards(tmp_path):
    for number, begin in enumerate(range(0, 60, 10)):
        write_tar(tmp_path / f"train-{number:04d}.tar", range(begin, begin + 10 + number % 2), suffix="bmp" if number == 2 else "png")
    write_tar(tmp_path / "val-0000.tar", range(100, 112))
    return tmp_path


def numbers(batches):
    """Returns the numbers of the images, after checking their labels."""
    images, labels = (np.concatenate(part) for part in zip(*((images.numpy()[:, 4, 4, 0], labels.numpy()) for images, labels in batches)))
    np.testing.assert_array_equal(labels, images % 3)
    return images.astype(int)


def test_images_are_read_by_index(shards):
    (shards / "classes.txt").write_text("ant\nbee\ncat\n")
    data = load(shards, batch_size=6, image_size=8)
    assert data.class_names == ("ant", "bee", "cat") and data.sizes == {"train": 63, "validation": 12, "test": 12}
    epoch = numbers(data.train_from(0).take(10))
    assert len({*epoch}) >= 57 and epoch.max() < 61 and {*numbers(data.validation)} == {*range(100, 112)}
    np.testing.assert_array_equal(numbers(data.train_from(7).take(3)), epoch[42:])
    np.testing.assert_array_equal(numbers(load(str(shards), batch_size=6, image_size=8).train), epoch)


def test_each_machine_reads_files_of_its_own(shards, tmp_path_factory):
    sizes = {path.name: 10 + int(path.stem[-1]) % 2 for path in shards.glob("train-*.tar")}
    seen = []
    for index in range(2):
        here = tmp_path_factory.mktemp("machine")
        (here / "sizes.json").write_text(json.dumps(sizes))
        for name in [*sorted(sizes)[index::2], "val-0000.tar"]:
            shutil.copy(shards / name, here)
        data = load(here, batch_size=8, image_size=8, shard=(index, 2), shard_by="files", augmentation="inception")
        assert data.steps_per_epoch == 30 // 4 and data.sizes["validation"] == 12
        seen.append(numbers(data.train_from(0).take(14)))
        np.testing.assert_array_equal(numbers(data.train_from(9).take(5)), seen[-1][36:])
        with pytest.raises(ValueError, match="at least one training file per machine"):
            load(here, batch_size=8, shard=(0, 8), shard_by="files")
    assert len(seen[0]) == len(seen[1]) == 56 and [{n // 10 % 2 for n in machine} for machine in seen[:1]] == [{0}]
    for path in here.glob("train-*.tar"):
        path.unlink()
    (here / "sizes.json").unlink()
    with pytest.raises(ValueError, match="at least one training file per machine"):
        load(here, batch_size=8, shard=(0, 2), shard_by="files")
    with pytest.raises(ValueError, match="needs tar files or a data set of TFDS. Received: digits"):
        load("digits", batch_size=8, shard=(0, 2), shard_by="files")


def test_an_archive_beside_class_folders_is_no_source(shards):
    for number in range(8):
        (shards / f"class{number % 2}").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(shards / f"class{number % 2}" / f"{number}.png")
    assert load(shards, batch_size=2, image_size=8).class_names == ("class0", "class1")
    for path in shards.glob("class*"):
        shutil.rmtree(path)
    (shards / "Testing").mkdir()
    write_tar(shards / "Testing" / "0.tar", range(90, 96))
    assert load(shards, batch_size=2, image_size=8).sizes == {"train": 63, "validation": 12, "test": 6}


def test_what_is_wrong_with_a_tar_file_is_said(tmp_path):
    for folder, options, rule in (
        ("label", {"label": lambda number: None}, "must have a label file, such as deep/000.cls"),
        ("text", {"label": lambda number: "ant"}, "numbers as labels .*ant.*text/0.tar"),
        ("huge", {"label": lambda number: 10**12}, "numbers as labels .*a label of 1000000000000.*huge/0.tar"),
    ):
        write_tar(tmp_path / folder / "0.tar", range(4), **options)
        with pytest.raises(ValueError, match=rule):
            open_source(str(tmp_path / folder), {})
    write_tar(tmp_path / "cut" / "0.tar", range(4))
    whole = (tmp_path / "cut" / "0.tar").read_bytes()
    for content, rule in (
        (b"nothing" * 200, "must be complete and uncompressed"),
        (b"\0" * 10240, "must hold images"),
        (whole[:700], "must be complete and uncompressed"),
    ):
        (tmp_path / "cut" / "0.tar").write_bytes(content)
        with pytest.raises(ValueError, match=rule):
            tars.tars(tmp_path / "cut")


def test_a_damaged_image_is_named_and_replaced(shards, caplog):
    content = bytearray((shards / "train-0001.tar").read_bytes())
    place = content.find(b"\x89PNG")
    content[place : place + 60] = b"x" * 60
    (shards / "train-0001.tar").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        found = numbers(load(shards, batch_size=6, image_size=8).train)
    assert len(found) == 60 and 10 not in found
    assert f"deep/010.png in {shards / 'train-0001.tar'}" in caplog.text
