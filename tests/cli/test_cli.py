import pytest
from helpers import command

from keras_vit_cli import in_options

call = command()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["train", "--help"], ["list", "--help"], ["info", "--help"]])
def test_help(capsys, arguments):
    code, out, err = call(capsys, *arguments)
    assert code == 0 and "Usage: keras-vit" in out and not err


def test_version(capsys):
    code, out, err = call(capsys, "--version")
    assert code == 0 and out.startswith("keras-vit ") and "Keras 3" in out and not err


@pytest.mark.parametrize(
    "line, rule",
    [
        ("trian", "No such command 'trian'"),
        ("--verson", "No such option"),
        ("info", "Missing argument"),
        ("info ViTB16 --batch-size 0", "--batch-size"),
        ("info ViTB61", "The nearest are ViTB16"),
        ("list --all", "No such option"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(capsys, line, rule):
    code, out, err = call(capsys, *line.split())
    assert code == 2 and not out
    assert err.startswith("keras-vit: ") and err.count("\n") == 1 and rule in err


@pytest.mark.parametrize(
    "error, line",
    [
        (ValueError("one\n  two"), "keras-vit: one two\n"),
        (ImportError("pip install that"), "keras-vit: pip install that\n"),
        (PermissionError(13, "Permission denied", "/there"), "keras-vit: Permission denied: /there\n"),
    ],
)
def test_errors_of_the_package_are_one_line_too(capsys, monkeypatch, error, line):
    def fail(*arguments, **keywords):
        raise error

    monkeypatch.setattr("keras_vit.checkpoints.catalogue.find_preset", fail)
    assert call(capsys, "list", "ViTX*") == (2, "", line)


def test_an_interrupt_ends_with_130(capsys, monkeypatch):
    def interrupt(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr("keras_vit.checkpoints.catalogue.find_preset", interrupt)
    code, out, err = call(capsys, "list", "ViTX*")
    assert code == 130 and "Traceback" not in err


def test_errors_of_the_package_are_in_the_words_of_the_command():
    text = (
        "`data` is missing; `accumulation_steps=2`, `mixed_precision=True` and `weights='a b'` help, `other=1` does not. Received: seed=1"
    )
    expected = (
        "`--data` is missing; `--accumulation-steps 2`, `--mixed-precision` and `--weights a b` help, `other=1` does not. Received: seed=1"
    )
    assert in_options(text, ["train"]) == expected
    assert in_options(text, ["--version"]) == in_options(text, []) == text


def test_shell_completion_is_offered(capsys):
    assert "--install-completion" in call(capsys, "--help")[1]
