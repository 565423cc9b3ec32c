"""The figures of what a run tells: widths and depths, convergence, cheap signals."""

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raynas.reports.figures import empty_figure, shade
from raynas.understanding.convergence import TRAINING_LOSS
from raynas.understanding.findings import Findings
from raynas.understanding.proxy_trust import ProxyTrust
from raynas.understanding.strata import JOINT

_PANELS = 9  # signals that are drawn, at most
_EPOCHS = 3  # of them early epochs
_BAND = 5  # architectures from which on an interval is drawn: of fewer it hides the curves
_AXES = {
    "width": "width of the normal cell (c: channels of a node)",
    "depth": "depth of the normal cell (edges)",
    "macs": "multiply-accumulates",
    "params": "parameters",
}


def figures(found: Findings, metric: str) -> dict[str, Figure]:
    """Return {name: figure} of what there is to draw: `topology`, `convergence`, `signals`.

    Args:
        found: what the run tells.
        metric: what the search maximized.
    """
    drawn = {}
    if found.bias is not None:
        drawn["topology"] = topology_figure(found.bias.steps, found.bias.given)
    if found.convergence is not None and not found.convergence.empty:
        drawn["convergence"] = convergence_figure(found.convergence)
    if found.trust is not None and not found.trust.signals.empty:
        drawn["signals"] = signals_figure(found.trust, metric)
    return drawn


def topology_figure(steps: pd.DataFrame, given: bool = False) -> Figure:
    """Draw shares of the space, of what was proposed, and of what survived, side by side.

    Where the cells have width and depth, as heat maps over both, the chosen one framed; else as
    bars over the classes of the first property.

    Args:
        steps: as `Bias.steps`.
        given: as `Bias.given`; the panel of what was proposed says so.
    """
    joint = JOINT in set(steps["of"])
    of = JOINT if joint else str(steps["of"].iloc[0])
    mine = steps[steps["of"] == of]
    panels = list(_distributions(mine, given))
    won = mine[(mine["step"] == "won") & (mine["count"] == 1)]["stratum"].tolist()
    if not joint:
        return _bars(of, panels, won)
    figure = empty_figure(3.2 * len(panels), 3.3)
    labels = {s: tuple(s.split("c, ")) for s in mine["stratum"].unique()}
    widths = sorted({float(width) for width, _ in labels.values()})
    depths = sorted({int(depth) for _, depth in labels.values()})
    highest = max(shares.max() for _, shares in panels)
    for axes, (title, shares) in zip(
        figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True
    ):
        grid = [[math.nan] * len(widths) for _ in depths]
        for stratum, share in shares.items():
            width, depth = labels[str(stratum)]
            row, column = depths.index(int(depth)), widths.index(float(width))
            grid[row][column] = share
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center",
                      fontsize="x-small")  # fmt: skip
            if stratum in won:
                axes.plot(column, row, "s", ms=17, mfc="none", mec="tab:orange", mew=2)
        shade(axes, grid, highest)
        axes.set_xticks(range(len(widths)), [f"{w:.3g}c" for w in widths], fontsize="small")
        axes.set_yticks(range(len(depths)), list(map(str, depths)), fontsize="small")
        axes.set_xlabel("width (c: channels of a node)", fontsize="small")
        axes.set_ylabel("depth (edges)", fontsize="small")
        axes.set_title(title, fontsize="small")
    figure.suptitle("normal cells: share in %; framed: the chosen one", fontsize="small")
    return figure


def convergence_figure(table: pd.DataFrame) -> Figure:
    """Draw the mean learning curves of strata with their 95 % intervals.

    Args:
        table: as `raynas.convergence`.
    """
    properties = list(dict.fromkeys(table["of"]))[:2]
    metrics = list(dict.fromkeys(table["metric"]))
    figure = empty_figure(4.5 * len(properties), 0.6 + 2.7 * len(metrics))
    grid = figure.subplots(len(metrics), len(properties), squeeze=False)
    for row, metric in zip(grid, metrics, strict=True):
        for axes, of in zip(row, properties, strict=True):
            _curves(axes, table[(table["of"] == of) & (table["metric"] == metric)], metric)
            axes.set_title(_AXES.get(of, of.replace("_", " ")), fontsize="small")
    figure.suptitle(
        f"mean of those still running, with its 95 % interval where n is at least {_BAND}; n: at"
        " the first epoch of a curve, at its last",
        fontsize="small",
    )
    return figure


