"""How well zero-cost proxies rank the architectures of three benchmarks, and how long they take.

    python -m benchmarks.proxies --tables FOLDER --images IMAGES [--only NAME ...] [--cells N]
        [--proxy NAME ...] [--aggregate NAMES ...] [--space SPACE] [--accuracy COLUMN]
        [--scores FOLDER] [--quick] [--json]

Random architectures are scored (one batch of 128 training images without augmentation, one CPU
thread), and the scores compared with accuracies: Kendall's tau-b with a 95 % bootstrap interval
over the architectures. Nothing is fitted: a proxy that ranks a space the wrong way round has a
negative tau, and counts in an aggregate as it is. Benchmarks are

- `nb201` (nb201.parquet): NAS-Bench-201, CIFAR-10's test accuracy after 200 epochs;
- `nasbench_macro` (nasbench_macro.parquet): its mean test accuracy on CIFAR-10;
- `nasbench101` (ecnas_nb101_4epoch.parquet): the cells of at most 5 vertices, test accuracy on
  CIFAR-10 after 4 epochs, the mean where a cell was trained repeatedly. They are scored with 16
  channels in place of 128 (`--space` says otherwise), with which a CPU would take a day.

An aggregate is one of `trials.proxies.aggregate.AGGREGATES`, or names joined by `+`; it is taken
over the architectures that are scored. The images are training images of the data set of the
accuracies, in any form that `trials.data.load` reads. Scores in FOLDER, which has a file for each
space and should be another one for other images, are used again; new ones are added as they come.
"""

import argparse
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import kendalltau

import search_spaces
from trials.data import Data, load
from trials.proxies import PROXIES
from trials.proxies.aggregate import AGGREGATES, rank_aggregate
from trials.proxies.scoring import Scorer

_SAVE_EVERY = 20  # cells
_RESAMPLES = 1000


class Table(NamedTuple):
    """Where the accuracies of a benchmark are.

    Attributes:
        file: its Parquet file.
        space: the search space in which its architectures are scored.
        accuracy: column of accuracies.
        architecture: columns that, joined by colons, are the notation.
    """

    file: str
    space: str
    accuracy: str
    architecture: tuple[str, ...] = ("arch",)


TABLES = {
    "nb201": Table("nb201.parquet", "nasbench201", "c10_test_200"),
    "nasbench_macro": Table("nasbench_macro.parquet", "nasbench_macro", "mean_acc"),
    "nasbench101": Table(
        "ecnas_nb101_4epoch.parquet",
        "nasbench101:channels=16,vertices=5",
        "test_acc_4",
        ("adjacency", "ops"),
    ),
}


def accuracies(table: Table, folder: Path, number: int) -> pd.Series:
    """Return {architecture: accuracy} of random ones of a table."""
    frame = pd.read_parquet(
        folder / table.file, columns=[*table.architecture, table.accuracy]
    ).dropna()
    texts = frame[list(table.architecture)].agg(":".join, axis=1)
    means = frame[table.accuracy].groupby(texts, sort=False).mean()
    return means.sample(min(number, len(means)), random_state=0)


