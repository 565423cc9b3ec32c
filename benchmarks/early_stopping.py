"""Early stopping: ASHA's options against today's default, simulated at equal cost.

    python -m benchmarks.early_stopping --tables FOLDER [--only searches|audits|curves]
        [--seeds 200] [--quick] [--json]

`searches`: random search on SpikeNAS-Bench (spikenas_cifar10.parquet, a learning curve of 100
epochs of each of 14,935 cells). All sides have the same seeds and the same total of epochs; what
is not done by then does not count. The winner is the best by validation accuracy of those with the
most epochs; reported is its test accuracy after all 100 epochs. In `short` searches an evaluation
is the first 16 epochs. In three of the tables some cells start slowly: they are at chance for some
epochs, uniform from 1 to the number that is said, and then go through their whole curve in what is
left, so all end where they ended before. Which cells: drawn at random, or the best by final
accuracy.

`grace=FIRST` is a sixteenth of the epochs of an evaluation, but 4 or a quarter of them at least: 4
of 16, 6 of 100, 12 of 200.

`audits`: the same, but with 24 evaluations and no limit of epochs: what the audit costs and shows.

`curves`: searches of 1,000 epochs in which every evaluation is one of the trainings of 200 epochs,
with three seeds, of the three cells of nats_curves_3arch.parquet, drawn at random: the final
accuracy of the chosen cell, a mean over its seeds, and how often it is the best of the three.

Measures: `TABLE EPOCHS SETTING`, test accuracy in percent, `ours` of the setting and `other` of
today's default, with the mean difference over pairs of runs and its standard error.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.stratified import show, spikenas, standard_error
from raynas.benchmarking.simulation import Simulation
from raynas.record.history import Evaluation
from raynas.reports.audit import audits
from raynas.schedulers import SCHEDULERS, Scheduler
from raynas.searchers import RandomSearch
from search_spaces.naming import construct
from trials.tables.benchmark import Benchmark

#: of 25,000 validation images of ten classes: 10 % and ten standard errors, in percent
CHANCE = 12
TODAY = "asha"
SETTINGS = (
    "asha:peers=8",
    f"asha:peers=8,chance={CHANCE}",
    "asha:variant=promotion",
    "asha:variant=promotion,peers=8",
    f"asha:variant=promotion,peers=8,chance={CHANCE}",
    f"asha:variant=promotion,peers=8,chance={CHANCE},extrapolate=true",
    f"asha:variant=promotion,peers=8,chance={CHANCE},grace=FIRST",
    "fifo",
)
AUDITED = (TODAY, SETTINGS[4], SETTINGS[6])
SHOWN = ("first", "some", "none")  # what an audited evaluation is ahead of
SAMPLES, SHORT = 24, 16  # evaluations and epochs of a search that ends by itself


class Budget(NamedTuple):
    """What a search may cost.

    Attributes:
        epochs: in all.
        workers: at the same time.
        evaluation: epochs of a full evaluation.
    """

    epochs: int
    workers: int
    evaluation: int


BUDGETS = (Budget(96, 2, SHORT), Budget(300, 4, 100), Budget(1_000, 4, 100))


def slow_starters(
    benchmark: Benchmark, share: float, most: int, best: bool = False, seed: int = 0
) -> Benchmark:
    """Return a table in which some cells start slowly and end where they ended before.

    Args:
        benchmark: with curves of equal length, in percent.
        share: of the cells.
        most: epochs at chance.
        best: whether it is the best by final accuracy, or any.
        seed: of which, and of for how long.
    """
    rng = np.random.default_rng(seed)
    final = np.array([curve[-1] for curve in benchmark.curves])
    drawn = final if best else rng.random(len(final))
    slow = drawn >= np.quantile(drawn, 1 - share)
    delays = rng.integers(1, most + 1, len(final))
    curves = [
        delayed(curve, int(delay)) if is_slow else curve
        for curve, delay, is_slow in zip(benchmark.curves, delays, slow, strict=True)
    ]
    return replace(benchmark, curves=curves)


def delayed(curve: NDArray[np.float64], delay: int) -> NDArray[np.float64]:
    """Return a curve that is at chance, 10 %, for some epochs and then the faster."""
    last, epochs = len(curve) - 1, np.arange(len(curve))
    source = np.round((epochs - delay) * last / (last - delay)).astype(int).clip(0)
    return np.where(epochs < delay, 10.0, curve[source])


def first_epochs(benchmark: Benchmark, epochs: int) -> Benchmark:
    """Return the table of evaluations of so many epochs, at one unit of cost each."""
    curves = [curve[:epochs] for curve in benchmark.curves]
    return replace(benchmark, curves=curves, costs=np.full(len(curves), float(epochs)))


def scheduler(setting: str, epochs: int) -> Scheduler:
    """Return a new one, for evaluations of so many epochs."""
    text = setting.replace("FIRST", str(max(epochs // 16, min(4, epochs // 4))))
    return construct("scheduler", text, SCHEDULERS)


def tables(folder: Path) -> dict[str, Benchmark]:
    """Return {name: table}."""
    cells = spikenas(folder).benchmark
    return {
        "as they are": cells,
        "any 30 % slow, to 6": slow_starters(cells, 0.3, 6),
        "any 70 % slow, to 3": slow_starters(cells, 0.7, 3),
        "best 10 % slow, to 6": slow_starters(cells, 0.1, 6, best=True),
        "best 50 % slow, to 3": slow_starters(cells, 0.5, 3, best=True),
    }


def reported(simulation: Simulation) -> float:
    """Return the test accuracy of the winner; where nothing was done in time, chance."""
    best = simulation.search.best
    if best is None:
        return 10.0
    arch = simulation.search.architectures[best.index]
    return float(simulation.benchmark.reports[simulation.benchmark.row(arch)])


def searched(table: Benchmark, budget: Budget, setting: str, seeds: int) -> NDArray[np.float64]:
    """Return what is reported with every seed."""
    return np.array(
        [
            reported(
                Simulation(
                    table, RandomSearch(), scheduler(setting, budget.evaluation), seed=seed,
                    time_budget=budget.epochs / budget.workers, workers=budget.workers,
                ).run()
            )
            for seed in range(seeds)
        ]
    )  # fmt: skip


def searches(folder: Path, seeds: int) -> Iterator[dict[str, Any]]:
    """Yield a row for every table, budget and setting."""
    for name, cells in tables(folder).items():
        for budget in BUDGETS:
            table = first_epochs(cells, budget.evaluation)
            other = searched(table, budget, TODAY, seeds)
            for setting in SETTINGS:
                if setting == "fifo" and budget.epochs < budget.workers * budget.evaluation:
                    continue  # it would be done with nothing
                ours = searched(table, budget, setting, seeds)
                difference = ours - other
                yield {
                    "measure": f"{name} | {budget.epochs} | {setting}",
                    "ours": round(float(ours.mean()), 3),
                    "other": round(float(other.mean()), 3),
                    "errors": [standard_error(ours), standard_error(other)],
                    "difference": round(float(difference.mean()), 3),
                    "standard_error": standard_error(difference),
                    "unit": "% test accuracy",
                }


def audited(folder: Path, seeds: int) -> list[list[str]]:
    """Return rows of text: searches of 24 evaluations with and without an audit."""
    head = ["", "scheduler", "test accuracy", "audited", "epochs", "audited"]
    rows = [[*head, "place 1", "ahead of some", "behind all"]]
    for name, cells in tables(folder).items():
        table = first_epochs(cells, SHORT)
        for setting in AUDITED:
            accuracy, epochs, places = [], [], []
            for option in ("", f"{',' if ':' in setting else ':'}audit=true"):
                runs = [
                    Simulation(
                        table, RandomSearch(), scheduler(setting + option, SHORT),
                        seed=seed, queries=SAMPLES, workers=2,
                    ).run()
                    for seed in range(seeds)
                ]  # fmt: skip
                accuracy.append(np.array([reported(run) for run in runs]))
                epochs.append(np.mean([total(run.search.evaluations) for run in runs]))
                places += [shown_by(run) for run in runs if option]
            rows.append(
                [
                    *(name, setting, _mean(accuracy[0]), _mean(accuracy[1] - accuracy[0])),
                    *(f"{mean:.1f}" for mean in epochs),
                    *(f"{np.mean([p == shown for p in places]):.1%}" for shown in SHOWN),
                ]
            )
    return rows


def total(evaluations: list[Evaluation]) -> int:
    """Return the epochs of a search."""
    return sum(evaluation.epochs for evaluation in evaluations)


def shown_by(run: Simulation) -> str:
    """Return which of `SHOWN` an audit showed; empty where nothing was stopped."""
    for audit in audits(run.search.history):
        if audit.place == 1:
            return "first"
        return "some" if audit.place <= len(audit.others) else "none"
    return ""


def trained(one: Scheduler, draw: Callable[[], NDArray[np.float64]], budget: Budget) -> int:
    """Drive a scheduler over curves that are drawn, workers in step, until the budget is used.

    Returns:
        The best of those that have ended with the most epochs.
    """
    one.start(budget.evaluation)
    curves, reached, running, ended = list[NDArray[np.float64]](), list[int](), list[int](), set()
    for _ in range(budget.epochs):
        while len(running) < budget.workers:
            index = one.promote() if one.promotes else None
            if index is None:
                index = len(curves)
                curves.append(draw())
                reached.append(0)
            ended.discard(index)
            running.append(index)
        index = running.pop(0)
        reached[index] += 1
        goes_on = one.report(index, reached[index], float(curves[index][reached[index] - 1]))
        if goes_on and reached[index] < budget.evaluation:
            running.append(index)
        else:
            ended.add(index)
    return max(ended, key=lambda i: (reached[i], curves[i][reached[i] - 1]))


def few_curves(folder: Path, seeds: int) -> list[list[str]]:
    """Return rows of text: searches over the trainings of three cells of NAS-Bench-201."""
    frame = pd.read_parquet(folder / "nats_curves_3arch.parquet").query("hp == 200")
    rows = [["", "scheduler", "final accuracy", "difference", "the best cell"]]
    for data, classes in (("cifar10-valid", 10), ("cifar100", 100), ("ImageNet16-120", 120)):
        runs = frame[frame["dataset"] == data]
        column = "x_valid_acc" if data == "cifar10-valid" else "ori_test_acc"
        curves = [np.asarray(curve, dtype=np.float64) for curve in runs[column]]
        final = pd.Series([curve[-1] for curve in curves]).groupby(list(runs["index"])).mean()
        of_curve = final[runs["index"]].to_numpy()
        other = None
        for setting in (TODAY, *SETTINGS[:-1]):
            text = setting.replace(f"chance={CHANCE}", f"chance={10 * CHANCE / classes:g}")
            ours = np.array([_chosen(text, curves, of_curve, seed) for seed in range(seeds)])
            other = ours if other is None else other
            best, difference = (ours == final.max()).astype(float), ours - other
            rows.append([data, text, *map(_mean, (ours, difference, best))])
    return rows


def _chosen(
    setting: str, curves: list[NDArray[np.float64]], final: NDArray[np.float64], seed: int
) -> float:
    """Return the final accuracy of the cell that a search over these trainings chooses."""
    rng, drawn = np.random.default_rng(seed), list[int]()

    def draw() -> NDArray[np.float64]:
        drawn.append(int(rng.integers(len(curves))))
        return curves[drawn[-1]]

    budget = Budget(1_000, 4, 200)
    return float(final[drawn[trained(scheduler(setting, budget.evaluation), draw, budget)]])


def _mean(values: NDArray[np.float64]) -> str:
    return f"{values.mean():.3f} ± {standard_error(values)}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=Path, default=Path("tables"), help="folder of the tables")
    parser.add_argument("--only", choices=("all", "searches", "audits", "curves"), default="all")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="ten seeds")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    seeds, found = 10 if args.quick else args.seeds, {}
    for row in searches(args.tables, seeds) if args.only in ("all", "searches") else ():
        measure = found[row.pop("measure")] = row
        if not args.json:
            (ours, other), name = measure["errors"], list(found)[-1]
            print(
                f"| {name} | {row['ours']} ± {ours} | {row['other']} ± {other} |"
                f" {row['difference']:+} ± {row['standard_error']} |", flush=True,
            )  # fmt: skip
    if args.json:
        print(json.dumps(found))
        return
    if args.only in ("all", "audits"):
        show(audited(args.tables, seeds))
    if args.only in ("all", "curves"):
        show(few_curves(args.tables, seeds))


if __name__ == "__main__":
    main()