def signals_figure(trusted: ProxyTrust, metric: str) -> Figure:
    """Draw the final accuracy against every signal, with its tau.

    Args:
        trusted: as `raynas.proxy_trust`; of many signals the first are drawn.
        metric: what the search maximized.
    """
    last = trusted.signals["epoch"].max()
    mine = trusted.signals[~(trusted.signals["epoch"] < last)]
    early = mine["signal"].str.startswith("accuracy after")
    mine = pd.concat([_spread(mine[early], _EPOCHS), mine[~early]])
    rows = mine.head(_PANELS).to_dict("records")
    columns = min(3, len(rows))
    lines = math.ceil(len(rows) / columns)
    figure = empty_figure(3.1 * columns, 2.7 * lines)
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    # Where the search trained nothing alone, what is final are accuracies all the same.
    accuracy = metric.endswith("accuracy") or math.isnan(last)
    for axes, row in zip(panels, rows, strict=False):
        name = str(row["signal"])
        scale = 100 if "accuracy" in name or name.startswith("mean of") else 1
        axes.scatter(
            scale * trusted.values[name], (100 if accuracy else 1) * trusted.values["final"],
            s=14, alpha=0.7,
        )  # fmt: skip
        unit = " in %" if scale == 100 and accuracy else ""
        axes.set_xlabel(f"{_AXES.get(name, name)}{unit}", fontsize="small")
        axes.set_ylabel("final accuracy in %" if accuracy else metric, fontsize="small")
        interval = f"[{row['low']:.2f}, {row['high']:.2f}]"
        axes.set_title(
            f"tau {row['tau']:.2f} {interval}, n = {row['architectures']}", fontsize="small"
        )
        axes.tick_params(labelsize="x-small")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(rows) :]:
        axes.set_axis_off()
    return figure


def _distributions(mine: pd.DataFrame, given: bool) -> Sequence[tuple[str, "pd.Series[float]"]]:
    """Return (title, {stratum: share}) of the space, of what was proposed and what survived."""
    known = mine[mine["step"] == "population"].set_index("stratum")
    proposed = mine[mine["step"] == "proposed"].set_index("stratum")
    drawn = known["out_of"].max()
    title = "the space" if math.isnan(drawn or math.nan) else f"the space (n = {drawn:.0f} draws)"
    step = "given" if given else "proposed"
    panels = [
        (title, known["share"]),
        (f"{step} (n = {proposed['count'].sum():.0f})", proposed["share"]),
    ]
    survived = mine[mine["step"] == "survived"]
    if not survived.empty:
        last = survived["epoch"].max()
        counts = survived[survived["epoch"] == last].set_index("stratum")["count"]
        title = f"went on after epoch {last:.0f} (n = {counts.sum():.0f})"
        panels.append((title, counts / max(1, counts.sum())))
    return panels


def _spread(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return at most as many rows, from the first to the last."""
    if len(table) <= most:
        return table
    return table.iloc[[round(i * (len(table) - 1) / (most - 1)) for i in range(most)]]


def _bars(of: str, panels: Sequence[tuple[str, "pd.Series[float]"]], won: Sequence[str]) -> Figure:
    """Draw shares as bars, one group for each stratum."""
    figure = empty_figure(8, 3.4)
    axes = figure.subplots()
    strata = list(map(str, panels[0][1].index))
    width = 0.8 / len(panels)
    for number, (title, shares) in enumerate(panels):
        places = [place + (number - (len(panels) - 1) / 2) * width for place in range(len(strata))]
        axes.bar(places, [100 * shares[s] for s in strata], width, label=title)
    marked = [f"{s}\n(chosen)" if s in won else s for s in strata]
    axes.set_xticks(range(len(strata)), marked, fontsize="small")
    axes.set_xlabel(_AXES.get(of, of))
    axes.set_ylabel("share in %")
    axes.legend(frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _curves(axes: Axes, table: pd.DataFrame, metric: str) -> None:
    """Draw the curves of one property and one metric."""
    strata = list(dict.fromkeys(table["stratum"]))
    scale = 100 if metric.endswith("accuracy") else 1
    colors = colormaps["viridis"]
    for number, stratum in enumerate(strata):
        mine = table[table["stratum"] == stratum]
        color = colors(0.25 + 0.6 * number / max(1, len(strata) - 1))
        counts = mine["architectures"]
        axes.plot(
            mine["epoch"], scale * mine["mean"], marker=".", color=color,
            label=f"{stratum} (n = {counts.iloc[0]}, {counts.iloc[-1]})",
        )  # fmt: skip
        band = mine[counts >= _BAND]
        axes.fill_between(
            band["epoch"], scale * band["low"], scale * band["high"], color=color, alpha=0.15
        )
    words = "training loss" if metric == TRAINING_LOSS else metric.replace("val_", "validation ")
    words = words.replace("_", " ")
    axes.set_ylabel(f"{words} in %" if scale == 100 else words)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.legend(frameon=False, fontsize="x-small")
    axes.spines[["top", "right"]].set_visible(False)
