"""The report of a search: the best trials, the importance of each parameter, and the learning curves."""

import json
import pathlib
from typing import Any

import numpy as np

from keras_vit.messages import counted
from keras_vit.training.results.report import html_table, write_page
from keras_vit.tuning.study import STUDY, read_trials

MOST_ROWS = 10
FEWEST = 6  # with fewer trials, importance is not estimated


def write_report(folder: str | pathlib.Path) -> dict[str, pathlib.Path]:
    """Writes `report.html` and its pictures into the folder of a search. The search may be unfinished.

    The importance is the permutation importance of a random forest that is fitted to the trials, as a share of the sum over all
    parameters. The number of epochs is a feature, too, because Hyperband trains promising trials longer. A dozen trials are enough to
    identify the first one or two parameters, but no more.

    Args:
        folder: str or path-like. The folder of the search.

    Returns:
        dict from the title of each file to its `pathlib.Path`.

    Raises:
        ValueError: if no trial is completed.
        ImportError: if matplotlib is not installed.
    """
    folder = pathlib.Path(folder)
    trials = read_trials(folder)
    done = [trial for trial in trials if trial.score is not None]
    failed = [trial for trial in trials if trial.status == "FAILED"]
    if not done:
        raise ValueError(f"A report needs a completed trial. Received: {folder}")
    study = json.loads((folder / STUDY).read_text(encoding="utf-8"))
    columns = {name: [trial.values[name] for trial in done] for name in study["space"]}
    columns |= {"epochs": [len(trial.history) for trial in done]}
    columns = {name: values for name, values in columns.items() if len(set(values)) > 1}
    scores = np.array([100.0 * trial.score for trial in done])
    facts = {
        "Best": f"{scores[0]:.2f} % of the validation images, trial {done[0].number}",
        "Trials": f"{len(done)} completed, {len(failed)} failed, {len(trials) - len(done) - len(failed)} unfinished",
        "Tuner": study["tuner"],
        "Data": f"{study.get('data', 'arrays')}, {counted(study['images'], 'training image')}, "
        + counted(len(study["class_names"]), "class", "classes"),
    }
    best = f"trial {done[0].number} is the best with {scores[0]:.2f} %"
    curves = f"Validation accuracy by epoch of {counted(len(done), 'trial')}; {best}"
    pictures = {"Learning curves": ("curves.png", lambda figure: draw_curves(figure, done), curves)}
    if columns and len(done) > 1:
        lines = f"A line for each of {counted(len(done), 'trial')} through its values of {', '.join(columns)}, to its accuracy; {best}"
        picture = ("parallel_coordinates.png", lambda figure: draw_parallel(figure, columns, scores, study["space"]), lines)
        pictures = {"Parallel coordinates": picture} | pictures
    if columns and len(done) >= FEWEST and np.ptp(scores) > 0:
        shares = importance(columns, scores)
        bars = "Share of what all parameters explain: " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items())
        pictures["Importance of each parameter"] = ("importance.png", lambda figure: draw_importance(figure, shares), bars)
    text = "<h2>Best trials</h2>\n" + table(done[:MOST_ROWS], list(study["space"]))
    if failed:
        text += "<h2>Failed trials</h2>\n" + html_table(("Trial", "Reason"), [(trial.number, trial.reason) for trial in failed])
    return write_page(folder, f"Search in {folder.name}", facts, pictures, text)


def table(trials: list, names: list[str]) -> str:
    """Returns an HTML table with a column for each trial."""
    rows = [
        ("Validation accuracy", *(f"{100 * trial.score:.2f}\u00a0%" for trial in trials)),
        ("Epochs", *(str(len(trial.history)) for trial in trials)),
        *((name, *(shown(trial.values[name]) for trial in trials)) for name in names),
    ]
    return html_table(("Trial", *(trial.number for trial in trials)), rows)


def shown(value: Any) -> str:
    """Returns a value as text, a float with three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def ranks(values: list) -> tuple[np.ndarray, list]:
    """Returns the rank of each value, and the sorted distinct values. Strings come after numbers."""
    known = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    return np.array([known.index(value) for value in values]), known


def importance(columns: dict[str, list], scores: Any) -> dict[str, float]:
    """Returns the importance of each parameter as `{name: share}`, in descending order."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    features = np.stack([ranks(values)[0] for values in columns.values()], axis=-1)  # a tree uses the order only
    forest = RandomForestRegressor(200, random_state=0).fit(features, scores)
    costs = np.maximum(permutation_importance(forest, features, scores, n_repeats=20, random_state=0).importances_mean, 0.0)
    shares = costs / max(costs.sum(), 1e-12)
    return dict(sorted(zip(columns, shares.tolist()), key=lambda pair: -pair[1]))


