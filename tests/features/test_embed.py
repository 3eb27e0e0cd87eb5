import keras
import numpy as np
import pytest
from helpers import assert_close, randomize, requires_tensorflow, to_numpy
from PIL import Image

import keras_vit
from keras_vit.features import files, read_features, write_features
from keras_vit.features.parquet import write_parquet

SMALL = dict(input_shape=(16, 16, 3), patch_size=8, hidden_dim=8, num_layers=2, num_heads=2, mlp_dim=16, num_classes=3)


def tiny(**changes):
    return randomize(keras_vit.VisionTransformer(**SMALL | changes))


def pixels(count=5):
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), "uint8")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"distillation_token": True, "num_register_tokens": 2, "representation_size": None},
        {"pooling": "gap", "norm_after_pooling": True, "representation_size": 6},
        {"pooling": "token_gap", "dtype": "mixed_bfloat16"},
        {"pooling": "map", "class_token": False},
    ],
    ids=str,
)
def test_the_feature_is_that_of_the_model_without_its_head(changes):
    model = tiny(**changes)
    found = keras_vit.embed(model, pixels(), batch_size=2, verbose=False)
    assert found.dtype == "float32"
    expected = model.adapt(include_top=False)(pixels())
    assert_close(found, expected, 0.02 if "dtype" in changes else 1e-5)


def test_pooling_and_blocks():
    model, images = tiny(num_register_tokens=1), pixels()
    tokens = to_numpy(tiny(num_register_tokens=1, include_top=False, pooling=None)(images))
    expected = {"token": tokens[:, 0], "gap": tokens[:, 2:].mean(axis=1)}
    expected["token_gap"] = np.concatenate([*expected.values()], axis=-1)
    for pooling, features in expected.items():
        both = keras_vit.embed(model, images, pooling, blocks=(0, -1), verbose=False)
        assert both.shape == (5, 2, features.shape[-1])
        assert_close(both[:, 1], features)
        assert_close(keras_vit.embed(model, images, pooling, blocks=0, verbose=False), both[:, 0])


def test_images_in_every_form(tmp_path, capsys):
    model, images = tiny(), pixels()
    paths = [tmp_path / f"{i}.png" for i in range(len(images))]
    for path, image in zip(paths, images):
        Image.fromarray(image).save(path)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, i):
            return images[3 * i : 3 * i + 3], np.zeros(len(images[3 * i : 3 * i + 3]))

    transform = keras_vit.data.evaluation_transform(model)
    expected = keras_vit.embed(model, images, verbose=False)
    forms = [keras.ops.convert_to_tensor(images), list(images), Batches(), iter([images[:2], images[2:]])]
    assert not capsys.readouterr().err
    for form in forms:
        assert_close(keras_vit.embed(keras.Sequential([model, keras.layers.Dense(2)]), form), expected)
    assert "Embedding" in capsys.readouterr().err
    assert_close(keras_vit.embed(model, paths), keras_vit.embed(model, np.stack([transform(path) for path in paths])))


def test_wrong_input():
    images = pixels()
    for call, rule in (
        (lambda: keras_vit.embed(tiny(), images[:, :8]), "takes images of shape"),
        (lambda: keras_vit.embed(tiny(), images[0]), "Pass a single image as a batch"),
        (lambda: keras_vit.embed(tiny(), iter(())), "exhausted"),
        (lambda: keras_vit.embed(tiny(), (images, np.zeros(5))), "without labels"),
        (lambda: keras_vit.embed(tiny(), 3), "Received: int"),
        (lambda: keras_vit.embed(tiny(), images, "mean"), "pooling='mean'"),
        (lambda: keras_vit.embed(tiny(), images, "map"), "no attention pooling"),
        (lambda: keras_vit.embed(tiny(pooling="gap", class_token=False), images, "token"), "no class token"),
        (lambda: keras_vit.embed(tiny(pooling=None, include_top=False), images), "returns all tokens"),
        (lambda: keras_vit.embed(tiny(), images, blocks=2), "between -2 and 1"),
        (lambda: keras_vit.embed(keras.Sequential([keras.layers.Dense(2)]), images), "or a model that contains one"),
        (lambda: keras_vit.embed(keras.Sequential([keras.layers.Rescaling(2.0), tiny()]), images), "must be the first layer"),
    ):
        with pytest.raises(ValueError, match=rule):
            call()


