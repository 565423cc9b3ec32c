"""Width against early training loss: wirings of the DARTS cell of four widths, really trained.

Shu, Wang, Cai: Understanding Architectures Learnt by Cell-based NAS (ICLR 2020), sections 3.2 and
4: wide, shallow cells converge faster. The cells are `DARTS_V2_CONN<seed>` (operations of DARTS,
random connections) for the first seeds with which normal and reduction cell both have the width
2c, 2.5c, 3c or 3.5c, the widths of the paper's figures. Every wiring is trained once. Said before
anything was measured: the early training loss is the mean over the first three epochs.

    python -m benchmarks.width train --images IMAGES --results FOLDER [--wirings N] [--processes N]
    python -m benchmarks.width show --results FOLDER [--figure FILE]

`train` goes on where it was interrupted. On two cores and 5,000 images of 16 x 16 pixels it takes
about half an hour.
"""

import argparse
import json
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
from scipy import stats

import search_spaces
from search_spaces import Architecture, SearchSpace
from trials.data import Data, load
from trials.training import Train

SPACE = "darts:channels=8,cells=5"
WIDTHS = (2.0, 2.5, 3.0, 3.5)
EPOCHS, EARLY = 10, 3
#: but for the number of epochs and the batch size, that of the paper's networks
RECIPE = Train(learning_rate=0.025, weight_decay=3e-4)
_DRAWS = 10_000  # of bootstraps


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


def results(folder: Path) -> pd.DataFrame:
    """Return one row a wiring, by width; `early` is its early training loss."""
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    table = pd.DataFrame(rows)
    table["early"] = [float(np.mean(curve[:EARLY])) for curve in table["train_loss"]]
    table["final"] = [curve[-1] for curve in table["train_loss"]]
    table["accuracy"] = [curve[-1] for curve in table["val_accuracy"]]
    return table.sort_values(["width", "name"], ignore_index=True)


def rank_correlation(x: Sequence[float], y: Sequence[float], seed: int = 0) -> list[float]:
    """Return Spearman's correlation and its 95 % percentile bootstrap interval, over wirings."""
    rng = np.random.default_rng(seed)
    a, b = np.asarray(x), np.asarray(y)
    draws = rng.integers(len(a), size=(_DRAWS, len(a)))
    drawn = [stats.spearmanr(a[d], b[d]).statistic for d in draws if np.ptp(a[d]) and np.ptp(b[d])]
    return [float(stats.spearmanr(a, b).statistic), *np.percentile(drawn, [2.5, 97.5]).tolist()]


def main() -> None:
    """Run one step of the study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("step", choices=("train", "show"))
    parser.add_argument("--images", default="digits")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--wirings", type=int, default=6, help="of each width")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--figure", type=Path)
    given = parser.parse_args()
    if given.step == "train":
        train(given.images, given.results, given.wirings, given.epochs, given.processes)
        return
    table = results(given.results)
    print(table.groupby("width")[["depth", "early", "final", "accuracy"]].agg(["mean", "sem"]))
    for of in ("width", "depth", "params"):
        for what in ("early", "final", "accuracy"):
            value, low, high = rank_correlation(table[of], table[what])
            print(f"{of} and {what}: {value:+.2f} [{low:+.2f}, {high:+.2f}]")


if __name__ == "__main__":
    main()
