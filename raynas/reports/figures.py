"""The figures of a report; `rendering.svg` and `rendering.png` make pages and files of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from raynas.record.events import Searched, Status
from raynas.record.history import Evaluation, History
from raynas.understanding.flatness import Flatness, collected
from search_spaces import Decision, SearchSpace
from search_spaces.weight_sharing.space import sharing
from trials.data import Data

_BLUE = (0.12, 0.47, 0.71)
#: width and height of a figure that a phone shows whole, in inches
PANEL = (4.6, 3.1)
_SHADES = LinearSegmentedColormap.from_list("shades", [(*_BLUE, 0.03), (*_BLUE, 0.75)])
_MAX_SHOWN = 40  # members in a heat map
_MAX_PANELS = 30  # slots with a panel of their own
_PANELS = (
    ("test_accuracy", "test accuracy in %", 100.0),
    ("test_loss", "test loss", 1.0),
    ("test_ece", "calibration error (test) in %", 100.0),
    ("latency_ms", "latency of one image in ms", 1.0),
)


def flatness_figure(history: History, space: SearchSpace, best: Evaluation) -> Figure | None:
    """Draw every evaluation's accuracy against its neighborhood's; None if none has any."""
    statuses = (Status.COMPLETED, Status.STOPPED)
    ended = [e for e in history.evaluations if e.status in statuses and e.epochs]
    values = ((e.index, space.from_string(e.notation), e.value) for e in ended)
    neighborhoods = collected(space, values)
    flat = {e.index: f for e in ended if (f := neighborhoods[e.index]) is not None}
    if not flat:
        return None
    figure = empty_figure(*PANEL)
    axes = figure.subplots()
    _scatter(axes, list(flat.values()), "tab:blue", "evaluated")
    if best.index in flat:
        _scatter(axes, [flat[best.index]], "tab:orange", "chosen")
    axes.set_xlabel("mean of the neighbors below it, in percentage points")
    finish(axes, history.metric)
    return figure


def curves_figure(curves: pd.DataFrame, ensemble: Mapping[str, Any]) -> Figure:
    """Draw what ensembles are worth and cost against the number of members, for every rule.

    Args:
        curves: as `Ensemble.curves`.
        ensemble: as `ensemble.json`; it is marked.
    """
    figure = empty_figure(9, 6.4)
    for axes, (column, label, scale) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for rule, points in curves.groupby("rule", sort=False):
            values = scale * points[column]
            axes.plot(points["members"], values, marker=".", label=str(rule))
        everything = scale * ensemble["unpruned"][column]
        axes.axhline(everything, color="black", lw=0.8, ls="--", label="all candidates")
        chosen = ensemble["metrics"]
        axes.scatter(
            [chosen["members"]], [scale * chosen[column]], marker="*", s=120, color="black",
            zorder=3, label="the ensemble",
        )  # fmt: skip
        axes.set_xlabel("members")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize="small")
    return figure


def diversity_figure(diversity: pd.DataFrame, kept: Iterable[int]) -> Figure:
    """Draw disagreement and VI of every pair as heat maps, the kept members first.

    Args:
        diversity: as `Ensemble.diversity`.
        kept: the evaluations that are members of the ensemble.
    """
    chosen = list(kept)
    everything = set(diversity["first"]) | set(diversity["second"])
    names = (chosen + sorted(everything - set(chosen)))[:_MAX_SHOWN]
    figure = empty_figure(9, 4.4)
    pairs = diversity.set_index(["first", "second"])
    titles = {"disagreement": "disagreement", "vi": "variation of information"}
    for axes, (measure, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        values = pairs[measure].to_dict()
        grid = [[values.get((min(a, b), max(a, b)), 0.0) for b in names] for a in names]
        image = axes.imshow(grid, cmap="viridis")
        figure.colorbar(image, ax=axes, shrink=0.8)
        if len(chosen) < len(names):
            axes.axhline(len(chosen) - 0.5, color="white", lw=1)
            axes.axvline(len(chosen) - 0.5, color="white", lw=1)
        ticks = range(len(names))
        axes.set_xticks(ticks, [f"#{name}" for name in names], rotation=90, fontsize="x-small")
        axes.set_yticks(ticks, [f"#{name}" for name in names], fontsize="x-small")
        axes.set_title(title, fontsize="medium")
    return figure


def mixed_slots(space: SearchSpace, data: Data) -> Sequence[Decision]:
    """Return what a differentiable search mixes: the slots of the supernet of a space."""
    supernet = sharing(space).differentiable_supernet(data.input_shape, data.num_classes)
    return supernet.slots


def mixtures_figure(epochs: Sequence[Searched], slots: Sequence[Decision]) -> Figure:
    """Draw the weights of the choices of every slot over the epochs of a differentiable search.

    Each slot has a panel; where they are too many, a row whose color is its strongest choice,
    the paler the weaker that is.

    Args:
        epochs: of one search.
        slots: of its supernet, in the order of the mixtures.
    """
    names = list(dict.fromkeys(str(choice) for slot in slots for choice in slot.choices))
    table = colormaps["tab10" if len(names) <= 10 else "tab20"]
    colors = {name: to_rgba(table(i % table.N)) for i, name in enumerate(names)}
    if len(slots) <= _MAX_PANELS:
        figure = _panels(epochs, slots, colors)
    else:
        figure = _strongest(epochs, slots, colors)
    figure.legend(
        handles=[Patch(color=color, label=name) for name, color in colors.items()],
        loc="outside upper center", ncols=5, frameon=False, fontsize="small",
    )  # fmt: skip
    return figure


def _panels(
    epochs: Sequence[Searched], slots: Sequence[Decision], colors: Mapping[str, Any]
) -> Figure:
    """Draw the weights of each slot as layers that add up to 1, in a panel of its own."""
    columns = min(len(slots), 4 if len(slots) <= 12 else 7)
    rows = math.ceil(len(slots) / columns)
    figure = empty_figure(9, 1 + 1.5 * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    panels[0].xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    numbers = [event.epoch for event in epochs]
    edges = [numbers[0] - 0.5, *(n + 0.5 for n in numbers)]  # an epoch is as wide as another
    for index, (axes, slot) in enumerate(zip(panels, slots, strict=False)):
        below = [0.0] * len(numbers)
        for choice, weights in zip(
            slot.choices, zip(*(e.mixture[index] for e in epochs), strict=True), strict=True
        ):
            above = [x + y for x, y in zip(below, weights, strict=True)]
            axes.stairs(above, edges, baseline=below, fill=True, color=colors[str(choice)])
            below = above
        axes.set_title(slot.name, fontsize="x-small")
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, 1)
        axes.tick_params(labelsize="x-small")
    for axes in panels[len(slots) :]:
        axes.set_axis_off()
    figure.supxlabel("epoch", fontsize="small")
    figure.supylabel("weight", fontsize="small")
    return figure


def _strongest(
    epochs: Sequence[Searched], slots: Sequence[Decision], colors: Mapping[str, Any]
) -> Figure:
    """Draw the strongest choice of each slot as a row of colors, pale where it is weak."""
    figure = empty_figure(9, 1.5 + 0.12 * len(slots))
    axes = figure.subplots()
    grid = []
    for index, slot in enumerate(slots):
        weights = [event.mixture[index] for event in epochs]
        chosen = [max(range(len(w)), key=w.__getitem__) for w in weights]
        grid.append(
            [
                (*colors[str(slot.choices[c])][:3], w[c])
                for c, w in zip(chosen, weights, strict=True)
            ]
        )
    extent = (epochs[0].epoch - 0.5, epochs[-1].epoch + 0.5, len(slots) - 0.5, -0.5)
    axes.imshow(grid, aspect="auto", interpolation="nearest", extent=extent)
    axes.set_yticks(range(len(slots)), [slot.name for slot in slots], fontsize="xx-small")
    axes.set_xlabel("epoch")
    return figure


def empty_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches, that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _scatter(axes: Axes, flat: list[Flatness], color: str, label: str) -> None:
    axes.scatter(
        [100 * f.drop for f in flat],
        [100 * f.own for f in flat],
        s=[12 + 2 * f.neighbors for f in flat],
        color=color,
        label=label,
        alpha=0.7,
    )


def finish(axes: Axes, metric: str) -> None:
    """Name the axis of values, and add the legend where something has a name."""
    name = metric.replace("val_", "validation ").replace("_", " ")
    axes.set_ylabel(f"{name} in %" if name.endswith("accuracy") else name)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)


def percent(metric: str) -> int:
    """Return what values of a metric are multiplied by where they are drawn."""
    return 100 if metric.endswith("accuracy") else 1


def shade(axes: Axes, grid: Sequence[Sequence[float]], highest: float) -> None:
    """Draw a grid as cells, the fuller the more; what is behind shows, so that text can be read.

    Args:
        axes: where column and row i have their middle at i.
        grid: rows of values from 0, or NaN for none.
        highest: the value of the fullest.
    """
    image = axes.pcolormesh(
        range(len(grid[0])), range(len(grid)), np.ma.masked_invalid(grid), shading="nearest",
        vmin=0, vmax=highest or 1, cmap=_SHADES,
    )  # fmt: skip
    image.set_edgecolor("none")
    axes.set_xlim(-0.5, len(grid[0]) - 0.5)
    axes.set_ylim(-0.5, len(grid) - 0.5)
