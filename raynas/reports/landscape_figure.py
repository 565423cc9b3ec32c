"""The figure of loss surfaces and gradient variances."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

from raynas.reports.figures import empty_figure

_LEVELS = 20  # of a surface
_WORST = 1e6  # losses beyond it, and those that are no numbers, are drawn like it


def landscape_figure(table: pd.DataFrame) -> Figure:
    """Draw the loss around every network, one row for each, and their gradient variances.

    Surfaces of early epochs stand left of that of the last; all have one scale of colors. In the
    last column is the variance of the gradient along the first direction.

    Args:
        table: as `raynas.drivers.landscapes.landscapes`.
    """
    names = list(dict.fromkeys(table["network"]))
    epochs = {name: sorted(set(rows["epoch"])) for name, rows in table.groupby("network")}
    columns = max(map(len, epochs.values()))
    figure = empty_figure(3.4 * (columns + 1), 3 * len(names))
    panels = figure.subplots(len(names), columns + 1, squeeze=False)
    heights = np.log10(_finite(table["loss"].dropna().to_numpy()))
    levels = np.linspace(heights.min(), heights.max() + 1e-9, _LEVELS)
    filled = None
    for row, name in zip(panels, names, strict=True):
        for axes in row[: columns - len(epochs[name])]:
            axes.set_axis_off()
        for axes, epoch in zip(row[columns - len(epochs[name]) :], epochs[name], strict=False):
            mine = table[(table["network"] == name) & (table["epoch"] == epoch)]
            grid = mine[mine["accuracy"].notna()].pivot(index="y", columns="x", values="loss")
            filled = axes.contourf(
                grid.columns, grid.index, np.log10(_finite(grid.to_numpy())), levels
            )
            evaluation = mine["evaluation"].iloc[0]
            axes.set_title(f"{name} (#{evaluation}), epoch {epoch}", fontsize="small")
            axes.set_aspect("equal")
            _variance(row[-1], mine, f"epoch {epoch}")
        row[-1].legend(frameon=False, fontsize="x-small")
        row[-1].set_title(f"{name}: variance of the gradient", fontsize="small")
        row[-1].set_xlabel("along direction 1", fontsize="small")
    shared = panels[0][-1]
    for row in panels[1:]:
        row[-1].sharey(shared)
    shared.yaxis.set_major_locator(LogLocator(numticks=6))
    if filled is not None:
        figure.colorbar(filled, ax=panels[:, :-1], label="log10 of the test loss", format="%.1f")
    return figure


def _variance(axes: Axes, mine: pd.DataFrame, label: str) -> None:
    spread = mine[mine["variance"].notna()]
    middle = spread[np.isclose(spread["y"], 0)]
    axes.semilogy(middle["x"], middle["variance"], marker=".", label=label)


def _finite(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(np.nan_to_num(losses, nan=_WORST, posinf=_WORST), 1e-6, _WORST)
