import pytest
from helpers import command

from keras_vit.profiling import calibration

call = command("info")


def test_figures_of_a_preset(capsys):
    code, out, _ = call(capsys, "ViTB16", "--input-shape", "384,384,3")
    assert code == 0
    assert "ViTB16 at 384 x 384 x 3" in out
    assert "86,859,496" in out  # the published number at 384 pixels
    assert "24 x 24" in out and "577 (576 patches, 1 prefix)" in out


def test_parts_add_up(capsys):
    _, out, _ = call(capsys, "ViTTi16")
    parameters = [int(line.split()[1].replace(",", "")) for line in out.split("GMACs")[1].split("\n\n")[0].strip().split("\n")]
    assert sum(parameters) == 5_717_416


def test_classes_give_a_head(capsys):
    assert "head" not in call(capsys, "DINOv2S14")[1]
    assert "head" in call(capsys, "DINOv2S14", "--num-classes", "7")[1]


def test_the_largest_preset_is_not_built(capsys):
    assert call(capsys, "ViTe14")[0] == 0  # 3.9 billion parameters


def test_memory_by_precision(capsys):
    _, out, _ = call(capsys, "ViTS16", "--batch-size", "32", "--optimizer", "SGD")
    header = out.split("Peak memory of a step, ")[1].split("\n")[0].split()
    assert header == ["batch", "32", "float32", "mixed_bfloat16", "bfloat16"]
    rows = [line for line in out.splitlines() if "iB" in line]
    assert [row.split("  ")[0] for row in rows[::2]] == ["Inference", "Training, SGD", "Training, SGD, remat"]


def test_a_training_step_fits_or_not(capsys, tmp_path, monkeypatch):
    """With a machine of known speed in place of this one."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(calibration, "timed", lambda probes, *_: [0.01 * number for number, _ in enumerate(probes, start=1)])
    fits, not_fits = (8, "a step of 8 images fits"), (10**6, "a step of 1000000 images does not fit")
    for (batch, verdict), more, measures in ((fits, (), True), (not_fits, (), False), (fits, ("--calibrate",), True)):
        code, out, error = call(capsys, "ViTTi16", "--batch-size", str(batch), "--training", "--images", "16", *more)
        assert code == 0 and verdict in out and "Largest batch that fits" in out and "Epoch of 16 images" in out
        assert ("measuring the speed of this machine" in error) == measures


def test_sizes_are_compared_and_drawn(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    code, out, _ = call(capsys, "ViTTi16", "--sizes", "224,384", "--patch-sizes", "32,16", "--plot", str(tmp_path / "a.svg"))
    table = [line.split()[:5] for line in out.split("Image ")[1].splitlines()[1:5]]
    assert code == 0 and (tmp_path / "a.svg").stat().st_size > 10_000
    assert table == [[size, "x", size, patch, tokens] for patch, size, tokens in (
        ("32", "224", "50"), ("32", "384", "145"), ("16", "224", "197"), ("16", "384", "577")
    )]  # fmt: skip


@pytest.mark.parametrize(
    "arguments, rule",
    [
        (["ViTB61"], "Received: 'ViTB61'"),
        (["ViTB16", "--input-shape", "385,384"], "The patch must divide the image"),
        (["ViTB16", "--input-shape", "large"], "Received: large"),
        (["ViTB16", "--num-classes", "0"], "--num-classes"),
        (["ViTB16", "--sizes", "224,100"], "The patch must divide the image"),
        (["ViTB16", "--patch-sizes", "0"], "`--patch-sizes` must be numbers of pixels"),
        (["ViTB16", "--plot", "a.pdf"], "must end with .png or .svg"),
        (["ViTB16", "--optimizer", "Adam"], "Adam"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(capsys, arguments, rule):
    code, out, err = call(capsys, *arguments)
    assert code == 2 and not out and err.count("\n") == 1 and rule in err
