"""What a report shows of the winner: its graph, how it learned, what it takes for what."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from raynas.record.folder import RunFolder
from raynas.record.history import Evaluation, History
from raynas.record.winner_predictions import predictions_on_test
from raynas.reports.drawing import drawing
from raynas.reports.figures import PANEL, empty_figure, finish, percent, shade
from raynas.reports.rendering import render, svg
from raynas.understanding.findings import attempted
from search_spaces import SearchSpace
from trials.data import Data

Counts = NDArray[np.int64]  # images, class by class

_CLASSES = 25  # more make a matrix that nobody can read
_COUNTED = 14  # classes up to which the matrix says numbers
_LETTERS = 12  # of the name of a class beside the matrix
_CURVES = 200  # of other evaluations
_PAIRS = 5  # confusions that are told


def section(
    folder: RunFolder, space: SearchSpace, history: History, best: Evaluation, data: Data
) -> Markup:
    """Return the section about the winner, in HTML; a part that cannot be made is not there.

    Args:
        folder: of the run.
        space: of its architectures.
        history: of the run.
        best: the evaluation that was chosen.
        data: of the run.
    """
    problems: dict[str, str] = {}
    drawn = attempted("drawing", problems, lambda: drawing(space, space.from_string(best.notation)))
    predicted = None
    if best.index in history.retrained:
        predicted = attempted(
            "predictions", problems, partial(predictions_on_test, folder, space, data)
        )
    counts = None if predicted is None else confusion(predicted, data.num_classes)
    return render(
        "winner",
        notation=best.notation,
        drawing=drawn,
        curves=[svg(figure, title) for title, figure in _curves(history, best)],
        matrix=None if counts is None else _matrix(counts, data.class_names),
        confused=[] if counts is None else confused(counts, data.class_names),
        looked_at=0 if predicted is None else len(predicted),
        images=len(data.test),
        problems=problems,
    )


def confusion(predicted: pd.DataFrame, classes: int) -> Counts:
    """Return how many images of each class (row) were taken for which (column).

    Args:
        predicted: `label` and `predicted` of every image.
        classes: their number.
    """
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (predicted["label"], predicted["predicted"]), 1)
    return counts


def confused(counts: Counts, names: Sequence[str]) -> list[str]:
    """Return the most frequent confusions in words, the worst first."""
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:_PAIRS]
    pairs = [divmod(int(place), len(names)) for place in order]
    return [
        f"{names[a]} for {names[b]}: {wrong[a, b]} of {counts[a].sum()}"
        for a, b in pairs
        if wrong[a, b]
    ]


def _matrix(counts: Counts, names: Sequence[str]) -> Markup | None:
    """Draw the confusion matrix, shaded by the share of the images of a class."""
    classes = len(names)
    if classes > _CLASSES:
        return None
    figure = empty_figure(4.6, 4.2)
    axes = figure.subplots()
    shade(axes, (counts / np.maximum(1, counts.sum(1, keepdims=True))).tolist(), 1.0)
    axes.invert_yaxis()
    for (row, column), count in np.ndenumerate(counts):
        if count and classes <= _COUNTED:
            axes.text(column, row, str(count), ha="center", va="center", fontsize="x-small")
    short = [n if len(n) <= _LETTERS else f"{n[: _LETTERS - 1]}…" for n in map(str, names)]
    upright = max(map(len, short)) <= 2
    axes.set_xticks(range(classes), short, rotation=0 if upright else 90, fontsize="small")
    axes.set_yticks(range(classes), short, fontsize="small")
    axes.set_xlabel("taken for")
    axes.set_ylabel("is")
    axes.set_aspect("equal")
    return svg(figure, "confusion matrix of the test images")


def _curves(history: History, best: Evaluation) -> Iterator[tuple[str, Figure]]:
    """Yield (what it shows, figure): the search's learning curves, and those of full training."""
    metric, scale = history.metric, percent(history.metric)
    if best.epochs > 1:
        figure = empty_figure(*PANEL)
        axes = figure.subplots()
        others = [e for e in history.evaluations if e is not best and e.epochs][:_CURVES]
        for number, other in enumerate(others):
            axes.plot(
                range(1, other.epochs + 1), [scale * m[metric] for m in other.history],
                color="tab:gray", lw=0.8, alpha=0.6, label=None if number else "others",
            )  # fmt: skip
        values = [scale * metrics[metric] for metrics in best.history]
        axes.plot(
            range(1, best.epochs + 1), values, color="tab:orange", marker=".", lw=2, label="winner"
        )
        _epochs("in the search", figure)
        finish(axes, metric)
        yield "learning curves in the search", figure
    stages = {
        "full training, validation": (history.selecting.get(best.index, []), "val_accuracy"),
        "retraining, test": (history.retraining.get(best.index, []), "test_accuracy"),
    }
    told = {
        label: [100 * metrics[name] for metrics in epochs]
        for label, (epochs, name) in stages.items()
        if len(epochs) > 1 and all(name in metrics for metrics in epochs)
    }
    if told:
        figure = empty_figure(*PANEL)
        axes = figure.subplots()
        for (label, values), color in zip(told.items(), ("tab:blue", "tab:orange"), strict=False):
            axes.plot(range(1, len(values) + 1), values, marker=".", color=color, label=label)
        _epochs("trained in full", figure)
        finish(axes, "accuracy")
        yield "learning curves of the winner's full training", figure


def _epochs(title: str, figure: Figure) -> None:
    """Name the axis of epochs, in whole numbers."""
    axes = figure.axes[0]
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
