"""How well zero-cost proxies rank the cells of NAS-Bench-201, and how long they take.

Random cells are scored (16 channels, 5 cells per stage; one batch of 128 training images without
augmentation, one CPU thread), and the scores compared with the test accuracy after 200 epochs:
Kendall's tau-b with a 95 % bootstrap interval over the cells.

    python -m benchmarks.proxies --table TABLE --images IMAGES [--accuracy COLUMN] [--cells N]
        [--proxy NAME ...] [--scores FILE] [--quick] [--json]

The table is a Parquet file with the column `arch` (in the notation of the benchmark) and one of
accuracies; the images are training images of the same data set, in any form that
`trials.data.load` reads. Scores in FILE are used again, new ones are added to it as they come.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import kendalltau

import search_spaces
from trials.data import load
from trials.proxies import PROXIES
from trials.proxies.scoring import Scorer

_SAVE_EVERY = 20  # cells
_RESAMPLES = 1000


def scored(
    cells: Sequence[str], names: Sequence[str], images: str, file: Path | None
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return the scores of cells by all proxies, and the seconds that each proxy took for one cell.

    Args:
        cells: in the notation of NAS-Bench-201.
        names: of the proxies.
        images: what `load` reads.
        file: where scores are kept, or None.

    Returns:
        One row per cell with a column for each proxy, and {proxy: seconds}, where it had to run.
    """
    space = search_spaces.get("nasbench201")
    data = load(images)
    known = pd.DataFrame(index=pd.Index(cells, name="arch"))
    if file and file.exists():
        known = known.join(pd.read_parquet(file).set_index("arch"), how="outer")
    seconds = {}
    for name in names:
        scorer = Scorer(space, data, name)
        column = known[name].to_dict() if name in known else {}
        missing = [cell for cell in cells if np.isnan(column.get(cell, np.nan))]
        start = time.perf_counter()
        for done, cell in enumerate(missing, start=1):
            column[cell] = scorer.score(space.from_string(cell))
            if file and (done % _SAVE_EVERY == 0 or done == len(missing)):
                known[name] = known.index.map(lambda cell, column=column: column.get(cell, np.nan))
                save(known, file)
        if missing:
            seconds[name] = (time.perf_counter() - start) / len(missing)
        known[name] = known.index.map(lambda cell, column=column: column.get(cell, np.nan))
    return known.loc[list(cells), list(names)], seconds


def save(scores: pd.DataFrame, file: Path) -> None:
    """Write the scores; whoever reads the file finds the old or the new ones."""
    new = file.with_suffix(".new")
    scores.reset_index().to_parquet(new)
    os.replace(new, file)


def tau(scores: pd.Series, accuracies: pd.Series) -> dict[str, float]:
    """Return Kendall's tau-b, and the 2.5th and 97.5th percentile over resampled cells."""
    x, y = scores.rank().to_numpy(), accuracies.rank().to_numpy()
    rng = np.random.default_rng(0)
    draws = rng.integers(len(x), size=(_RESAMPLES, len(x)))
    low, high = np.percentile([kendalltau(x[i], y[i]).statistic for i in draws], [2.5, 97.5])
    return {
        "tau": round(float(kendalltau(x, y).statistic), 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
    }


def main() -> None:
    """Score, compare and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, help="Parquet file of accuracies")
    parser.add_argument("--images", help="training images of the data set: parquet:FILE, say")
    parser.add_argument("--accuracy", default="c10_test_200", help="column (CIFAR-10's)")
    parser.add_argument("--cells", type=int, default=400, help="how many, at random (default 400)")
    parser.add_argument(
        "--proxy",
        nargs="+",
        choices=list(PROXIES),
        default=["naswot", "macs", "params"],
        help="which (default: naswot macs params)",
    )
    parser.add_argument("--scores", type=Path, help="Parquet file that keeps the scores")
    parser.add_argument("--quick", action="store_true", help="30 cells")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if not (arguments.table and arguments.images):
        parser.error(
            "--table and --images are needed: a Parquet file with a column of accuracies beside"
            " NAS-Bench-201's architectures, and training images of the data set"
        )
    torch.set_num_threads(1)
    table = pd.read_parquet(arguments.table, columns=["arch", arguments.accuracy])
    cells = table.sample(30 if arguments.quick else arguments.cells, random_state=0)
    cells = cells.set_index("arch")
    scores, seconds = scored(
        cells.index.to_list(), arguments.proxy, arguments.images, arguments.scores
    )
    results: dict[str, dict[str, Any]] = {}
    for name in arguments.proxy:
        results[name] = tau(scores[name], cells[arguments.accuracy]) | {"cells": len(cells)}
        if name in seconds:
            results[name]["seconds"] = round(seconds[name], 4)
    if arguments.json:
        print(json.dumps(results))
        return
    for measure, result in results.items():
        took = f"  {result['seconds']} s/cell" if "seconds" in result else ""
        print(
            f"{measure:16} tau {result['tau']:.3f}  95 % {result['low']:.3f}..{result['high']:.3f}"
            f"  {result['cells']} cells{took}"
        )


if __name__ == "__main__":
    main()
