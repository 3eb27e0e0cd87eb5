import logging
import os
import subprocess
import sys

import pytest
from helpers import requires_tensorflow

from keras_vit import one_dnn

# The value of the variable when `keras_vit` first imports Keras.
IMPORT = """
import os, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "keras":
            print(os.environ.get("TF_ENABLE_ONEDNN_OPTS"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Finder())
import keras_vit
"""


@pytest.fixture
def processor(monkeypatch, tmp_path):
    monkeypatch.setenv(one_dnn.VARIABLE, "1")  # as it is now, it comes back after the test
    monkeypatch.delenv(one_dnn.VARIABLE)

    def processor(flags):
        path = tmp_path / "cpuinfo"
        path.write_text(f"processor\t: 0\nmodel name\t: One\nflags\t\t: {flags}\n")
        monkeypatch.setattr(one_dnn, "PROCESSORS", path)

    return processor


@pytest.mark.parametrize("flags, value", [("fpu avx avx2 fma", "1"), ("fpu avx fma", None)])
def test_one_dnn_is_on_with_avx2(processor, monkeypatch, flags, value):
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    processor(flags)
    one_dnn.turn_on()
    assert os.environ.get(one_dnn.VARIABLE) == value


def test_the_users_settings_hold(processor, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    processor("avx2")
    monkeypatch.setenv("KERAS_VIT_FAST_PATHS", "0")
    one_dnn.turn_on()
    assert one_dnn.VARIABLE not in os.environ
    monkeypatch.setenv("KERAS_VIT_FAST_PATHS", "1")
    monkeypatch.setenv(one_dnn.VARIABLE, "0")
    one_dnn.turn_on()
    assert os.environ[one_dnn.VARIABLE] == "0"
    monkeypatch.delenv(one_dnn.VARIABLE)
    monkeypatch.setattr(one_dnn, "PROCESSORS", tmp_path / "none")  # not Linux
    one_dnn.turn_on()
    assert one_dnn.VARIABLE not in os.environ


def test_it_is_on_before_keras_is_imported():
    environment = {key: value for key, value in os.environ.items() if key not in (one_dnn.VARIABLE, "KERAS_VIT_FAST_PATHS")}
    found = subprocess.check_output([sys.executable, "-c", IMPORT], env=environment, text=True)
    assert found.split() == ["1" if one_dnn._has_avx2() else "None"]


@requires_tensorflow
def test_a_line_says_that_it_could_be_on(processor, monkeypatch, caplog):
    from tensorflow.python.util import _pywrap_util_port

    monkeypatch.setattr(_pywrap_util_port, "IsMklEnabled", lambda: False)
    for flags, lines in (("avx", 0), ("avx2", 1)):
        processor(flags)
        with caplog.at_level(logging.WARNING, "keras_vit"):
            assert not one_dnn.one_dnn.__wrapped__()
        assert len(caplog.messages) == lines
    assert "import keras_vit before" in caplog.text
