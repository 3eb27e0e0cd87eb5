import os

import pytest

from keras_vit_cli.console import parse_shape, quiet, table


def test_quiet_silences_the_descriptor_and_gives_it_back(capfd):
    with quiet():
        os.write(2, b"noise")
    os.write(2, b"signal")
    assert capfd.readouterr().err == "signal"


def test_quiet_lets_errors_through(capfd):
    with pytest.raises(RuntimeError):
        with quiet():
            raise RuntimeError
    os.write(2, b"signal")
    assert capfd.readouterr().err == "signal"


@pytest.mark.parametrize("text, expected", [("384,256,3", (384, 256, 3)), ("384", (384, 384, 3)), ("384, 256", (384, 256, 3))])
def test_shapes(text, expected):
    assert parse_shape(text) == expected


@pytest.mark.parametrize("text", ["", "a,b,c", "384,384,3,1", "0,384,3", "-1", "3.5"])
def test_wrong_shapes_are_refused(text):
    with pytest.raises(ValueError, match="such as 384,384,3. Received: "):
        parse_shape(text)


def test_a_long_row_is_not_cut_in_a_pipe(capsys):
    table(("Name", "Number"), [("a" * 150, 1), ("b", 22)])
    header, first, second = capsys.readouterr().out.rstrip("\n").split("\n")
    assert header.split() == ["Name", "Number"] and first.split() == ["a" * 150, "1"] and second.split() == ["b", "22"]