def scored(
    archs: Sequence[str], names: Sequence[str], space_name: str, data: Data, file: Path | None
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return the scores by all proxies, and the seconds that each took for one architecture.

    Args:
        archs: in the notation of the space.
        names: of the proxies.
        space_name: of the space.
        data: what the images are of.
        file: where scores are kept, or None.

    Returns:
        One row per architecture with a column for each proxy, and {proxy: seconds}, where it had
        to run.
    """
    space = search_spaces.get(space_name)
    known = pd.DataFrame(index=pd.Index(archs, name="arch"))
    if file and file.exists():
        known = known.join(pd.read_parquet(file).set_index("arch"), how="outer")
    seconds = {}
    for name in names:
        scorer = Scorer(space, data, name)
        column = known[name].to_dict() if name in known else {}
        missing = [arch for arch in archs if np.isnan(column.get(arch, np.nan))]
        start = time.perf_counter()
        for done, arch in enumerate(missing, start=1):
            column[arch] = scorer.score(space.from_string(arch))
            if file and (done % _SAVE_EVERY == 0 or done == len(missing)):
                known[name] = known.index.map(lambda arch, column=column: column.get(arch, np.nan))
                save(known, file)
        if missing:
            seconds[name] = (time.perf_counter() - start) / len(missing)
        known[name] = known.index.map(lambda arch, column=column: column.get(arch, np.nan))
    return known.loc[list(archs), list(names)], seconds


def save(scores: pd.DataFrame, file: Path) -> None:
    """Write the scores; whoever reads the file finds the old or the new ones."""
    new = file.with_suffix(".new")
    scores.reset_index().to_parquet(new)
    os.replace(new, file)


def tau(scores: pd.Series, accuracies: pd.Series) -> dict[str, float]:
    """Return Kendall's tau-b, and the 2.5th and 97.5th percentile over resampled networks."""
    x, y = scores.rank().to_numpy(), accuracies.rank().to_numpy()
    rng = np.random.default_rng(0)
    draws = rng.integers(len(x), size=(_RESAMPLES, len(x)))
    low, high = np.nanpercentile([kendalltau(x[i], y[i]).statistic for i in draws], [2.5, 97.5])
    return {
        "tau": round(float(kendalltau(x, y).statistic), 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
    }


def members(aggregate: str) -> tuple[str, ...]:
    """Return the names of the proxies of an aggregate."""
    return AGGREGATES.get(aggregate) or tuple(aggregate.split("+"))


def known_aggregate(text: str) -> str:
    """Return the name of an aggregate, for argparse.

    Raises:
        argparse.ArgumentTypeError: for one of other things than proxies.
    """
    if not set(members(text)) <= set(PROXIES):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither one of {', '.join(AGGREGATES)} nor proxies joined by +"
        )
    return text


def compare(
    table: Table, arguments: argparse.Namespace, data: Data, file: Path | None
) -> dict[str, dict[str, Any]]:
    """Return {proxy or aggregate: tau and its interval, number of architectures, seconds}."""
    truth = accuracies(table, arguments.tables, 30 if arguments.quick else arguments.cells)
    parts = {name: members(name) for name in arguments.aggregate}
    names = list(dict.fromkeys([*arguments.proxy, *(n for part in parts.values() for n in part)]))
    scores, seconds = scored(truth.index.to_list(), names, table.space, data, file)
    aggregates = {
        f"{name} (aggregate)": rank_aggregate({n: scores[n].to_numpy() for n in part})
        for name, part in parts.items()
    }
    columns = scores.assign(**aggregates)
    results: dict[str, dict[str, Any]] = {}
    for name in columns:
        results[name] = tau(columns[name], truth) | {
            "architectures": len(truth),
            "not ranked": int(np.isneginf(columns[name]).sum()),
        }
        if name in seconds:
            results[name]["seconds"] = round(seconds[name], 4)
    return results


def parsed() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", type=Path, help="folder of the Parquet files of accuracies")
    parser.add_argument("--images", help="training images of the data set: parquet:FILE, say")
    parser.add_argument(
        "--only", nargs="+", choices=list(TABLES), default=list(TABLES), help="which benchmarks"
    )
    parser.add_argument("--cells", type=int, default=400, help="how many, at random (default 400)")
    parser.add_argument(
        "--proxy",
        nargs="+",
        choices=list(PROXIES),
        default=list(PROXIES),
        help="which (default: all)",
    )
    parser.add_argument(
        "--aggregate",
        nargs="*",
        type=known_aggregate,
        default=[*AGGREGATES, "naswot+macs+layers", "jacov+macs+layers"],
        help="rank aggregates (default: those of AZ-NAS and VKDNW, and two of cheap proxies)",
    )
    parser.add_argument("--space", help="in place of the space of the one benchmark in --only")
    parser.add_argument("--accuracy", help="column, in place of that of the one in --only")
    parser.add_argument("--scores", type=Path, help="folder that keeps the scores")
    parser.add_argument("--quick", action="store_true", help="30 architectures")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if not (arguments.tables and arguments.images):
        parser.error(
            "--tables and --images are needed: a folder with the Parquet files of accuracies, and"
            " training images of their data set"
        )
    if (arguments.space or arguments.accuracy) and len(arguments.only) > 1:
        parser.error("--space and --accuracy are those of one benchmark: say which with --only")
    return arguments


def main() -> None:
    """Score, compare and print."""
    arguments = parsed()
    torch.set_num_threads(1)
    data = load(arguments.images)
    results = {}
    for benchmark in arguments.only:
        table = TABLES[benchmark]
        table = table._replace(
            space=arguments.space or table.space, accuracy=arguments.accuracy or table.accuracy
        )
        file = None
        if arguments.scores:
            arguments.scores.mkdir(parents=True, exist_ok=True)
            file = arguments.scores / f"{re.sub(r'[:=,]', '-', table.space)}.parquet"
        results[benchmark] = compare(table, arguments, data, file)
        if not arguments.json:
            show(f"{benchmark}: {table.accuracy}, scored in {table.space}", results[benchmark])
    if arguments.json:
        print(json.dumps(results))


def show(title: str, results: dict[str, dict[str, Any]]) -> None:
    """Print the table of one benchmark."""
    print(title)
    for measure, result in results.items():
        took = f"  {result['seconds']} s each" if "seconds" in result else ""
        unranked = f"  {result['not ranked']} not ranked" if result["not ranked"] else ""
        print(
            f"  {measure:30} tau {result['tau']:6.3f}  95 % {result['low']:6.3f} .."
            f" {result['high']:6.3f}  {result['architectures']} architectures{unranked}{took}"
        )


if __name__ == "__main__":
    main()
