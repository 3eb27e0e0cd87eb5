import pytest

from keras_vit_cli import main


def call(capsys, *arguments):
    """Returns exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code or 0, *capsys.readouterr()


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

    monkeypatch.setattr("keras_vit.presets.list_models", fail)
    assert call(capsys, "list") == (2, "", line)


def test_an_interrupt_ends_with_130(capsys, monkeypatch):
    def interrupt(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr("keras_vit.presets.list_models", interrupt)
    code, out, err = call(capsys, "list")
    assert code == 130 and "Traceback" not in err
