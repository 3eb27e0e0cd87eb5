import pytest

from keras_vit_cli import main


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["info", *arguments])
    return ended.value.code or 0, *capsys.readouterr()


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


@pytest.mark.parametrize(
    "arguments, rule",
    [
        (["ViTB61"], "Received: 'ViTB61'"),
        (["ViTB16", "--input-shape", "385,384"], "The patch must divide the image"),
        (["ViTB16", "--input-shape", "large"], "Received: large"),
        (["ViTB16", "--num-classes", "0"], "--num-classes"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(capsys, arguments, rule):
    code, out, err = call(capsys, *arguments)
    assert code == 2 and not out and err.count("\n") == 1 and rule in err
