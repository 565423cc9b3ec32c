"""Neighborhood-aware search on a table: rank correlations, NA-RS, racing against random search.

    python -m benchmarks.neighborhood --table nb201.parquet --metric c10_valid_12
        --report c10_test_200 [--where CONDITION] [--runs 500] [--only tau|na-rs|racing]
        [--other random] [--quick] [--json]

`tau`: Kendall's tau of an architecture's own value and of its neighborhood's mean (itself
included) with what the table reports, over all its architectures. `na-rs`: what the best of T
centers reports, judged by all their neighbors, and judged by themselves (random search with the
same T). `racing`: at equal numbers of evaluations, what the outcome of `na-rs` with its defaults
reports and that of another searcher, in pairs of runs with the same seed: the mean difference and
its standard error; and how much flatter the outcome is: by how much less the mean of all its
neighbors falls short of it, in the metric of the search.

CONDITION leaves out the rows that do not meet it (`epochs == 100`: values after more epochs than
those of the others would be no comparison).
"""

import argparse
import copy
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import kendalltau

from raynas.searchers import SEARCHERS, RandomSearch, Searcher
from raynas.searchers.neighborhood import na_rs
from search_spaces import Architecture
from search_spaces.naming import construct
from trials.tables.benchmark import Benchmark, Roles, read_benchmark

CENTERS = (50, 100, 200, 1000)
EVALUATIONS = (100, 500, 1000)

Floats = NDArray[np.float64]
Measures = dict[str, dict[str, float | str]]


@dataclass(frozen=True)
class Neighbors:
    """A table, and who is beside whom in it."""

    table: Benchmark

    @cached_property
    def rows(self) -> list[list[int]]:
        """Return, of each row, the rows of its neighbors."""
        space, table = self.table.space, self.table
        return [[table.row(near) for near in space.neighbors(arch)] for arch in table.rows]

    @cached_property
    def means(self) -> Floats:
        """Return, of each row, the mean over its neighborhood, itself included."""
        values = self.table.finals
        if len({len(row) for row in self.rows}) == 1:
            return np.asarray(
                (values[np.array(self.rows)].sum(1) + values) / (len(self.rows[0]) + 1)
            )
        return np.array([values[[i, *row]].mean() for i, row in enumerate(self.rows)])

    def drop(self, row: int) -> float:
        """Return how far the mean of its neighbors is below the value of a row."""
        return float(self.table.finals[row] - self.table.finals[self.rows[row]].mean())


def tau(neighbors: Neighbors) -> Measures:
    """Return rank correlations over the whole table."""
    start = time.perf_counter()
    reports = neighbors.table.reports
    own = float(kendalltau(neighbors.table.finals, reports)[0])
    mean = float(kendalltau(neighbors.means, reports)[0])
    return {
        "tau": {
            "ours": round(mean, 4), "other": round(own, 4), "ratio": round(mean / own, 3),
            "unit": "Kendall's tau", "seconds": round(time.perf_counter() - start, 2),
        }
    }  # fmt: skip


def of_centers(table: Benchmark, centers: Sequence[int], seed: int) -> list[float]:
    """Return what the outcome of NA-RS, without racing, reports after each number of centers."""
    searcher = na_rs(racing=False)
    searcher.start(table.space, seed)
    begun, reported = searcher.centers, []
    for wanted in centers:
        while len(begun) < wanted or any(center.open for center in begun.values()):
            arch = searcher.ask()
            assert arch is not None
            searcher.tell(arch, float(table.finals[table.row(arch)]), 1)
        merits = searcher.merits()
        best = max(merits, key=lambda arch: merits[arch])
        reported.append(float(table.reports[table.row(best)]))
    return reported


def of_draws(table: Benchmark, centers: Sequence[int], seed: int) -> list[float]:
    """Return what the best of the same centers by its own value reports."""
    searcher = RandomSearch()
    searcher.start(table.space, seed)
    rows = [table.row(searcher.ask()) for _ in range(max(centers))]
    best = [max(rows[:count], key=lambda row: table.finals[row]) for count in centers]
    return [float(table.reports[row]) for row in best]


