"""What a limit and a quota are worth on NAS-Bench-201.

    python -m benchmarks.constraints --table nb201.parquet [--runs 100] [--queries 100] [--quick]
        [--search NAME ...] [--most .6 .2] [--only limit|quota] [--json]

`limit`: at most 60 % of the largest MACs, or 20 %. A search that keeps the limit, against the same
search without it, whose evaluations within the limit are looked up afterwards, at the same number
of evaluations; and against a penalty on MACs beyond the limit, whose outcome may lie beyond it.
`quota`: at most half of the evaluations of one depth, against none.

Every run maximizes CIFAR-10's validation accuracy after 200 epochs; printed are the means over the
runs of the test accuracy of what was chosen, in percent, with standard errors, and of the
difference to the search without a constraint by the same seeds. MACs are those of 32 x 32 images.
"""

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from raynas.benchmarking.simulation import Simulation
from raynas.search.admission import Admission
from raynas.searchers import SEARCHERS, Constraint, Limit, Penalty, Quota
from search_spaces import Architecture
from search_spaces.naming import construct
from search_spaces.properties import measure
from trials.tables.benchmark import Benchmark, Roles, read_benchmark
from trials.trial import derived_seed

SEARCH = ("random", "evolution", "auto")
ROLES = Roles(
    architecture="arch", metric="c10_valid_200", report="c10_test_200", space="nasbench201"
)
WEIGHT = 10.0  # points of accuracy for twice the limit
SHARE = 0.5


class Runs:
    """Runs of one search, with or without a constraint.

    Attributes:
        evaluated: of each run what was evaluated, and how much its outcome is lowered.
    """

    def __init__(
        self, benchmark: Benchmark, search: str, constraint: Constraint | None, runs: int,
        queries: int,
    ):  # fmt: skip
        self.benchmark = benchmark
        macs = measure("macs", benchmark.space)
        measured = None if constraint is None else constraint.measured(benchmark.space)
        self.chosen: list[Architecture] = []
        self.evaluated: list[list[Architecture]] = []
        for run in range(runs):
            simulation = Simulation(
                benchmark, construct("search", search, SEARCHERS), seed=derived_seed(0, run),
                queries=queries, scores=lambda proxy, arch: macs(arch),
                admission=Admission(constraint, measured),
            ).run()  # fmt: skip
            best = simulation.search.best
            assert best is not None
            self.chosen.append(simulation.search.architectures[best.index])
            self.evaluated.append(simulation.search.architectures)

    def best_of(self, within: Callable[[Architecture], bool]) -> list[Architecture | None]:
        """Return the best of what each run has evaluated and is within; None: nothing was."""
        finals, row = self.benchmark.finals, self.benchmark.row
        return [
            max(filter(within, archs), key=lambda arch: finals[row(arch)], default=None)
            for archs in self.evaluated
        ]

    def tested(self, archs: Sequence[Architecture | None]) -> np.ndarray[Any, Any]:
        """Return their test accuracies; NaN for None."""
        reports, row = self.benchmark.reports, self.benchmark.row
        return np.array([math.nan if arch is None else reports[row(arch)] for arch in archs])

    def share(self, counted: Callable[[Architecture], bool]) -> float:
        """Return the share of evaluations that are counted, in percent, over all runs."""
        every = [arch for archs in self.evaluated for arch in archs]
        return 100 * sum(map(counted, every)) / len(every)


def limit_rows(
    benchmark: Benchmark, search: str, runs: int, queries: int, share: float
) -> list[dict[str, Any]]:
    """Return the best within the limit, and the rows of a search with it, a penalty and neither.

    Args:
        benchmark: the table.
        search: a name.
        runs: of the search.
        queries: evaluations of a run.
        share: of the largest MACs, the limit.
    """
    macs = measure("macs", benchmark.space)
    most = share * max(map(macs, benchmark.rows))

    def within(arch: Architecture) -> bool:
        return macs(arch) <= most

    rules = {
        "filtered afterwards": None,
        "limit": Limit("macs", most=most),
        "penalty": Penalty("macs", above=most, weight=WEIGHT),
    }
    finals, reports = benchmark.finals, benchmark.reports
    best = max((row for arch, row in benchmark.rows.items() if within(arch)), key=finals.item)
    tested = f"{reports[best]:.3f}"
    rows: list[dict[str, Any]] = [
        {"search": "the best within", "MACs": f"{share:.0%}", "test accuracy": tested}
    ]
    filtered = None
    for label, rule in rules.items():
        made = Runs(benchmark, search, rule, runs, queries)
        chosen = made.best_of(within) if label == "filtered afterwards" else made.chosen
        accuracies = made.tested(chosen)
        filtered = accuracies if filtered is None else filtered
        row = {"search": search, "MACs": f"{share:.0%}", "constraint": label}
        row |= compared(accuracies, filtered)
        row["evaluations within"] = f"{made.share(within):.0f} %"
        row["outcomes within"] = f"{sum(a is not None and within(a) for a in chosen)} of {runs}"
        rows.append(row)
    return rows


def quota_rows(benchmark: Benchmark, search: str, runs: int, queries: int) -> list[dict[str, Any]]:
    """Return the rows of one search with a quota on depth and without."""
    depth = measure("depth", benchmark.space)
    rows, free = [], None
    for label, rule in {"none": None, "quota": Quota("depth", SHARE)}.items():
        made = Runs(benchmark, search, rule, runs, queries)
        tested = made.tested(made.chosen)
        free = tested if free is None else free
        row = {"search": search, "constraint": label, **compared(tested, free)}
        for one in (1, 2, 3):
            row[f"depth {one}"] = f"{made.share(lambda arch, one=one: depth(arch) == one):.0f} %"
        depths = Counter(map(depth, made.chosen))
        row["depths of outcomes"] = ", ".join(f"{d:g}: {n}" for d, n in sorted(depths.items()))
        rows.append(row)
    return rows


def compared(tested: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> dict[str, str]:
    """Return mean and difference to the other, with standard errors."""
    there = tested[~np.isnan(tested)]
    difference = (tested - other)[~np.isnan(tested - other)]
    same = tested is other
    return {
        "test accuracy": _mean(there),
        "difference": "" if same else _mean(difference, sign="+"),
    }


def _mean(values: np.ndarray[Any, Any], sign: str = "") -> str:
    error = values.std(ddof=1) / math.sqrt(len(values))
    return f"{values.mean():{sign}.3f} ± {error:.3f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", required=True)
    parser.add_argument("--search", nargs="+", default=SEARCH)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--most", nargs="+", type=float, default=(0.6, 0.2))
    parser.add_argument("--only", choices=("limit", "quota"))
    parser.add_argument("--quick", action="store_true", help="5 runs of 30 evaluations")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(arguments)
    runs, queries = (5, 30) if given.quick else (given.runs, given.queries)
    benchmark = read_benchmark(given.table, ROLES)
    results: dict[str, list[dict[str, Any]]] = {"limit": [], "quota": []}
    for search in given.search:
        made = []
        if given.only != "quota":
            made += [("limit", limit_rows(benchmark, search, runs, queries, m)) for m in given.most]
        if given.only != "limit":
            made.append(("quota", quota_rows(benchmark, search, runs, queries)))
        for name, rows in made:
            results[name] += rows
            if not given.json:
                print(pd.DataFrame(rows).fillna("").to_string(index=False), flush=True)
    if given.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
