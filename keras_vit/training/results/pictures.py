"""Draws the pictures of a report into matplotlib figures: learning curves, confusion matrix, worst mistakes."""

from typing import Any

import numpy as np

COMMON = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.framealpha": 0.9,
    "text.parse_math": False,  # a class may be called "$1 to $5"
}


def _style(ground, ink, grid, colors, cmap):
    inks = {name: ink for name in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")}
    grounds = {name: ground for name in ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.edgecolor")}
    return COMMON | inks | grounds | {"grid.color": grid, "image.cmap": cmap, "axes.prop_cycle": f"cycler('color', {colors})"}


# The report shows the pictures in the reader's color scheme. The PNG files are the light ones.
STYLES = {
    "light": _style("white", "#222222", "#e5e5e5", ["#1f6fb4", "#c75f00", "#767676"], "Blues"),
    "dark": _style("#181818", "#dddddd", "#3a3a3a", ["#5aaef2", "#ff9f4a", "#9a9a9a"], "Blues_r"),
}
TITLE_POINTS = 9.5
MOST_NAMES = 30  # classes whose names and counts fit into a confusion matrix
PANELS = (("loss", "Loss (nats)", 1.0), ("accuracy", "Accuracy (%)", 100.0))
SERIES = (("", "training", "o", "-"), ("val_", "validation", "s", "--"))


def best_epoch(history: list[dict]) -> dict | None:
    """Returns the first row with the highest validation accuracy, or None if there is no validation accuracy."""
    rows = [row for row in history if "val_accuracy" in row]
    return max(rows, key=lambda row: row["val_accuracy"]) if rows else None


def draw_curves(figure: Any, history: list[dict], phases: dict[int, str] | None = None) -> None:
    """Draws loss and accuracy over the epochs.

    Args:
        figure: matplotlib `Figure`.
        history: list of dicts, one per epoch, as in `write_report`.
        phases: dict from the first epoch of a phase to its name, or None.
    """
    figure.set_size_inches(9, 3.9)
    figure.get_layout_engine().set(wspace=0.08)
    epochs, best = [row["epoch"] for row in history], best_epoch(history)
    panels = [panel for panel in PANELS if panel[0] in history[0]]
    for axes, (key, label, factor) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels):
        for number, (prefix, name, marker, line) in enumerate(SERIES):
            if prefix + key in history[0]:
                values = [row[prefix + key] * factor for row in history]
                every = max(1, len(epochs) // 12)
                axes.plot(epochs, values, line, color=f"C{number}", label=name, linewidth=1.8, marker=marker, markersize=5, markevery=every)
        if best:
            axes.axvline(best["epoch"], color="C2", linestyle=":", linewidth=1.4, label=f"best epoch: {best['epoch']}")
        for first, name in (phases or {}).items():
            if first > epochs[0]:
                axes.axvline(first - 0.5, color="C2", linewidth=1.0)
            axes.annotate(name, (max(first - 0.5, epochs[0]), 1.0), xycoords=("data", "axes fraction"), xytext=(3, 2), fontsize=9,
                          textcoords="offset points")  # fmt: skip
        axes.set(xlabel="Epoch", ylabel=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(True)
        axes.legend(fontsize=10)


def draw_confusion(figure: Any, matrix: np.ndarray, class_names: tuple[str, ...] | list[str]) -> None:
    """Draws a confusion matrix: rows are true classes, columns predicted ones. The color shows the share of the row.

    With more than 30 classes, names and counts would not be legible: the axes show class numbers instead.
    """
    matrix, count = np.asarray(matrix), len(class_names)
    shares = 100.0 * matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = 8.0 if count > MOST_NAMES else max(4.0, 0.42 * count)
    figure.set_size_inches(side + 2.2, side + 0.8)
    axes = figure.subplots()
    shown = axes.imshow(shares, vmin=0, vmax=100, interpolation="nearest")
    figure.colorbar(shown, ax=axes, label="Share of the true class (%)", shrink=0.8)
    if count > MOST_NAMES:
        axes.set(xlabel="Predicted class (number)", ylabel="True class (number)")
        return
    axes.set(xlabel="Predicted class", ylabel="True class")
    names = [name if len(name) <= 28 else f"{name[:16]}…{name[-11:]}" for name in map(str, class_names)]
    axes.set_xticks(range(count), names, rotation=0 if max(map(len, names)) <= 3 else 90)
    axes.set_yticks(range(count), names)
    for row, column in zip(*np.nonzero(matrix)):
        red, green, blue, _ = shown.to_rgba(shares[row, column])
        ink = "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45 else "white"
        axes.text(column, row, matrix[row, column], ha="center", va="center", color=ink, fontsize=9)


def chosen_mistakes(labels: Any, probabilities: Any, images: Any = None, most: int = 24) -> list[int]:
    """Returns the rows to show: misclassified images, most confident first. Without any, the least confident images.

    Args:
        labels: int array `(n,)`. The true classes.
        probabilities: array `(n, classes)`.
        images: container of the rows whose images are available. Defaults to None, all.
        most: int. Maximum number of rows. Defaults to 24.
    """
    predicted, confidence = np.argmax(probabilities, axis=-1), np.max(probabilities, axis=-1)
    wrong = np.flatnonzero(predicted != labels)
    order = wrong[np.argsort(-confidence[wrong])] if len(wrong) else np.argsort(confidence)
    return [int(i) for i in order if images is None or i in images][:most]


def draw_mistakes(
    figure: Any, images: Any, labels: Any, probabilities: Any, class_names: tuple[str, ...] | list[str], split: str = "test"
) -> None:
    """Draws the misclassified images with the highest confidence. Without any, those with the lowest confidence.

    Args:
        figure: matplotlib `Figure`.
        images: array `(n, rows, columns, 3)` with values in 0..255, or a dict from row numbers to images.
        labels: int array `(n,)`. The true classes.
        probabilities: array `(n, classes)`.
        class_names: sequence of str.
        split: "test", "validation", "train" or "all". Split of the images, for the title. Defaults to "test".
    """
    predicted, confidence = np.argmax(probabilities, axis=-1), np.max(probabilities, axis=-1)
    wrong = int(np.sum(predicted != labels))
    chosen = chosen_mistakes(labels, probabilities, images if isinstance(images, dict) else None)
    columns = min(4, max(len(chosen), 3))
    rows = max(1, -(-len(chosen) // columns))
    width = 2.4
    titles = [
        f"{wrapped(f'true {class_names[labels[i]]}', width)}\n"
        f"{wrapped(f'predicted {class_names[predicted[i]]}', width, f', {100 * confidence[i]:.0f} %')}"
        for i in chosen
    ]
    lines = max((title.count("\n") + 1 for title in titles), default=2)
    figure.set_size_inches(width * columns, (1.8 + 0.19 * lines) * rows + 0.5)
    figure.suptitle(title_of_mistakes(wrong, len(labels), split))
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.axis("off")
    for axes, i, title in zip(figure.axes, chosen, titles):
        axes.imshow(np.clip(images[i], 0, 255).astype("uint8"), interpolation="nearest" if len(images[i]) < 100 else "antialiased")
        axes.set_title(title, fontsize=TITLE_POINTS)


def title_of_mistakes(wrong: int, count: int, split: str) -> str:
    """Returns a title such as "3 of 359 test images misclassified"."""
    images = {"train": "training images", "all": "images"}.get(split, f"{split} images")
    if wrong:
        return f"{wrong:,} of {count:,} {images} misclassified"
    return f"All {count:,} {images} are classified correctly; these are the least certain"


def wrapped(text: str, width: float, end: str = "") -> str:
    """Wraps a title of an image into at most two lines of `width` inches. Longer text is cut before `end`."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    def fits(line):
        points, *_ = text_to_path.get_text_width_height_descent(line, FontProperties(size=TITLE_POINTS), False)
        return points <= 72 * width - 14  # the layout's padding

    def cut(line, end):
        while line and not fits(line + "…" + end):
            line = line[:-1]
        return line + "…" + end

    words, lines = text.split(), [""]
    for number, word in enumerate(words, start=1):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and not fits(longer + end * (number == len(words))):
            lines.append(word)
        else:
            lines[-1] = longer
    lines = [*lines[:1], " ".join(lines[1:])] if len(lines) > 1 else lines
    ends = [""] * (len(lines) - 1) + [end]
    return "\n".join(line + end if fits(line + end) else cut(line, end) for line, end in zip(lines, ends))
