"""Writes the report of a run: metrics, learning curves, confusion matrix and worst mistakes, as pictures and as one HTML file."""

import base64
import datetime
import html
import importlib
import io
import pathlib
import platform
from typing import Any

import keras
import numpy as np

from keras_vit.files import replacing
from keras_vit.messages import counted
from keras_vit.training.results.metrics import evaluate_predictions
from keras_vit.training.results.pictures import (
    MOST_NAMES,
    STYLES,
    best_epoch,
    chosen_mistakes,
    draw_confusion,
    draw_curves,
    draw_mistakes,
    title_of_mistakes,
)
from keras_vit.version import __version__

MOST_CLASSES, MOST_PAIRS = 100, 20
NOTES = {
    "Calibration error": "Mean difference between confidence and accuracy: where a model says 80 %, it should be right in 80 % of cases.",
}
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ --ink: #222; --ground: #fff; --line: #ddd; --quiet: #666 }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #ddd; --ground: #181818; --line: #3a3a3a; --quiet: #a0a0a0 }} }}
body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground) }}
body {{ max-width: 1000px; margin: 2rem auto; padding: 0 1rem }}
h1 {{ font-size: 1.6rem; overflow-wrap: anywhere }} h2 {{ font-size: 1.15rem; margin-top: 2.5rem }}
.wide {{ overflow-x: auto }} img {{ max-width: none; height: auto; width: 100%; border-radius: 4px }}
table {{ border-collapse: collapse }} th {{ text-align: left; font-weight: 600 }}
th, td {{ padding: .2rem 1.5rem .2rem 0; vertical-align: top; border-bottom: 1px solid var(--line) }}
td {{ overflow-wrap: anywhere }} .wide td, .wide th {{ overflow-wrap: normal; font-variant-numeric: tabular-nums }}
small {{ display: block; color: var(--quiet) }}
@media (max-width: 600px) {{ .facts th, .facts td {{ display: block; border: 0; padding: 0 }} .facts th {{ padding-top: .6rem }} }}
</style>
<h1>{title}</h1>
<table class="facts">{facts}</table>
{body}
</html>
"""


def write_report(
    folder: str | pathlib.Path,
    title: str,
    facts: dict[str, str],
    history: list[dict],
    images: Any,
    labels: Any,
    probabilities: Any,
    class_names: tuple[str, ...] | list[str],
    more: dict[str, tuple] | None = None,
    split: str = "test",
    phases: dict[int, str] | None = None,
) -> dict[str, pathlib.Path]:
    """Writes `report.html` into `folder`, and its pictures `curves.png`, `confusion_matrix.png` and `worst_mistakes.png`.

    The HTML file contains the pictures, so that it can be sent by itself.

    Args:
        folder: str or path-like. An existing folder.
        title: str. The heading of the page.
        facts: dict from str to str. The table at the top of the page. Date and versions are added.
        history: list of dicts, one per epoch, with `epoch`, `loss`, `accuracy`, `val_loss`, `val_accuracy`. None leaves the curves out.
        images: array `(n, rows, columns, 3)` with values in 0..255; or a dict from row numbers to images, if not all are available.
        labels: int array `(n,)`. The true classes.
        probabilities: array `(n, classes)`. The model's predictions.
        class_names: sequence of str.
        more: dict from headings to `(file name, alternative text)` of further pictures in `folder`. Defaults to None.
        split: str. Split of the images: "test", "validation", "train" or "all". Defaults to "test".
        phases: dict from the first epoch of each phase of the training to its name. Defaults to None.

    Returns:
        dict from the title of each file to its `pathlib.Path`. The page comes first.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    result = evaluate_predictions(probabilities, labels, class_names)
    chosen = chosen_mistakes(labels, probabilities, images if isinstance(images, dict) else None, 3)
    predicted, confidence = np.argmax(probabilities, axis=-1), np.max(probabilities, axis=-1)
    wrong = int(np.sum(predicted != labels))
    pairs = confused_pairs(result)
    examples = "; ".join(
        f"true {class_names[labels[i]]}, predicted {class_names[predicted[i]]} ({100 * confidence[i]:.0f} %)" for i in chosen
    )
    pictures = {
        "Confusion matrix": (
            "confusion_matrix.png",
            lambda figure: draw_confusion(figure, result["confusion_matrix"], class_names),
            f"Matrix of {counted(len(class_names), 'true class', 'true classes')} by predicted class, {counted(len(labels), 'image')}, "
            + (
                f"{counted(wrong, 'mistake')}; most often true {pairs[0][0]}, predicted {pairs[0][1]} ({pairs[0][2]})"
                if pairs
                else "no mistake"
            ),
        ),
        "Worst mistakes": (
            "worst_mistakes.png",
            lambda figure: draw_mistakes(figure, images, labels, probabilities, class_names, split),
            f"{title_of_mistakes(wrong, len(labels), split)}: {examples}",
        ),
    }
    if history:
        curves = ("curves.png", lambda figure: draw_curves(figure, history, phases), describe_curves(history))
        pictures = {"Learning curves": curves} | pictures
    return write_page(folder, title, facts, pictures, more=more, after=class_tables(result, pairs))


