"""Width against early training loss: wirings of the DARTS cell of four widths, really trained.

Shu, Wang, Cai: Understanding Architectures Learnt by Cell-based NAS (ICLR 2020), sections 3.2 and
4: wide, shallow cells converge faster. The cells are `DARTS_V2_CONN<seed>` (operations of DARTS,
random connections) for the first seeds with which normal and reduction cell both have the width
2c, 2.5c, 3c or 3.5c, the widths of the paper's figures. Every wiring is trained once. Said before
anything was measured: the early training loss is the mean over the first three epochs. Of the
trained networks the test loss is looked at: how much it rises a quarter of the way along random
filter-normalized directions, the variance of the gradient in the center, and both on the whole
plane for the first wiring of the widest and of the narrowest group.

    python -m benchmarks.width train --images IMAGES --results FOLDER [--wirings N] [--processes N]
    python -m benchmarks.width landscape --results FOLDER
    python -m benchmarks.width show --results FOLDER [--figure FILE]

The first two go on where they were interrupted. On two cores and 5,000 images of 16 x 16 pixels
all takes about an hour.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from scipy import stats

import search_spaces
from search_spaces import Architecture, SearchSpace
from trials.data import Data, load
from trials.landscape import Plane, Point, gradient_variance, grid, loss_surface, sample
from trials.training import Train

SPACE = "darts:channels=8,cells=5"
WIDTHS = (2.0, 2.5, 3.0, 3.5)
EPOCHS, EARLY = 10, 3
#: but for the number of epochs and the batch size, that of the paper's networks
RECIPE = Train(learning_rate=0.025, weight_decay=3e-4)
_MEASURED = ("early", "final", "accuracy", "test_loss", "rise", "variance", "relative_variance")
_DRAWS = 10_000  # of bootstraps
_IMAGES = 512  # of the test part, for landscapes
_BATCHES = 8  # of these images, between which the gradient varies
_RADIUS, _DIRECTIONS = 0.25, 8
_PLANES = 3
_LOSS_POINTS, _VARIANCE_POINTS = 25, 13  # an axis of the whole planes


def wirings(space: SearchSpace, width: float, number: int) -> list[str]:
    """Return the names of the first cells with random connections that are as wide."""
    names: list[str] = []
    for seed in count(1):
        name = f"DARTS_V2_CONN{seed}"
        arch = space.from_string(name)
        if {space.width(arch, cell) for cell in ("normal", "reduction")} == {width}:
            names.append(name)
        if len(names) == number:
            return names
    raise AssertionError


@cache
def data_of(images: str) -> Data:
    """Load the images, once a process."""
    return load(images)


def trained(images: str, name: str, folder: Path, epochs: int) -> dict[str, Any]:
    """Train one wiring; keep its weights, and return what is known of it."""
    torch.set_num_threads(1)
    space, data = search_spaces.get(SPACE), data_of(images)
    arch = space.from_string(name)
    trial = RECIPE.trial(space, arch, data, epochs, 0, torch.device("cpu"))
    curve = [trial.step() for _ in range(epochs)]
    torch.save(trial.state_dict()["network"], folder / f"{name}.pt")
    return {
        "name": name, **_shape(space, arch), "images": images,
        "params": curve[-1]["params"], "macs": curve[-1]["macs"],
        "train_loss": [metrics["train_loss"] for metrics in curve],
        "val_loss": [metrics["val_loss"] for metrics in curve],
        "val_accuracy": [metrics["val_accuracy"] for metrics in curve],
    }  # fmt: skip


def _shape(space: SearchSpace, arch: Architecture) -> dict[str, float]:
    depths = [space.depth(arch, cell) for cell in ("normal", "reduction")]
    return {"width": space.width(arch), "depth": float(np.mean(depths))}


def train(images: str, folder: Path, number: int, epochs: int, processes: int) -> None:
    """Train what the folder lacks; one JSON file a wiring."""
    folder.mkdir(parents=True, exist_ok=True)
    space = search_spaces.get(SPACE)
    groups = [wirings(space, width, number) for width in WIDTHS]
    names = [name for turn in zip(*groups, strict=True) for name in turn]  # widths take turns
    missing = [name for name in names if not (folder / f"{name}.json").exists()]
    start = time.perf_counter()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(trained, images, name, folder, epochs) for name in missing]
        for i, future in enumerate(as_completed(futures), 1):
            row = future.result()
            (folder / f"{row['name']}.json").write_text(json.dumps(row))
            print(f"{i}/{len(missing)}, {time.perf_counter() - start:.0f} s", flush=True)


def landscape_of(folder: Path, name: str, whole: bool) -> dict[str, Any]:
    """Measure around one trained wiring: rise of the loss, variance of the gradient.

    Args:
        folder: of the trainings.
        name: of the wiring.
        whole: whether on whole planes too.
    """
    torch.set_num_threads(1)
    row = json.loads((folder / f"{name}.json").read_text())
    space, data = search_spaces.get(SPACE), data_of(row["images"])
    network = space.build(space.from_string(name), data.input_shape, data.num_classes)
    network.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True))
    images = sample(data.test, min(_IMAGES, len(data.test)))
    batch = len(images) // _BATCHES
    angles = [2 * math.pi * i / _DIRECTIONS for i in range(_DIRECTIONS)]
    circle = [Point(_RADIUS * math.cos(a), _RADIUS * math.sin(a)) for a in angles]
    center = Point(0.0, 0.0)
    around = [loss_surface(Plane(network, seed), images, circle) for seed in range(_PLANES)]
    plane = Plane(network, 0)
    (own,) = loss_surface(plane, images, [center])
    (spread,) = gradient_variance(plane, images, [center], _BATCHES, batch)
    rises = [height.loss - own.loss for heights in around for height in heights]
    measured = {
        "name": name, "test_loss": own.loss, "rise": float(np.mean(rises)),
        "variance": spread.variance, "relative_variance": spread.relative_variance,
    }  # fmt: skip
    if whole:
        measured["losses"] = loss_surface(plane, images, grid(_LOSS_POINTS))
        points = grid(_VARIANCE_POINTS)
        measured["variances"] = gradient_variance(plane, images, points, _BATCHES, batch)
    return measured


def landscape(folder: Path, processes: int) -> None:
    """Measure around what was trained, as far as the folder lacks it."""
    table = results(folder)
    ends = {
        table[table["width"] == width]["seed"].idxmin()
        for width in table["width"].agg(["min", "max"])
    }
    path = folder / "landscape"
    path.mkdir(exist_ok=True)
    missing = {
        row.name_: row.Index in ends
        for row in table.rename(columns={"name": "name_"}).itertuples()
        if not (path / f"{row.name_}.json").exists()
    }
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(landscape_of, folder, *job) for job in missing.items()]
        for i, future in enumerate(as_completed(futures), 1):
            row = future.result()
            (path / f"{row['name']}.json").write_text(json.dumps(row))
            print(f"{i}/{len(missing)}", flush=True)


def results(folder: Path) -> pd.DataFrame:
    """Return one row a wiring, by width; `early` is its early training loss."""
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    table = pd.DataFrame(rows)
    table["seed"] = [int(name.partition("CONN")[2]) for name in table["name"]]
    table["early"] = [float(np.mean(curve[:EARLY])) for curve in table["train_loss"]]
    table["final"] = [curve[-1] for curve in table["train_loss"]]
    table["accuracy"] = [curve[-1] for curve in table["val_accuracy"]]
    around = [json.loads(path.read_text()) for path in sorted(folder.glob("landscape/*.json"))]
    if around:
        table = table.merge(pd.DataFrame(around), on="name", how="left")
    return table.sort_values(["width", "seed"], ignore_index=True)


def rank_correlation(x: Sequence[float], y: Sequence[float], seed: int = 0) -> list[float]:
    """Return Spearman's correlation and its 95 % percentile bootstrap interval, over wirings."""
    a, b = np.asarray(x, float), np.asarray(y, float)
    draws = np.random.default_rng(seed).integers(len(a), size=(_DRAWS, len(a)))
    p, q = (np.sign(v[draws][:, :, None] - v[draws][:, None, :]).sum(2) for v in (a, b))  # ranks
    with np.errstate(invalid="ignore"):  # where all that was drawn has one width
        drawn = (p * q).sum(1) / np.sqrt((p**2).sum(1) * (q**2).sum(1))
    return [float(stats.spearmanr(a, b).statistic), *np.nanpercentile(drawn, [2.5, 97.5]).tolist()]