def draw_importance(figure: Any, shares: dict[str, float]) -> None:
    """Draws a bar with the importance of each parameter."""
    figure.set_size_inches(9, 0.32 * len(shares) + 1.0)
    axes = figure.subplots()
    axes.barh(list(shares)[::-1], [100 * share for share in shares.values()][::-1], color="C0")
    axes.set(xlabel="Share of what all parameters explain (%)")
    axes.grid(True, axis="x")


def draw_curves(figure: Any, trials: list) -> None:
    """Draws the validation accuracy of each trial over its epochs, and highlights the best trial."""
    figure.set_size_inches(9, 4.2)
    axes = figure.subplots()
    for trial in reversed(trials):
        best = dict(color="C0", linewidth=2.4, marker="o", markersize=5, label=f"trial {trial.number}, the best")
        style = best if trial is trials[0] else dict(color="C2", alpha=0.6, marker="s", markersize=3)
        scores = [100 * row["val_accuracy"] for row in trial.history]
        axes.plot(range(1, len(scores) + 1), scores, **style)
    axes.set(xlabel="Epoch", ylabel="Validation accuracy (%)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(True)
    axes.legend(loc="lower right")


def draw_parallel(figure: Any, columns: dict[str, list], scores: np.ndarray, space: dict[str, Any]) -> None:
    """Draws parallel coordinates: a line for each trial, an axis for each parameter and the score. Better trials have stronger colors."""
    import matplotlib

    figure.set_size_inches(max(9, 1.0 * (len(columns) + 1)), 5.0)
    axes = figure.subplots()
    places, ticks, names = [], [], []
    for name, values in columns.items():
        row = space.get(name, ())
        place, marks = places_of(values, row)
        places.append(place)
        ticks.append(marks)
        names.append(f"{name} (log)" if isinstance(row, dict) and row.get("log") else name)
    low, high = scores.min(), scores.max()
    places.append((scores - low) / max(high - low, 1e-9))
    ticks.append([(0.0, f"{low:.1f}"), (1.0, f"{high:.1f}")])
    colors = matplotlib.colormaps[matplotlib.rcParams["image.cmap"]]
    # A little noise separates lines through the same value of a choice.
    noise = np.random.default_rng(0).uniform(-0.012, 0.012, (len(places), len(scores)))
    noise[-1] = 0.0
    for rank, order in enumerate(np.argsort(scores)):  # the best are drawn on top
        heights = [place[order] + noise[axis][order] for axis, place in enumerate(places)]
        color = colors(0.45 + 0.55 * places[-1][order])  # the faint end of the color map would be invisible
        axes.plot(heights, color=color, linewidth=2.8 if rank == len(scores) - 1 else 1.2, zorder=2)
    paper = dict(fc=matplotlib.rcParams["axes.facecolor"], ec="none", pad=1.2)
    for axis, marks in enumerate(ticks):
        axes.axvline(axis, color="C2", linewidth=0.8, zorder=1)
        for height, text in marks:
            axes.text(axis - 0.04, height, text, ha="right", va="center", fontsize=9, zorder=3, bbox=paper)
    axes.set_xticks(range(len(places)), [*names, "accuracy (%)"], rotation=30, ha="right")
    axes.set_yticks([])
    axes.set_xlim(-0.6, len(places) - 0.8)
    for spine in axes.spines.values():
        spine.set_visible(False)


def places_of(values: list, row: Any) -> tuple[Any, list]:
    """Returns the positions of values on an axis from 0 to 1, and its tick marks: the ends of a range, else every value."""
    if isinstance(row, dict):
        scale = np.log if row.get("log") else np.asarray
        low, high = row["low"], row["high"]
        return (scale(values) - scale(low)) / (scale(high) - scale(low)), [(0.0, shown(float(low))), (1.0, shown(float(high)))]
    place, known = ranks(values)
    heights = np.linspace(0.0, 1.0, len(known))
    return heights[place], [(height, shown(value)) for height, value in zip(heights, known)]