def write_page(
    folder: str | pathlib.Path,
    title: str,
    facts: dict[str, str],
    pictures: dict[str, tuple],
    text: str = "",
    more: dict[str, tuple] | None = None,
    after: str = "",
) -> dict[str, pathlib.Path]:
    """Writes `report.html` into `folder`, and its pictures.

    Args:
        folder, title, facts, more: as in `write_report`.
        pictures: dict from headings to triples: file name, function that draws into a matplotlib `Figure`, alternative text.
        text: str. HTML before the pictures. Defaults to "".
        after: str. HTML after the pictures. Defaults to "".

    Returns:
        dict from the title of each file to its `pathlib.Path`.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("The report needs matplotlib: pip install matplotlib") from None

    folder, body = pathlib.Path(folder), [text]
    for heading, (name, draw, alternative) in pictures.items():
        drawn = {}
        for style, settings in STYLES.items():
            with matplotlib.rc_context(settings):
                figure, buffer = Figure(layout="constrained"), io.BytesIO()  # pyplot would open a window system and keep the figure
                draw(figure)
                figure.savefig(buffer, format="png")
                drawn[style] = buffer.getvalue()
        with replacing(folder / name) as temporary:
            temporary.write_bytes(drawn["light"])
        body.append(picture(heading, alternative, **drawn))
    for heading, (name, alternative) in (more or {}).items():
        body.append(picture(heading, alternative, (folder / name).read_bytes()))
    page = PAGE.format(title=html.escape(title), facts=facts_table(facts | {"Written": written()}), body="\n".join([*body, after]))
    with replacing(folder / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    names = {heading: name for heading, (name, *_) in (pictures | (more or {})).items()}
    return {"Report": folder / "report.html"} | {heading: folder / name for heading, name in names.items()}


def picture(heading: str, alternative: str, light: bytes, dark: bytes | None = None) -> str:
    """Returns the HTML of a heading and a picture, from PNG data for one or two color schemes."""
    source, dark_source = (png and f"data:image/png;base64,{base64.b64encode(png).decode()}" for png in (light, dark))
    width = int.from_bytes(light[16:20])  # in the header of a PNG
    image = f'<img alt="{html.escape(alternative)}" style="min-width: {0.62 * width:.0f}px; max-width: {width}px" src="{source}">'
    if dark_source:
        image = f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark_source}">{image}</picture>'
    return f'<h2>{html.escape(heading)}</h2>\n<div class="wide">{image}</div>'


def facts_table(facts: dict[str, str]):
    """Returns the HTML rows of the table at the top of the page."""
    notes = {name: f"<small>{html.escape(NOTES[name])}</small>" if name in NOTES else "" for name in facts}
    return "".join(f'<tr><th scope="row">{html.escape(k)}</th><td>{html.escape(v)}{notes[k]}</td></tr>\n' for k, v in facts.items())


def html_table(header: Any, rows: Any) -> str:
    """Returns an HTML table of strings with a header row. The first cell of each row is its header."""
    top = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
    lines = (
        f'<tr><th scope="row">{html.escape(first)}</th>' + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
        for first, *cells in rows
    )
    return f'<div class="wide"><table><tr>{top}</tr>\n' + "\n".join(lines) + "</table></div>"


def class_tables(result: dict[str, Any], pairs) -> str:
    """Returns the HTML tables of the most confused pairs of classes, and of the metrics of each class."""
    count = len(result["classes"])
    text = ""
    if pairs and count > 2:
        rows = [(true, predicted, str(number)) for true, predicted, number in pairs[:MOST_PAIRS]]
        text = "<h2>Most confused pairs</h2>\n" + html_table(("True class", "Predicted class", "Images"), rows)
    shown = list(enumerate(result["classes"]))
    if count > MOST_CLASSES:
        shown = sorted(shown, key=lambda item: (item[1]["f1"] is None, item[1]["f1"]))[:MOST_CLASSES]

    def percent(value):
        return "–" if value is None else f"{100 * value:.1f}\u00a0%"  # never broken from its number

    rows = [(row["name"], str(i), f"{row['images']:,}", *map(percent, (row["precision"], row["recall"], row["f1"]))) for i, row in shown]
    title = f"The {MOST_CLASSES} classes of the lowest F1, of {count:,}" if count > MOST_CLASSES else "Classes"
    header = ("Class", "Number", "Images", "Precision", "Recall", "F1")
    if count <= MOST_NAMES:
        header, rows = (header[0], *header[2:]), [(name, *rest) for name, _, *rest in rows]
    return f"{text}\n<h2>{title}</h2>\n{html_table(header, rows)}"


def confused_pairs(result: dict[str, Any]) -> list[tuple]:
    """Returns [(true class, predicted class, images)] of the misclassified images, the most frequent pair first."""
    matrix = np.array(result["confusion_matrix"])
    np.fill_diagonal(matrix, 0)
    true, predicted = np.nonzero(matrix)
    order = np.argsort(-matrix[true, predicted], kind="stable")[:MOST_PAIRS]
    names = [row["name"] for row in result["classes"]]
    return [(names[true[i]], names[predicted[i]], int(matrix[true[i], predicted[i]])) for i in order]


def describe_curves(history: list[dict]) -> str:
    """Returns a description of the learning curves, as alternative text."""
    first, last, best = history[0], history[-1], best_epoch(history)
    text = f"Training loss from {first['loss']:.3g} to {last['loss']:.3g} in {counted(len(history), 'epoch')}"
    if best:
        text += f"; validation accuracy is highest in epoch {best['epoch']}: {100 * best['val_accuracy']:.2f} %"
    return text


def written() -> str:
    """Returns the date and the versions of the packages, as text."""
    backend = keras.backend.backend()
    versions = {"keras_vit": __version__, "Keras": keras.__version__, backend: importlib.import_module(backend).__version__}
    versions["Python"] = platform.python_version()
    now = datetime.datetime.now().astimezone()
    return ", ".join([f"{now:%Y-%m-%d %H:%M %Z}", *(f"{name} {version}" for name, version in versions.items())])
