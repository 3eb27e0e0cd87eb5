import numpy as np
import pytest

tensorflow_datasets = pytest.importorskip("tensorflow_datasets")

from keras_vit.data import load  # noqa: E402
from keras_vit.data.sources import tfds  # noqa: E402


class Blobs(tensorflow_datasets.core.GeneratorBasedBuilder):
    """Images of different sizes whose every pixel is their label."""

    VERSION = tensorflow_datasets.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tensorflow_datasets.features.Image(),
            "label": tensorflow_datasets.features.ClassLabel(names=["dark", "middle", "light"]),
        }
        return tensorflow_datasets.core.DatasetInfo(
            builder=self, features=tensorflow_datasets.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, manager):
        return {"train": self._generate_examples(60), "test": self._generate_examples(12)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"image": np.full((10 + i % 7, 12, 3), 100 * (i % 3), "uint8"), "label": i % 3}


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def data_dir(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    Blobs(data_dir=str(path), file_format=request.param).download_and_prepare()
    return path


def test_images_and_labels_belong_together(data_dir):
    data = load("tfds:blobs", batch_size=6, data_dir=data_dir, image_size=8)
    assert data.class_names == ("dark", "middle", "light") and data.image_shape == (8, 8, 3)
    assert data.sizes == {"train": 54, "validation": 6, "test": 12}
    for dataset, count in ((data.train_from(0).take(9), 54), (data.validation, 6), (data.test, 12)):
        images, labels = (np.concatenate(part) for part in zip(*dataset.as_numpy_iterator()))
        np.testing.assert_array_equal(images[:, 4, 4, 0], 100.0 * labels)
        assert len(images) == count


def test_each_machine_reads_files_of_its_own(data_dir):
    options = dict(batch_size=6, data_dir=data_dir, image_size=8, validation="test", shard_by="files")
    first, second = (load("tfds:blobs", shard=(index, 2), **options) for index in range(2))
    assert first.sizes == second.sizes == {"train": 30, "validation": 12, "test": 12} and first.steps_per_epoch == 10
    for there, here in zip(list(second.train_from(0).take(6))[4:], second.train_from(4).take(2)):
        np.testing.assert_array_equal(there[0], here[0])
        np.testing.assert_array_equal(here[0][:, 4, 4, 0], 100.0 * here[1].numpy())
    with pytest.raises(ValueError, match="needs a validation split"):
        load("tfds:blobs", shard=(0, 2), **options | {"validation": None})


def test_slices_of_splits(data_dir):
    data = load("tfds:blobs", batch_size=6, data_dir=data_dir, image_size=8, train="train[:50%]", validation="train[50%:60%]")
    assert data.sizes == {"train": 30, "validation": 6, "test": 12}


def test_any_step_can_be_the_first(data_dir):
    data = load("tfds:blobs", batch_size=6, data_dir=data_dir, image_size=8, augmentation="deit3")
    for there, here in zip(list(data.train_from(0).take(6))[4:], data.train_from(4).take(2)):
        np.testing.assert_array_equal(there[0], here[0])


@pytest.mark.parametrize(
    "options, rule",
    [
        (dict(train="training"), "A split must be one of train, test"),
        (dict(image="picture"), "`image` must name a feature, one of: image"),
        (dict(label="image"), "`label` must name a feature, one of: label"),
    ],
)
def test_wrong_arguments_are_refused(data_dir, options, rule):
    with pytest.raises(ValueError, match=rule):
        load("tfds:blobs", batch_size=6, data_dir=data_dir, **options)


def test_a_set_that_is_not_prepared_is_refused_at_once(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="tfds build cifar10"):
        load("tfds:cifar10", data_dir=tmp_path)
    monkeypatch.setattr(tfds, "reachable", lambda: False)
    with pytest.raises(ValueError, match="needs a network connection"):
        load("tfds:cifar10", data_dir=tmp_path, download=True)


def test_a_set_too_large_for_memory_says_what_to_do(data_dir, monkeypatch):
    monkeypatch.setattr(tfds, "IN_MEMORY", 1)
    if data_dir.name.startswith("tfrecord"):
        with pytest.raises(ValueError, match="--file_format=array_record"):
            load("tfds:blobs", batch_size=6, data_dir=data_dir)
    else:
        load("tfds:blobs", batch_size=6, data_dir=data_dir)


def test_the_newest_version_is_taken_and_configs_are_asked_for(tmp_path):
    for path in ("one/1.9.0", "one/1.10.0", "two/a/1.0.0", "two/b/1.0.0"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "dataset_info.json").write_text("{}")
    assert tfds.find_prepared("one", tmp_path).name == "1.10.0"
    assert tfds.find_prepared("one:1.9.0", tmp_path).name == "1.9.0"
    assert tfds.find_prepared("two/b", tmp_path).parent.name == "b"
    assert tfds.find_prepared("three", tmp_path) is None
    with pytest.raises(ValueError, match="two/a, two/b"):
        tfds.find_prepared("two", tmp_path)
