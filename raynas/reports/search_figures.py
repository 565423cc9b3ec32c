"""The figures of the course of a search: the best so far, and what accuracy costs in size."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raynas.record.events import Event, Finished, Session, Status
from raynas.record.history import Evaluation, History
from raynas.reports.figures import PANEL, empty_figure, finish, percent

#: {metric: what it is} of what accuracy is drawn against
SIZES = {
    "params": "parameters",
    "macs": "multiply-accumulates of one image",
    "latency_ms": "latency of one image in ms",
}
_FEWEST = 3  # sizes that differ, from which on there is something to see
_UNITS = ((2 * 86400, 86400, "days"), (2 * 3600, 3600, "hours"), (120, 60, "minutes"))


def search_figure(history: History) -> Figure:
    """Draw every evaluation's value in the order of asking, and the best so far."""
    figure = _best_so_far(history, history.evaluations, lambda e: e.index + 1, "evaluation")
    figure.axes[0].xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    return figure


def progress_figures(history: History, events: Iterable[Event]) -> Iterator[tuple[str, Figure]]:
    """Yield (what it shows, figure): best so far against evaluations, and against time."""
    yield "best so far, and every evaluation", search_figure(history)
    ended = ended_after(events)
    last = max(ended.values(), default=0.0)
    unit, name = next(((u, n) for least, u, n in _UNITS if last >= least), (1, "seconds"))
    if last:
        evaluations = sorted(history.finished.values(), key=lambda e: ended[e.index])
        label = f"{name} since the start"
        figure = _best_so_far(history, evaluations, lambda e: ended[e.index] / unit, label)
        figure.axes[0].set_xlim(left=0)
        yield "best so far against time", figure


def ended_after(events: Iterable[Event]) -> dict[int, float]:
    """Return {evaluation: seconds of the run after which it ended}.

    What passes between two drivers counts for none.
    """
    ended, seconds, before = {}, 0.0, None
    for event in events:
        if before is not None and not isinstance(event, Session):
            seconds += event.time - before
        before = event.time
        if isinstance(event, Finished):
            ended[event.evaluation] = seconds
    return ended


def size_figures(history: History, best: Evaluation) -> Iterator[tuple[str, Figure]]:
    """Yield (what it shows, figure): the values against parameters, MACs and latency."""
    for name, label in SIZES.items():
        figure = size_figure(history, best, name)
        if figure is not None:
            yield f"{history.metric} against {label}", figure


def size_figure(history: History, best: Evaluation, name: str) -> Figure | None:
    """Draw the values of those that got as far as the best against a size; None where all are same.

    Args:
        history: of the run.
        best: the evaluation that was chosen.
        name: one of `SIZES`.
    """
    scale = percent(history.metric)
    points = {
        e.index: (e.history[-1][name], scale * e.value)
        for e in history.evaluations
        if e.epochs == best.epochs and math.isfinite(e.value) and name in e.history[-1]
    }
    if len({size for size, _ in points.values()}) < _FEWEST:
        return None
    figure = empty_figure(*PANEL)
    axes = figure.subplots()
    sizes, values = zip(*points.values(), strict=True)
    axes.scatter(sizes, values, s=18, color="tab:blue", alpha=0.7)
    front = pareto(list(points.values()))
    axes.step(*zip(*front, strict=True), where="post", color="tab:gray", lw=1,
              label="no smaller one is better")  # fmt: skip
    if best.index in points:
        size, value = points[best.index]
        axes.scatter(size, value, s=45, color="tab:orange", label="winner", zorder=3)
    axes.set_xlabel(SIZES[name])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    finish(axes, history.metric)
    return figure


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the (size, value) than which none is both at most as large and at least as good."""
    front: list[tuple[float, float]] = []
    for size, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or value > front[-1][1]:
            front.append((size, value))
    return front


def _best_so_far(
    history: History, evaluations: Sequence[Evaluation], place: Callable[[Evaluation], float],
    label: str,
) -> Figure:  # fmt: skip
    """Draw the values of evaluations, in their order, and the best of those before each."""
    figure = empty_figure(*PANEL)
    axes = figure.subplots()
    scale = percent(history.metric)
    for status, color in ((Status.COMPLETED, "tab:blue"), (Status.STOPPED, "tab:gray")):
        mine = [e for e in evaluations if e.status is status and e.epochs]
        if mine:
            axes.scatter(
                [place(e) for e in mine], [scale * e.value for e in mine],
                s=16, color=color, alpha=0.8, label=status.value,
            )  # fmt: skip
    running, best = [], (0, -math.inf)
    for evaluation in evaluations:
        if math.isfinite(evaluation.value):
            best = max(best, evaluation.rank)
        running.append(scale * best[1] if best[0] else math.nan)
    axes.step([place(e) for e in evaluations], running, where="post", color="tab:orange",
              label="best so far")  # fmt: skip
    axes.set_xlabel(label)
    finish(axes, history.metric)
    return figure
