import json

import numpy as np
import pytest

from keras_vit.tuning import read_trials, write_report
from keras_vit.tuning.report import importance, places_of
from keras_vit.tuning.study import STUDY

SPACE = {
    "hidden_dim": [8, 16],
    "stem": ["patch", "conv"],
    "frozen_blocks": ["none", 3],
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "mixup": [0.0],
}


def study(folder, scores):
    """A folder with a trial for each score; None is a failed one. The wider model is the better one."""
    folder.mkdir()
    settings = {"space": SPACE, "tuner": "random", "data": "digits", "images": 100, "class_names": ["0", "1"]}
    (folder / STUDY).write_text(json.dumps(settings))
    rng = np.random.default_rng(0)
    for number, score in enumerate(scores):
        architecture = {"hidden_dim": 8 if score is None or score < 0.5 else 16, "stem": str(rng.choice(SPACE["stem"]))}
        architecture["frozen_blocks"] = SPACE["frozen_blocks"][number % 2]
        values = {"architecture": json.dumps(architecture), "learning_rate": 10 ** rng.uniform(-4, -2), "mixup": 0.0, "tuner/epochs": 3}
        trial = {
            "trial_id": str(number),
            "score": score,
            "status": "COMPLETED" if score else "FAILED",
            "hyperparameters": {"values": values},
        }
        trial["message"] = None if score else "Traceback:\nFloatingPointError: The loss is <not> finite"
        path = folder / f"trial_{number}"
        path.mkdir()
        (path / "trial.json").write_text(json.dumps(trial))
        if score:
            (path / "history.json").write_text(json.dumps([{"val_accuracy": score / 2}, {"val_accuracy": score}]))
    return folder


def test_pictures_and_tables(tmp_path):
    folder = study(tmp_path / "study", [0.3, 0.8, 0.35, None, 0.85, 0.4, 0.75, 0.32])
    files = write_report(folder)
    assert list(files) == ["Report", "Parallel coordinates", "Learning curves", "Importance of each parameter"]
    page = files["Report"].read_text()
    assert page.count("<img") == 3 and "85.00 % of the validation images, trial 4" in page and "7 completed, 1 failed" in page
    assert "The loss is &lt;not&gt; finite" in page and page.index("85.00\u00a0%") < page.index("80.00\u00a0%") < page.index("30.00\u00a0%")
    assert '<th scope="col">4</th>' in page and "through its values of hidden_dim" in page
    assert all(path.stat().st_size > 5_000 for path in files.values())


@pytest.mark.parametrize("scores, pictures", [([0.5], 1), ([0.5, 0.6], 2), ([0.5] * 6, 2)])
def test_few_trials_or_equal_ones(tmp_path, scores, pictures):
    assert len(write_report(study(tmp_path / "study", scores))) == 1 + pictures


def test_importance_finds_what_the_score_depends_on(tmp_path):
    trials = read_trials(study(tmp_path / "study", [0.3, 0.8] * 12))
    columns = {name: [trial.values[name] for trial in trials] for name in SPACE}
    shares = importance(columns, np.array([trial.score for trial in trials]))
    assert next(iter(shares)) == "hidden_dim" and shares["hidden_dim"] > 0.9 and abs(sum(shares.values()) - 1) < 1e-6


def test_places_on_an_axis():
    places, marks = places_of([1e-3, 1e-4], SPACE["learning_rate"])
    np.testing.assert_allclose(places, [0.5, 0.0])
    assert marks == [(0.0, "0.0001"), (1.0, "0.01")]
    places, marks = places_of(["none", 3, 0], SPACE["frozen_blocks"])
    np.testing.assert_allclose(places, [1.0, 0.5, 0.0])


def test_nothing_to_report(tmp_path):
    with pytest.raises(ValueError, match="needs a completed trial"):
        write_report(study(tmp_path / "study", [None]))
