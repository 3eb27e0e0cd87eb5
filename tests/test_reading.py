"""Small text files: what is no such file is refused in one line that names it."""

import pytest

from keras_vit.reading import MOST_BYTES, read_json, read_toml


def test_refused(tmp_path):
    path = tmp_path / "x"
    for content in (b"=", b"a = 1\na = 2", b"\xff\xfe", b"x = " + b"[" * 50_000):
        path.write_bytes(content)
        for read, format in ((read_toml, "a TOML file"), (read_json, "JSON")):
            with pytest.raises(ValueError, match=f"^A config must be {format}: .*Received: ") as raised:
                read(path, "A config")
            assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(ValueError, match="at most"):
        read_toml(path, "A config")
    for absent in (tmp_path, tmp_path / "absent", "/dev/zero"):
        with pytest.raises(OSError, match="A config must be a file"):
            read_json(absent, "A config")
