"""A small fixed part of `benchmarks/fuzz.py`; what the whole of it has found is in the tests of the files that were at fault."""

import pathlib

import pytest
from helpers import requires_tensorflow

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
CASES = {"safetensors": 25, "npz": 25, "json": 20, "toml": 20, "features": 10, "tar": 10, "image": 30}


@requires_tensorflow
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused(tmp_path, monkeypatch):
    pytest.importorskip("hypothesis")
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    for name, count in CASES.items():
        (tmp_path / name).mkdir()
        findings = findings_in(name, count, tmp_path / name)
        assert len(findings) == count and not any(findings), (name, set(findings))


def findings_in(name, count, folder):
    import hypothesis
    from fuzz import judge
    from fuzz_targets import TARGETS

    strategy, call = TARGETS[name](folder)
    findings = []
    options = dict(database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate])

    @hypothesis.seed(0)
    @hypothesis.settings(max_examples=count, **options)
    @hypothesis.given(case=strategy)
    def each(case):
        findings.append(judge(call, case, folder, alone=False)[0])

    each()
    return findings
