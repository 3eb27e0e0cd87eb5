import pytest
import stubs


@pytest.mark.parametrize("path", stubs.FILES, ids=lambda path: path.name)
def test_the_stubs_are_current(path):
    assert path.read_text("utf-8") == stubs.FILES[path](), "run `python tests/stubs.py`"