@requires_tensorflow
def test_a_file_resumes_where_it_was_killed(tmp_path, monkeypatch):
    data, model, path = keras_vit.data.load((pixels(70), np.arange(70) % 3), batch_size=4), tiny(), tmp_path / "f.npz"
    monkeypatch.setattr(files, "SHARD", 2)
    calls = []

    def killed_after(count):
        def features_of(*arguments):
            if len(calls) == count:
                raise KeyboardInterrupt
            calls.append(None)
            return compute(*arguments)

        return features_of

    compute = files.features_of
    monkeypatch.setattr(files, "features_of", killed_after(5))
    with pytest.raises(KeyboardInterrupt):
        write_features(path, model, data, batch_size=4, verbose=False)
    assert not path.exists() and len(list((tmp_path / "f.npz.shards").glob("train-*.npz"))) == 2
    for changes, rule in (
        ({"pooling": "gap"}, "pooling=None"),
        ({"batch_size": 8}, "batch_size=4"),
        ({"model": tiny(mlp_dim=8)}, "weights"),
    ):
        with pytest.raises(ValueError, match=rule):
            write_features(**{"path": path, "model": model, "data": data, "batch_size": 4, "verbose": False} | changes)
    calls.clear()
    monkeypatch.setattr(files, "features_of", killed_after(None))
    found = write_features(path, model, data, batch_size=4, verbose=False)
    steps = sum(-(-size // 4) for size in data.sizes.values())
    assert len(calls) == steps - 4 and [path.name for path in tmp_path.iterdir()] == ["f.npz"]
    for name in ("train", "validation", "test"):
        mine = found.splits == name
        images, labels = (np.concatenate(each) for each in zip(*data.splits[name].as_numpy_iterator()))
        assert_close(found.features[mine], keras_vit.embed(model, images, verbose=False))
        assert np.array_equal(found.labels[mine], labels) and np.array_equal(found.indices[mine], np.arange(len(labels)))
    with pytest.raises(ValueError, match="exists"):
        write_features(path, model, data)
    np.save(tmp_path / "one.npy", pixels())
    (tmp_path / "text.npz").write_text("no archive")
    for other, rule in (("none.npz", "No such file"), ("one.npy", "must be one that"), ("text.npz", "must be one that")):
        with pytest.raises(ValueError, match=rule):
            read_features(tmp_path / other)


@pytest.mark.parametrize("labels", [np.arange(12) % 3, np.eye(3, dtype="int32")[np.arange(12) % 3]])
def test_a_parquet_file_holds_what_an_archive_does(tmp_path, labels):
    parquet = pytest.importorskip("pyarrow.parquet")
    data, model = keras_vit.data.load((pixels(12), np.arange(12) % 3), batch_size=4), tiny()
    found = [write_features(tmp_path / f"f.{kind}", model, data, verbose=False, settings={"a": 1}) for kind in ("npz", "parquet")]
    for one, other in zip(*found):
        assert type(one) is type(other) and np.array_equal(one, other) and getattr(one, "dtype", None) == getattr(other, "dtype", None)
    assert parquet.read_table(tmp_path / "f.parquet").column_names == ["features", "label", "split", "index"]
    unlabeled = tmp_path / "unlabeled.parquet"
    names = np.array([f"{number}.jpg" for number in range(len(found[0].splits))])
    write_parquet(unlabeled, **found[0]._replace(labels=None, names=names)._asdict())
    assert np.array_equal(read_features(unlabeled).names, names) and read_features(unlabeled).labels is None
    several = tmp_path / "several.parquet"
    write_parquet(several, **found[0]._replace(labels=labels)._asdict())
    assert np.array_equal(read_features(several).labels, labels) and read_features(several).labels.dtype == labels.dtype
    (tmp_path / "text.parquet").write_text("no table")
    parquet.write_table(parquet.read_table(several).replace_schema_metadata(None), tmp_path / "foreign.parquet")
    for name in ("text", "foreign"):
        with pytest.raises(ValueError, match="must be one that"):
            read_features(tmp_path / f"{name}.parquet")
