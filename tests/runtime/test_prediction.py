import keras
import numpy as np
import pytest

import keras_vit

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="mends Keras's trainer for TensorFlow")


@pytest.fixture
def model():
    return keras_vit.VisionTransformer((16, 16, 3), 8, 16, 1, 2, 16, num_classes=3, include_top=False)


def images(count, dtype="float32"):
    return (255 * np.random.default_rng(0).random((count, 16, 16, 3))).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_predict_of_one_batch_is_that_of_keras(model, dtype, capsys):
    theirs = keras.Model.predict(model, images(5, dtype))
    bar = capsys.readouterr().out
    ours = model.predict(images(5, dtype))
    np.testing.assert_array_equal(ours, theirs)
    assert ours.dtype == theirs.dtype
    assert "1/1" in bar and "1/1" in capsys.readouterr().out
    model.predict(images(5, dtype), verbose=0)
    assert not capsys.readouterr().out


def test_predict_of_one_batch_makes_no_pipeline(model, monkeypatch):
    monkeypatch.setattr(keras.Model, "predict", lambda self, *arguments: "Keras's")
    assert model.predict(images(32), verbose=0).shape == (32, 16)
    several = [dict(x=images(33)), dict(x=images(3), batch_size=2), dict(x=images(2), steps=1)]
    others = [dict(x=images(0)), dict(x=images(2).tolist()), dict(x=images(2), callbacks=[keras.callbacks.Callback()])]
    assert [model.predict(**arguments) for arguments in several + others] == ["Keras's"] * 6
