import keras
import numpy as np
import pytest
from helpers import TINY, assert_close, tiny

import keras_vit
from keras_vit.checkpoints.loading import _variables
from keras_vit.training import add_lora, soup
from keras_vit.training.settings import write_config
from keras_vit_cli import main


def weights(model):
    return {path: keras.ops.convert_to_numpy(variable) for path, variable in _variables(model).items()}


def test_a_uniform_soup_is_the_mean(tmp_path):
    models = [tiny(seed, num_layers=1) for seed in range(3)]
    run = tmp_path / "run"
    run.mkdir()
    models[1].save(run / "model.keras")
    models[2].save(tmp_path / "c.keras")
    made = keras_vit.soup([models[0], run, str(tmp_path / "c.keras")])
    for name, value in weights(made).items():
        assert_close(value, np.mean([weights(model)[name] for model in models], axis=0), 1e-6)
    # What training alone reads may differ; updates of low rank are merged before averaging.
    other = tiny(1, num_layers=1, dropout_rate=0.3, drop_path_rate=0.1)
    add_lora(other, 2)
    merged = other.adapt()
    assert_close(
        weights(keras_vit.soup([models[0], other]))["block_0/mlp/fc1/kernel"],
        (weights(models[0])["block_0/mlp/fc1/kernel"] + weights(merged)["block_0/mlp/fc1/kernel"]) / 2,
    )


def test_a_greedy_soup_keeps_what_helps(capsys, tmp_path):
    rows = [("a", 0.5), ("b", 0.9), ("c", 0.7), ("d", 0.9)]
    models = [tiny(seed, num_layers=1) for seed in range(4)]
    values = {id(model): value for model, (_, value) in zip(models, rows)}
    averages = iter([0.8, 0.95, 0.95])  # d is left out; then c, and a by an equal score, go in
    made, found = soup.greedy(models, lambda model: values.get(id(model)) or next(averages))
    assert [(row["number"], row["kept"]) for row in found] == [(1, True), (3, False), (2, True), (0, True)]
    assert_close(made.get_weights()[0], keras_vit.soup([models[i] for i in (1, 2, 0)]).get_weights()[0], 1e-6)
    # By accuracy, on batches that can be read again.
    images = np.random.default_rng(0).uniform(0, 255, (6, *TINY["input_shape"])).astype("float32")
    batches = [(images, np.argmax(models[2](images), axis=-1))]
    best = keras_vit.soup(models, data=batches)
    assert soup.accuracy_on(batches)(best) == 1.0
    with pytest.raises(ValueError, match="iterated more than once.*a generator"):
        keras_vit.soup(models, data=(batch for batch in batches))


def test_the_command(capsys, tmp_path):
    for seed in range(2):
        folder = tmp_path / f"run{seed}"
        folder.mkdir()
        tiny(seed, input_shape=(16, 16, 3), num_layers=1, num_classes=10).save(folder / "model.keras")
        write_config({"data": "digits", "seed": 0}, folder / "config.toml")

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["soup", *map(str, arguments)])
        return ended.value.code or 0, *capsys.readouterr()

    runs = tmp_path / "run0", tmp_path / "run1"
    code, out, err = call(*runs, "--output", tmp_path / "soup.keras", "--greedy")
    assert code == 0, err
    assert "Soup with it" in out and " of 2 models" in out
    assert keras.saving.load_model(tmp_path / "soup.keras").output_shape == (None, 10)
    for arguments, words in (
        ([*runs, "--output", tmp_path / "soup.keras"], "--force"),
        ([runs[0], "--output", tmp_path / "new.keras"], "two or more"),
        ([*runs, "--output", tmp_path / "new.keras", "--data", "digits"], "needs `--greedy`"),
        ([*runs, "--output", tmp_path / "new"], "must be a file *.keras"),
    ):
        code, _, err = call(*arguments)
        assert code == 2 and words in err and err.count("\n") == 1, err
    assert call(*runs, "--output", tmp_path / "soup.keras", "--force")[0] == 0


def test_what_is_no_soup(tmp_path):
    first = tiny(num_layers=1)
    for models, words in (
        ([first], "two or more models"),
        (first, "two or more models"),
        ([first, keras.Sequential([keras.Input((3,))])], "a Sequential"),
        ([first, tiny(num_layers=1, num_classes=4)], "num_classes=4, not 5"),
        ([first, tmp_path / "no.keras"], "no such file"),
    ):
        with pytest.raises(ValueError, match=words):
            keras_vit.soup(models)
    quantized = tiny(num_layers=1)
    quantized.quantize("int8")
    with pytest.raises(ValueError, match="Quantized"):
        keras_vit.soup([first, quantized])
