"""What a search finds in so many epochs in all, where most of them are spent on short trainings.

    python -m benchmarks.fidelities --tables FOLDER [--only select|asha] [--runs 200]
        [--search NAME ...] [--data NAME ...] [--json]

`select`: the search has evaluations of few epochs, and its best are trained fully; the best of
these by validation accuracy is delivered. That is `run(search=..., samples=N, epochs=E, select=k)`
without the retraining of what is delivered, which costs as much as one of the k (with k = 1 it is
the one full training). Tables, in which long trainings are not continued short ones:

- `c10`, `c100`: NAS-Bench-201 (nb201.parquet), trainings of 12 and of 200 epochs; reported is the
  test accuracy after 200, which is at most 94.373 and 73.513 %;
- `nb101`: cells of NAS-Bench-101 (ecnas_nb101_4epoch.parquet, those of 5 vertices), 1 epoch (2
  where that was not recorded) and 4; the same training.

`asha`: SpikeNAS-Bench (spikenas_cifar10.parquet), learning curves of 100 epochs, four workers that
stop trials by ASHA, with budgets of 300 and 1,000 epochs. Here `auto` hears of early epochs.

Runs with the same number have the same seed.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import search_spaces
from benchmarks.early_stopping import Budget, reported, scheduler
from benchmarks.stratified import spikenas, standard_error
from raynas.benchmarking.simulation import Simulation
from raynas.searchers import SEARCHERS
from search_spaces import Architecture
from search_spaces.naming import construct
from trials.proxies import Score
from trials.tables.benchmark import Benchmark, Roles, read_benchmark

Floats = NDArray[np.float64]

#: (searcher, samples, select) in `select`
SELECT = (
    ("random", 16, 2),
    ("auto", 16, 2),
    ("auto:prior=counts", 16, 2),
    ("auto:prior=structure", 16, 2),
    ("random", 33, 1),
    ("auto", 33, 1),
    ("auto:prior=counts", 33, 1),
    ("auto:prior=structure", 33, 1),
    ("auto:prior=structure", 25, 5),
    ("auto:candidates=60000,initial=25", 25, 1),  # the largest of all, and no search
)
SEARCHES = ("auto", "auto:fidelities=true")
SCHEDULERS = ("asha", "asha:variant=promotion,peers=8,chance=12,grace=FIRST")
BUDGETS = (Budget(300, 4, 100), Budget(1_000, 4, 100))


class Known(NamedTuple):
    """A table with two fidelities.

    Attributes:
        benchmark: of short trainings; it reports the test accuracy of long ones.
        full: of each row the validation accuracy of a long one.
        epochs: of both.
    """

    benchmark: Benchmark
    full: Floats
    epochs: tuple[int, int]


def known(folder: Path, data: str) -> Known:
    """Return `c10`, `c100` or `nb101`."""
    if data == "nb101":
        frame = pd.read_parquet(folder / "ecnas_nb101_4epoch.parquet").query("n == 5")
        frame = frame.assign(
            arch=frame["adjacency"] + ":" + frame["ops"],
            early=100 * frame["valid_acc_1"].fillna(frame["valid_acc_2"]),
            late=100 * frame["valid_acc_4"],
            test=100 * frame["test_acc_4"],
        ).drop_duplicates("arch", ignore_index=True)
        space = search_spaces.get("nasbench101:vertices=5")
        roles, late, epochs = Roles("arch", "early", "", "test"), "late", (1, 4)
    else:
        frame = pd.read_parquet(folder / "nb201.parquet")
        space = search_spaces.get("nasbench201")
        roles, epochs = Roles("arch", f"{data}_valid_12", "", f"{data}_test_200"), (12, 200)
        late = f"{data}_valid_200"
    return Known(read_benchmark(frame, roles, space), frame[late].to_numpy(float), epochs)


def delivered(table: Known, search: str, samples: int, select: int, seed: int) -> float:
    """Return the test accuracy of what one run delivers."""
    space = table.benchmark.space

    def macs(_: str | Score, arch: Architecture) -> float:
        return float(space.counts(arch).macs)

    done = Simulation(
        table.benchmark, construct("search", search, SEARCHERS), seed=seed, queries=samples,
        scores=macs,
    ).run().search  # fmt: skip
    best = [done.architectures[evaluation.index] for evaluation in done.ranked[:select]]
    row = max((table.benchmark.row(arch) for arch in best), key=lambda row: table.full[row])
    return float(table.benchmark.reports[row])


def selections(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for every table and setting of `select`."""
    for data in args.data:
        table = known(args.tables, data)
        for search, samples, select in SELECT:
            if args.search and search not in args.search:
                continue
            found = [delivered(table, search, samples, select, seed) for seed in range(args.runs)]
            short, full = table.epochs
            epochs = samples * short + select * full
            yield {
                "table": data, "search": search, "samples": samples, "select": select,
                "epochs": epochs, "runs": len(found),
            } | figures(np.array(found))  # fmt: skip


def stopped(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for every budget, scheduler and searcher of `asha`."""
    table = spikenas(args.tables).benchmark
    for budget in BUDGETS:
        for rungs in SCHEDULERS:
            first = None
            for search in args.search or SEARCHES:
                found = np.array([curtailed(table, budget, rungs, search, seed)
                                  for seed in range(args.runs)])  # fmt: skip
                first = found if first is None else first
                yield {
                    "scheduler": rungs, "search": search, "epochs": budget.epochs,
                    "runs": len(found), **figures(found),
                    "difference": round(float((found - first).mean()), 3),
                    "its error": standard_error(found - first),
                }  # fmt: skip


def curtailed(table: Benchmark, budget: Budget, rungs: str, search: str, seed: int) -> float:
    """Return the test accuracy of the winner of one search with ASHA."""
    return reported(
        Simulation(
            table, construct("search", search, SEARCHERS), scheduler(rungs, budget.evaluation),
            seed=seed, time_budget=budget.epochs / budget.workers, workers=budget.workers,
            scores=lambda *_: 0.0,
        ).run()
    )  # fmt: skip


def figures(found: Floats) -> dict[str, float]:
    """Return mean, its standard error, and the worst and the median run, in percent."""
    return {
        "mean": round(float(found.mean()), 3),
        "error": standard_error(found),
        "worst": round(float(found.min()), 3),
        "median": round(float(np.median(found)), 3),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", type=Path, default=Path("tables"), help="folder of the tables")
    parser.add_argument("--only", choices=("all", "select", "asha"), default="all")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--search", nargs="+", help="only these")
    parser.add_argument("--data", nargs="+", choices=("c10", "c100", "nb101"),
                        default=["c10", "c100", "nb101"], help="tables of `select`")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    args = parser.parse_args()
    rows = []
    for only, measured in (("select", selections), ("asha", stopped)):
        for row in measured(args) if args.only in ("all", only) else ():
            rows.append(row)
            if not args.json:
                print(pd.DataFrame([row]).to_string(index=False, header=len(rows) == 1), flush=True)
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
