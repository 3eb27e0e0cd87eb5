"""The search itself, with trials that are a formula in place of a training run: it may be killed at every single write."""

import json
import pathlib

import pytest
from helpers import requires_tensorflow

from keras_vit import tuning
from keras_vit.tuning import tuners
from keras_vit.tuning.study import reason

pytestmark = requires_tensorflow
SPACE = {"hidden_dim": (8, 12, 16), "num_heads": (2, 3), "learning_rate": (1e-3, 2e-3), "weight_decay": {"low": 0.01, "high": 0.1}}


class Killed(BaseException):
    pass


class Formula(tuning.Search):
    """A trial's score is a formula of its values; what `faults` says of its number happens in its place."""

    faults = {}

    def run_trial(self, trial, **kwargs):
        if trial.trial_id in self.faults:
            raise self.faults[trial.trial_id]
        values = self.hypermodel.values(trial.hyperparameters.values)
        return {"val_accuracy": values["hidden_dim"] / 20 - abs(values["learning_rate"] - 2e-3) + values["weight_decay"] / 100}


@pytest.fixture(scope="module")
def hypermodel():
    return tuning.ViTHyperModel("digits", SPACE, architecture={"num_layers": 1, "mlp_dim": 8}, image_size=8)


def outcome(folder):
    return [(trial.number, trial.status, trial.values, trial.score) for trial in tuning.read_trials(folder)]


@pytest.mark.slow
@pytest.mark.parametrize("tuner", tuners.TUNERS)
def test_killed_at_every_write(hypermodel, tmp_path, monkeypatch, capsys, tuner):
    trials, every = (4, 9) if tuner == "bayesian" else (5, 1)  # each proposal of the Gaussian process takes a second
    search = Formula(hypermodel, tmp_path / "whole", tuner, trials)
    search.search()
    expected = outcome(tmp_path / "whole")
    assert len(expected) == trials and all(status == "COMPLETED" for _, status, *_ in expected)
    for _, _, values, _ in expected:
        assert values["hidden_dim"] % values["num_heads"] == 0
    write, left = tuners.write_json, 0

    def killed(value, path):
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        write(value, path)

    monkeypatch.setattr(tuners, "write_json", killed)
    for moment in range(1, 6 * trials, every):
        folder, kills, left = tmp_path / f"killed_{moment}", 0, moment
        while True:
            try:
                Formula(hypermodel, folder, tuner, trials).search()
                break
            except Killed:
                kills += 1
        if not kills:
            break
        assert outcome(folder) == expected, moment
    assert moment > 2 * trials


def test_a_failed_trial_is_recorded_and_the_search_goes_on(hypermodel, tmp_path, monkeypatch, capsys):
    import tensorflow as tf

    memory = tf.errors.ResourceExhaustedError(None, None, "Graph execution error:\n\nOOM when allocating tensor with shape[9]\n\t [[x]]")
    nan = FloatingPointError("The loss is not finite after step 3")
    monkeypatch.setattr(Formula, "faults", {"1": memory, "2": nan, "3": MemoryError("no memory")})
    Formula(hypermodel, tmp_path / "study", "random", 5).search()
    trials = {trial.number: trial for trial in tuning.read_trials(tmp_path / "study")}
    assert [trials[str(i)].status for i in range(5)] == ["COMPLETED", "FAILED", "FAILED", "FAILED", "COMPLETED"]
    assert trials["1"].reason == "ResourceExhaustedError: OOM when allocating tensor with shape[9]"
    assert trials["2"].reason == "FloatingPointError: The loss is not finite after step 3"
    lines = capsys.readouterr().out.splitlines()
    assert "trial 2 (3 of 5): failed: FloatingPointError" in lines[2] and "best" in lines[2]
    assert "no memory" in tuning.write_report(tmp_path / "study")["Report"].read_text()


def test_a_search_in_which_everything_fails_ends(hypermodel, tmp_path, monkeypatch):
    monkeypatch.setattr(Formula, "faults", dict.fromkeys(map("{:02d}".format, range(15)), ValueError("wrong")))
    Formula(hypermodel, tmp_path / "study", "random", 15).search()
    assert len(tuning.read_trials(tmp_path / "study")) == tuners.MOST_FAILURES
    with pytest.raises(ValueError, match="needs a completed trial"):
        tuning.write_report(tmp_path / "study")


def test_a_trial_that_always_kills_its_process_is_given_up(hypermodel, tmp_path, monkeypatch):
    monkeypatch.setattr(Formula, "faults", {"1": Killed()})
    kills = 0
    while True:
        try:
            Formula(hypermodel, tmp_path / "study", "random", 3).search()
            break
        except Killed:
            kills += 1
    assert kills == tuners.MOST_KILLS
    trials = {trial.number: trial for trial in tuning.read_trials(tmp_path / "study")}
    assert trials["1"].status == "FAILED" and "killed 5 times after its start" in trials["1"].reason
    assert trials["0"].status == trials["2"].status == "COMPLETED"


def test_a_grid_has_every_combination_once(tmp_path):
    space = {"hidden_dim": (8, 12), "num_heads": (2, 3), "learning_rate": (1e-3, 2e-3)}
    hypermodel = tuning.ViTHyperModel("digits", space | {"weight_decay": (0.01, 0.1)}, image_size=8)
    Formula(hypermodel, tmp_path / "study", "grid", 100).search()
    values = [json.dumps(trial.values) for trial in tuning.read_trials(tmp_path / "study")]
    assert len(values) == len(set(values)) == 3 * 2 * 2


def test_wrong_arguments(hypermodel, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="`trials` must be an int of at least 1"):
        Formula(hypermodel, tmp_path, "random", 0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="new, empty, or that of the same search"):
        Formula(hypermodel, tmp_path / "full")
    Formula(hypermodel, tmp_path / "study", "random", 1).search()
    with pytest.raises(ValueError, match="another search: its `tuner` is 'random'. Received: tuner='grid'"):
        Formula(hypermodel, tmp_path / "study", "grid", 1)
    monkeypatch.setattr(tuners.importlib.util, "find_spec", lambda name: None if name == "scipy" else object())
    with pytest.raises(ImportError, match="needs scipy"):
        Formula(hypermodel, tmp_path / "new", "bayesian")
    assert not pathlib.Path(tmp_path / "new").exists()


def test_a_worker_without_a_chief(hypermodel, tmp_path, monkeypatch):
    for name, value in {"ORACLE_IP": "127.0.0.1", "ORACLE_PORT": "1", "TUNER_ID": "one"}.items():
        monkeypatch.setenv(f"KERASTUNER_{name}", value)
    with pytest.raises(OSError, match="The chief did not answer"):
        Formula(hypermodel, tmp_path / "study", "random", 1, wait=0.5)
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "0")
    with pytest.raises(OSError, match="No worker is left"):
        Formula(hypermodel, tmp_path / "study", "random", 1, wait=0.5).search()


def test_reasons():
    assert reason(None) == "" and reason("Traceback\n  x\nValueError: `a` must be b") == "ValueError: `a` must be b"