def of_evaluations(
    neighbors: Neighbors, searcher: Searcher, counts: Sequence[int], seed: int
) -> list[tuple[float, float]]:
    """Return (report, drop) of the outcome of a search after each number of evaluations.

    As `Search` does it, but quicker: what computes the same function is paid for once.
    """
    table, space, searcher = neighbors.table, neighbors.table.space, copy.deepcopy(searcher)
    searcher.start(space, seed)
    found: list[tuple[float, float]] = []
    paid: set[Architecture] = set()
    best = -1
    while len(found) < len(counts):
        arch = searcher.ask()
        assert arch is not None
        row = table.row(arch)
        paid.add(space.canonical(arch))
        best = row if best < 0 or table.finals[row] > table.finals[best] else best
        searcher.tell(arch, float(table.finals[row]), 1)
        if len(paid) == counts[len(found)]:
            merits = searcher.merits()
            chosen = table.row(max(merits, key=lambda a: merits[a])) if merits else best
            found.append((float(table.reports[chosen]), neighbors.drop(chosen)))
    return found


def compared(ours: Floats, other: Floats, unit: str) -> dict[str, float | str]:
    """Return means of paired runs, and the mean difference with its standard error."""
    difference = ours - other
    return {
        "ours": round(float(ours.mean()), 3),
        "other": round(float(other.mean()), 3),
        "ratio": round(float(ours.mean() / other.mean()), 4),
        "unit": unit,
        "ours_std": round(float(ours.std(ddof=1)), 3),
        "difference": round(float(difference.mean()), 4),
        "standard_error": round(float(difference.std(ddof=1) / len(difference) ** 0.5), 4),
    }


def measured(
    neighbors: Neighbors, only: str, runs: int, centers: Sequence[int], other: Searcher
) -> Measures:
    """Return all that was asked for; `other` is what `racing` compares with."""
    results = tau(neighbors) if only in ("", "tau") else {}
    table = neighbors.table
    if only in ("", "na-rs"):
        ours = np.array([of_centers(table, centers, seed) for seed in range(runs)])
        theirs = np.array([of_draws(table, centers, seed) for seed in range(runs)])
        for i, count in enumerate(centers):
            name = f"na-rs, {count} centers"
            results[name] = compared(ours[:, i], theirs[:, i], table.roles.report)
    if only in ("", "racing"):
        ours, theirs = (
            np.array([of_evaluations(neighbors, made, EVALUATIONS, s) for s in range(runs)])
            for made in (na_rs(), other)
        )
        for i, count in enumerate(EVALUATIONS):
            for j, unit in enumerate((table.roles.report, f"drop in {table.roles.metric}")):
                name = f"racing, {count} evaluations, {('report', 'flatness')[j]}"
                results[name] = compared(ours[:, i, j], theirs[:, i, j], unit)
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", required=True, help="Parquet file")
    for role in ("architecture", "metric", "report", "space"):
        parser.add_argument(f"--{role}", default="arch" if role == "architecture" else "")
    parser.add_argument("--where", help="condition on the columns that a row must meet")
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--only", default="", choices=["", "tau", "na-rs", "racing"])
    parser.add_argument("--other", default="random", help="searcher to compare `na-rs` with")
    parser.add_argument("--quick", action="store_true", help="ten runs, T up to 100")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    roles = Roles(args.architecture, args.metric, "", args.report, args.space)
    table = args.table
    if args.where:
        table = pd.read_parquet(table).query(args.where).reset_index(drop=True)
    neighbors = Neighbors(read_benchmark(table, roles))
    # One table, hundreds of searches: remember what they all ask for.
    vars(neighbors.table.space)["canonical"] = cache(neighbors.table.space.canonical)
    _ = neighbors.rows
    runs, centers = (10, CENTERS[:2]) if args.quick else (args.runs, CENTERS)
    other = construct("other", args.other, SEARCHERS)
    results = measured(neighbors, args.only, runs, centers, other)
    if args.json:
        print(json.dumps(results))
        return
    for name, result in results.items():
        error = (
            f" {result['difference']:+} ± {result['standard_error']}"
            if "difference" in result
            else ""
        )
        print(f"{name:42} {result['ours']} against {result['other']}{error} ({result['unit']})")


if __name__ == "__main__":
    main()
