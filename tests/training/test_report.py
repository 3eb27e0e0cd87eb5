import base64
import re
import sys

import numpy as np
import pytest

from keras_vit.training import write_report

PICTURES = ("curves.png", "confusion_matrix.png", "worst_mistakes.png")


def report(folder, classes=3, mistakes=2, epochs=3, images=12, **overrides):
    rng = np.random.default_rng(0)
    labels = np.arange(images) % classes
    probabilities = 0.1 * rng.dirichlet(np.ones(classes), images)
    said = labels.copy()
    said[:mistakes] = (labels[:mistakes] + 1) % classes
    probabilities[np.arange(images), said] += 0.9
    arguments = dict(
        title="A <run>",
        facts={"Test accuracy": "98 % & more"},
        history=[{"epoch": i + 1, "loss": 1 / (i + 1), "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.4} for i in range(epochs)],
        images=rng.random((images, 8, 8, 3)) * 255,
        labels=labels,
        probabilities=probabilities,
        class_names=[f"class {i}" for i in range(classes)],
    )
    return write_report(folder, **arguments | overrides)


@pytest.mark.parametrize(
    "case", [{}, dict(mistakes=0), dict(epochs=1), dict(classes=40, images=80, mistakes=60), dict(mistakes=1, images=3)]
)
def test_files_are_written(tmp_path, case):
    files = report(tmp_path, **case)
    assert list(files) == ["Report", "Learning curves", "Confusion matrix", "Worst mistakes"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["report.html", *PICTURES])
    for name in PICTURES:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_page_holds_its_pictures_and_escapes_text(tmp_path):
    page = report(tmp_path)["Report"].read_text()
    embedded = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert [base64.b64decode(data) for data in embedded] == [(tmp_path / name).read_bytes() for name in PICTURES]
    assert "A &lt;run&gt;" in page and "98 % &amp; more" in page
    assert "http" not in page  # nothing is loaded from elsewhere


def test_missing_matplotlib_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        report(tmp_path)
