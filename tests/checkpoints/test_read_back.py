"""Where timm and transformers are installed: they read what is written, by their own loaders."""

import importlib.util
import pathlib
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


def test_timm_and_transformers_read_what_is_written(monkeypatch):
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    spec = importlib.util.spec_from_file_location("read_back", BENCHMARKS / "read_back.py")
    read_back = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(read_back)
    found = {(folder.name, *each) for folder in read_back.FIXTURES for each in read_back.compare(folder, ("timm", "huggingface"))}
    assert len(found) > 40 and max(difference for *_, difference in found) <= read_back.TOLERANCE, sorted(found)