def residual(x: pd.Series, y: pd.Series) -> list[float]:
    """Return what is left of y when its linear dependence on x is taken out."""
    line = stats.linregress(x, y)
    return list(y - line.intercept - line.slope * x)


def show(table: pd.DataFrame) -> None:
    """Print means by width, and rank correlations with their intervals."""
    measured = [column for column in _MEASURED if column in table]
    print(table.groupby("width")[["depth", "params", *measured]].mean().round(4).to_string())
    print("\nstandard errors of the means")
    print(table.groupby("width")[measured].sem().round(4).to_string())
    print(f"\nSpearman's correlation over {len(table)} wirings, 95 % bootstrap interval")
    for of in ("width", "depth", "params"):
        for what in measured:
            value, low, high = rank_correlation(table[of], table[what])
            print(f"{of:7}{what:18}{value:+.2f} [{low:+.2f}, {high:+.2f}]")
    print("\nof width, with the ranks of the parameters taken out of both")
    for what in measured:
        ranked = table[["width", "params", what]].rank()
        width, value = (residual(ranked["params"], ranked[of]) for of in ("width", what))
        correlation, low, high = rank_correlation(width, value)
        print(f"{what:18}{correlation:+.2f} [{low:+.2f}, {high:+.2f}]")


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draw learning curves and early loss by width, and the landscapes of the two extremes."""
    picture = Figure(figsize=(11, 7.5), layout="constrained")
    (curves, early, rise), maps = picture.subplots(2, 3)
    colors = colormaps["viridis"](np.linspace(0.9, 0.1, len(WIDTHS)))
    for color, (width, group) in zip(colors, table.groupby("width"), strict=True):
        losses = np.stack(group["train_loss"].to_list())
        for loss in losses:
            curves.plot(range(1, len(loss) + 1), loss, color=color, lw=0.5, alpha=0.5)
        mean = losses.mean(0)
        curves.plot(range(1, len(mean) + 1), mean, color=color, lw=2, label=f"width {width:g}c")
        early.scatter(group["width"], group["early"], color=color)
        rise.scatter(group["width"], group["rise"], color=color)
    curves.set(xlabel="epoch", ylabel="training loss")
    curves.legend(frameon=False)
    early.set(
        xlabel="width of the cells, in c", ylabel=f"mean training loss of epochs 1 to {EARLY}"
    )
    rise.set(
        xlabel="width of the cells, in c", ylabel=f"rise of the test loss at {_RADIUS} of the way"
    )
    _planes(table.dropna(subset=["losses"]), picture, maps)
    picture.savefig(path, dpi=130)


def _planes(extremes: pd.DataFrame, picture: Figure, panels: Any) -> None:
    """Draw the loss around narrowest and widest, and the variances of their gradients along x."""
    shape = (len(extremes), _LOSS_POINTS, _LOSS_POINTS, 4)
    grids = np.array(extremes["losses"].to_list()).reshape(shape)
    levels = np.linspace(np.log10(grids[..., 2].min()), np.log10(grids[..., 2].max()), 21)
    for axes, row, heights in zip(panels, extremes.itertuples(), grids, strict=False):
        filled = axes.contourf(
            heights[0, :, 0], heights[:, 0, 1], np.log10(heights[..., 2]), levels
        )
        picture.colorbar(filled, ax=axes, label="log10 of the test loss", format="%.1f")
        axes.set(title=f"width {row.width:g}c, depth {row.depth:g}", xlabel="direction 1",
                 ylabel="direction 2")  # fmt: skip
        spread = np.array(row.variances).reshape(_VARIANCE_POINTS, _VARIANCE_POINTS, 4)
        middle = spread[_VARIANCE_POINTS // 2]
        panels[2].plot(middle[:, 0], middle[:, 2], marker=".", label=f"width {row.width:g}c")
    panels[2].set(xlabel="direction 1", ylabel="variance of the gradient", yscale="log")
    panels[2].legend(frameon=False)


def main() -> None:
    """Run one step of the study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("step", choices=("train", "landscape", "show"))
    parser.add_argument("--images", default="digits")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--wirings", type=int, default=6, help="of each width")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    if given.step == "train":
        train(given.images, given.results, given.wirings, given.epochs, given.processes)
    elif given.step == "landscape":
        landscape(given.results, given.processes)
    else:
        table = results(given.results)
        show(table)
        if given.figure:
            draw(table, given.figure)


if __name__ == "__main__":
    main()
