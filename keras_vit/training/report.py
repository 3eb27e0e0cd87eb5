"""The report of a run: learning curves, confusion matrix and worst mistakes, as pictures and as one page to pass on."""

import base64
import html
import pathlib

import numpy as np

from keras_vit.files import replacing

TRAIN, VALIDATION, WRONG = "#1f6fb4", "#e07b1a", "#b3261e"
STYLE = {
    "figure.facecolor": "white",
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e5e5e5",
    "legend.frameon": False,
}
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1000px; margin: 2rem auto; padding: 0 1rem }}
h1 {{ font-size: 1.6rem }} h2 {{ font-size: 1.15rem; margin-top: 2.5rem }} img {{ max-width: 100%; height: auto }}
td {{ padding: .15rem 2rem .15rem 0; vertical-align: top }} td:last-child {{ font-variant-numeric: tabular-nums }}
</style>
<h1>{title}</h1>
<table>{facts}</table>
{pictures}
</html>
"""


def write_report(folder, title, facts, history, images, labels, probabilities, class_names, more=None):
    """Writes `curves.png`, `confusion_matrix.png`, `worst_mistakes.png` and `report.html`, which holds them, into `folder`.

    Args:
        folder: str or path-like of a folder that exists.
        title: str. The heading of the page.
        facts: dict from str to str. The table at the top of the page.
        history: list of dicts, one an epoch: `epoch`, `loss`, `accuracy`, `val_loss`, `val_accuracy`. None: there are no curves.
        images: array `(n, rows, columns, 3)` with values in 0..255; or a dict with those of its rows that are to be shown.
        labels: int array `(n,)`. The true classes.
        probabilities: array `(n, classes)`. What the model says.
        class_names: sequence of str.
        more: dict from headings to the paths of further pictures in `folder`, for the page alone.

    Returns:
        dict from str to `pathlib.Path`: what each file shows, and where it is. The page comes first.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    predicted = np.argmax(probabilities, axis=-1)
    pictures = {
        "Learning curves": ("curves.png", lambda figure: draw_curves(figure, history)),
        "Confusion matrix": ("confusion_matrix.png", lambda figure: draw_confusion(figure, labels, predicted, class_names)),
        "Worst mistakes": ("worst_mistakes.png", lambda figure: draw_mistakes(figure, images, labels, probabilities, class_names)),
    }
    if history is None:
        del pictures["Learning curves"]
    return write_page(folder, title, facts, pictures, more=more)


def write_page(folder, title, facts, pictures, text="", more=None):
    """Draws pictures into `folder`, and writes `report.html`, which holds them.

    Args:
        folder, title, facts, more: as in `write_report`.
        pictures: dict from headings to pairs: a file name, and the function that draws it into a matplotlib `Figure`.
        text: str. HTML that stands before the pictures.

    Returns:
        dict from str to `pathlib.Path`, as `write_report`.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("The report needs matplotlib: pip install matplotlib") from None

    folder = pathlib.Path(folder)
    with matplotlib.rc_context(STYLE):
        for name, draw in pictures.values():
            figure = Figure(layout="constrained")  # not by pyplot: it would choose a window and keep the figure
            draw(figure)
            with replacing(folder / name) as temporary:
                figure.savefig(temporary)

    def embedded(heading, name):
        data = base64.b64encode((folder / name).read_bytes()).decode()
        return f'<h2>{heading}</h2>\n<img alt="{heading}" src="data:image/png;base64,{data}">'

    names = {heading: name for heading, (name, _) in pictures.items()}
    page = PAGE.format(
        title=html.escape(title),
        facts="".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>" for k, v in facts.items()),
        pictures="\n".join([text, *(embedded(heading, name) for heading, name in (names | (more or {})).items())]),
    )
    with replacing(folder / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return {"Report": folder / "report.html"} | {heading: folder / name for heading, name in names.items()}


def draw_curves(figure, history):
    """Draws loss and accuracy over the epochs."""
    figure.set_size_inches(9, 3.6)
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) == 1 else None  # one point makes no line
    panels = zip(figure.subplots(1, 2), ("loss", "accuracy"), ("Loss (nats)", "Accuracy (%)"), (1.0, 100.0))
    for axes, key, label, factor in panels:
        for prefix, name, color in (("", "training", TRAIN), ("val_", "validation", VALIDATION)):
            values = [row[prefix + key] * factor for row in history]
            axes.plot(epochs, values, color=color, label=name, linewidth=1.8, marker=marker)
        axes.set(xlabel="Epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(True)
    axes.legend(loc="lower right")


def draw_confusion(figure, labels, predicted, class_names):
    """Draws how often each true class (row) is taken for each class (column), colour by the share of the row."""
    count = len(class_names)
    matrix = np.zeros((count, count), int)
    np.add.at(matrix, (labels, predicted), 1)
    shares = 100.0 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(max(4.5, 0.55 * count), 12.0)
    figure.set_size_inches(side + 1.2, side)
    axes = figure.subplots()
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(shown, ax=axes, label="Share of the true class (%)", shrink=0.8)
    axes.set(xlabel="Predicted class", ylabel="True class")
    if count <= 30:  # beyond, neither names nor numbers could be read
        axes.set_xticks(range(count), class_names, rotation=90 if max(map(len, class_names)) > 3 else 0)
        axes.set_yticks(range(count), class_names)
        for row, column in zip(*np.nonzero(matrix)):
            ink = "white" if shares[row, column] > 55 else WRONG if row != column else "black"
            axes.text(column, row, matrix[row, column], ha="center", va="center", color=ink, fontsize=10)


def draw_mistakes(figure, images, labels, probabilities, class_names, most=24):
    """Draws the images whose wrong class the model was surest of; without a mistake, those it was least sure of."""
    predicted, confidence = np.argmax(probabilities, axis=-1), np.max(probabilities, axis=-1)
    wrong = np.flatnonzero(predicted != labels)
    chosen = wrong[np.argsort(-confidence[wrong])] if len(wrong) else np.argsort(confidence)
    chosen = [i for i in chosen if not isinstance(images, dict) or i in images][:most]
    columns = min(8, max(len(chosen), 4))
    rows = -(-len(chosen) // columns)
    figure.set_size_inches(1.35 * columns, 1.75 * rows + 0.5)
    figure.suptitle(f"{len(wrong)} of {len(labels)} images are mistaken" if len(wrong) else "No mistakes; the least certain images")
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, i in zip(figure.axes, chosen):
        axes.imshow(np.clip(images[i], 0, 255).astype("uint8"))
        taken = f"taken for {class_names[predicted[i]]}" if len(wrong) else "recognised"
        axes.set_title(
            f"{class_names[labels[i]]}\n{taken}, {100 * confidence[i]:.0f} %", fontsize=9, color=WRONG if len(wrong) else "black"
        )
