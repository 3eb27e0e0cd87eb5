import base64
import io
import re
import sys

import keras
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

import keras_vit
from keras_vit.training import write_report
from keras_vit.training.results.pictures import STYLES, draw_confusion, draw_curves, draw_mistakes

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


def test_page_speaks_to_every_reader(tmp_path):
    more = {"First batch": ("curves.png", "Images <with> classes")}
    facts = {"Calibration error": "1.00 %"}
    page = report(tmp_path, classes=40, images=80, mistakes=3, epochs=1, split="validation", facts=facts, more=more)["Report"].read_text()
    assert page.count('<source media="(prefers-color-scheme: dark)"') == 3  # a dark form of each picture but the one of `more`
    alternatives = re.findall('alt="([^"]+)"', page)
    assert alternatives[0] == "Training loss from 1 to 1 in 1 epoch; validation accuracy is highest in epoch 1: 40.00 %"
    assert alternatives[1].startswith("Matrix of 40 true classes by predicted class, 80 images, 3 mistakes; most often true class ")
    assert alternatives[2].startswith("3 of 80 validation images misclassified: true class ")
    assert alternatives[3] == "Images &lt;with&gt; classes"
    assert (
        page.count('<th scope="row">') == 2 + 3 + 40
        and '<th scope="col">Predicted class</th>' in page
        and "should be right in 80 %" in page
    )
    assert f"keras_vit {keras_vit.__version__}, Keras {keras.__version__}" in page and "test images" not in page


def drawn(draw, *arguments, **more):
    with matplotlib.rc_context(STYLES["light"]):
        figure = Figure(layout="constrained")
        draw(figure, *arguments, **more)
        figure.savefig(io.BytesIO())  # lays it out
    return figure


NAMES = [
    "golden retriever",
    "chelsea the cat",
    "black-footed ferret, ferret, Mustela nigripes",
    "DONAUDAMPFSCHIFFFAHRTSGESELLSCHAFTSKAPITÄN",
    "$a$ $",
]


def test_titles_of_mistakes_fit():
    labels, probabilities = np.arange(10) % 5, np.full((10, 5), 0.03)
    probabilities[np.arange(10), (labels + 1) % 5] = 0.88
    figure = drawn(draw_mistakes, np.zeros((10, 8, 8, 3)), labels, probabilities, NAMES)
    boxes = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
    assert len(boxes) == 10 and not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in boxes)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "true golden retriever\npredicted chelsea the cat, 88 %"
    assert all(title.endswith(", 88 %") for title in titles[:10]) and max(title.count("\n") for title in titles) <= 3


def test_counts_are_legible_on_every_color():
    figure = drawn(draw_confusion, [[9, 1, 0], [0, 5, 5], [3, 0, 7]], ["cat", "dog", "a class with a very long name, the second"])
    axes = figure.axes[0]
    inks = {text.get_text(): text.get_color() for text in axes.texts}
    assert inks["9"] == "white" and inks["1"] == "black"
    assert axes.get_yticklabels()[2].get_text() == "a class with a v… the second"


def test_curves_mark_the_best_epoch_and_the_phases():
    history = [
        {"epoch": i, "loss": 1 / i, "accuracy": 0.1 * i, "val_loss": 0.5, "val_accuracy": 0.5 - abs(i - 4) / 10} for i in range(1, 7)
    ]
    figure = drawn(draw_curves, history, {1: "head", 3: "all layers"})
    for axes in figure.axes:
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training", "validation", "best epoch: 4"]
        assert [text.get_text() for text in axes.texts] == ["head", "all layers"]
        assert axes.lines[0].get_marker() != axes.lines[1].get_marker() and [*axes.lines[2].get_xdata()] == [4, 4]
        assert [*axes.lines[3].get_xdata()] == [2.5, 2.5]


def test_missing_matplotlib_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        report(tmp_path)
