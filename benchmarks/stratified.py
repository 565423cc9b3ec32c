"""ASHA against ASHA within strata, simulated on published results at equal cost.

    python -m benchmarks.stratified --tables FOLDER [--only spikenas|nb201|curves] [--seeds 200]
        [--quick] [--json]

Both sides have the same seeds and the same budget of epochs on four simulated workers; what is
not done by then does not count. The winner is what `run()` would retrain, the best by validation
accuracy of those with the most epochs; reported is its test accuracy after full training.

`spikenas` (spikenas_cifar10.parquet, the cells trained for 100 epochs) has a learning curve of
every cell. `nb201` (nb201.parquet) has two points, validation accuracy of a training of 12 epochs
and of another of 200, and so one rung; the second costs 200 epochs more. `curves`
(nats_curves_3arch.parquet) has all epochs of three cells, which is no search: it says whether they
are in the final order at the rungs.

Measures: `TABLE searcher variant reduction grace by at budget`, test accuracy in percent, `ours`
of stratified ASHA and `other` of ASHA, with the mean difference over pairs of runs and its
standard error.
"""

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import search_spaces
from raynas.benchmarking.simulation import Simulation
from raynas.record.history import Evaluation
from raynas.schedulers import Asha, AshaStratified
from raynas.searchers import SEARCHERS
from search_spaces import Architecture
from search_spaces.naming import construct
from search_spaces.properties import measure
from trials.tables.benchmark import Benchmark, Roles, read_benchmark

WORKERS = 4
NB201 = search_spaces.get("nasbench201")
#: operations of SpikeNAS in the notation of NAS-Bench-201, of which only the graph is used
SPIKING = {"none": "none", "skip": "skip_connect"}


class Setting(NamedTuple):
    """What is compared: the options of both schedulers, and those of the stratified one."""

    searcher: str = "random"
    variant: str = "stopping"
    reduction: int = 4
    grace: int = 1
    by: str = "depth"
    at: str = "early"

    @property
    def rungs(self) -> dict[str, Any]:
        """Return the options of both schedulers."""
        return {"grace": self.grace, "reduction": self.reduction, "variant": self.variant}


class Stages(Simulation):
    """A search of which every epoch has a cost of its own, instead of the same."""

    costs: tuple[float, ...] = ()

    def _epoch(self, evaluation: Evaluation) -> float:
        super()._epoch(evaluation)  # looks up the row
        return self.costs[evaluation.epochs]


@dataclass
class Known:
    """A table, and the properties of its architectures.

    Attributes:
        benchmark: the table; a cost of 1 an epoch.
        properties: {name: {architecture: value}}.
        budgets: of a search, in epochs.
        costs: of the points of a learning curve, in epochs; empty: 1 each.
    """

    benchmark: Benchmark
    properties: Mapping[str, Mapping[Architecture, float]]
    budgets: tuple[int, ...]
    costs: tuple[float, ...] = ()

    def searched(self, setting: Setting, stratified: bool, budget: int, seed: int) -> Simulation:
        """Return a search that is over."""
        scheduler = Asha(**setting.rungs)
        if stratified:
            values = self.properties[setting.by]
            scheduler = AshaStratified(
                **setting.rungs, by=lambda _, arch: values[arch], at=setting.at
            )
        searcher = construct("search", setting.searcher, SEARCHERS)
        simulation = (Stages if self.costs else Simulation)(
            self.benchmark, searcher, scheduler, seed=seed, time_budget=budget / WORKERS,
            workers=WORKERS,
        )  # fmt: skip
        if isinstance(simulation, Stages):
            simulation.costs = self.costs
        return simulation.run()

    def reported(self, simulation: Simulation) -> float:
        """Return the test accuracy of the winner."""
        best = simulation.search.best
        assert best is not None, "the budget is too small for one evaluation"
        arch = simulation.search.architectures[best.index]
        return float(self.benchmark.reports[self.benchmark.row(arch)])


def spikenas(folder: Path) -> Known:
    """Return the cells of SpikeNAS-Bench that were trained for 100 epochs."""
    frame = pd.read_parquet(folder / "spikenas_cifar10.parquet").query("epochs == 100")
    frame = frame.reset_index(drop=True).assign(cost=100.0)
    benchmark = read_benchmark(frame, Roles("arch", "valid_acc", "cost", "test_acc"))
    cells = {
        arch: re.sub(r"(\w+)~", lambda m: SPIKING.get(m[1], "nor_conv_3x3") + "~", text)
        for arch, text in zip(benchmark.rows, frame["arch"], strict=True)
    }
    graphs = {
        of: {arch: measure(of, NB201)(NB201.from_string(text)) for arch, text in cells.items()}
        for of in ("depth", "width")
    }
    params = dict(zip(benchmark.rows, map(float, frame["params"]), strict=True))
    return Known(benchmark, {**graphs, "params": params}, (1_000, 4_000))


def nasbench201(folder: Path, data: str) -> Known:
    """Return NAS-Bench-201 with one rung at 12 epochs; `data` is `c10` or `c100`."""
    frame = pd.read_parquet(folder / "nb201.parquet")
    early, late = (frame[f"{data}_valid_{epochs}"] for epochs in (12, 200))
    frame["curve"] = [list(pair) for pair in zip(early, late, strict=True)]
    benchmark = read_benchmark(frame, Roles("arch", "curve", "", f"{data}_test_200"))
    vars(benchmark.space)["canonical"] = cache(benchmark.space.canonical)
    properties = {
        of: {arch: measure(of, NB201)(arch) for arch in benchmark.rows}
        for of in ("depth", "width", "params")
    }
    return Known(benchmark, properties, (4_000, 20_000), (12.0, 200.0))


def compared(name: str, known: Known, setting: Setting, seeds: int) -> Iterator[dict[str, Any]]:
    """Yield one row for every budget."""
    for budget in known.budgets:
        other = plain(name, known, setting._replace(by="", at=""), budget, seeds)
        ours = np.array(
            [known.reported(known.searched(setting, True, budget, s)) for s in range(seeds)]
        )
        difference = ours - other
        yield {
            "measure": " ".join(map(str, (name, *setting, budget))),
            "ours": round(float(ours.mean()), 3),
            "other": round(float(other.mean()), 3),
            "errors": [standard_error(ours), standard_error(other)],
            "difference": round(float(difference.mean()), 3),
            "standard_error": standard_error(difference),
            "unit": "% test accuracy",
        }


_PLAIN: dict[tuple[str, Setting, int, int], NDArray[np.float64]] = {}


def plain(
    name: str, known: Known, setting: Setting, budget: int, seeds: int
) -> NDArray[np.float64]:
    """Return what plain ASHA reports for every seed; computed once for all strata."""
    key = (name, setting, budget, seeds)
    if key not in _PLAIN:
        runs = [known.searched(setting, False, budget, seed) for seed in range(seeds)]
        _PLAIN[key] = np.array([known.reported(run) for run in runs])
    return _PLAIN[key]


def standard_error(values: NDArray[np.float64]) -> float:
    """Return the standard error of a mean."""
    return round(float(values.std(ddof=1) / len(values) ** 0.5), 3)


def survivors(known: Known, setting: Setting, budget: int, seeds: int) -> list[list[str]]:
    """Return rows of text: of whom, and the share of every stratum ± its standard error.

    Proposed are fewer than the population where cells that compute the same function are one.
    """
    values = known.properties[setting.by]
    strata = np.unique(list(values.values()))
    rungs = [setting.grace * setting.reduction**k for k in range(9)]
    rungs = [epochs for epochs in rungs if epochs < known.benchmark.epochs]
    names = [f"{setting.by} {stratum:g}" for stratum in strata]
    everything = shares(list(values.values()), strata)
    rows = [["", *names], ["population", *(f"{share:.3f}" for share in everything)]]
    sides = [("ASHA", False, ""), ("early", True, "early"), ("all", True, "all")]
    if len(rungs) == 1:
        sides.pop()  # the one rung is early
    for side, stratified, at in sides:
        runs = [
            known.searched(setting._replace(at=at), stratified, budget, s) for s in range(seeds)
        ]
        for rung in (0, *rungs):
            survived = [
                [values[run.search.architectures[e.index]]
                 for e in run.search.evaluations if e.epochs > rung]
                for run in runs
            ]  # fmt: skip
            rows.append(
                [
                    f"{side}: passed {rung}" if rung else f"{side}: proposed",
                    *mean_shares(survived, strata),
                ]
            )
        winners = [values[run.search.architectures[run.search.best.index]] for run in runs]
        rows.append([f"{side}: won", *mean_shares([[w] for w in winners], strata)])
    return rows


def shares(values: list[float], strata: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of every stratum."""
    return np.array([np.mean(np.asarray(values) == stratum) for stratum in strata])


def mean_shares(runs: list[list[float]], strata: NDArray[np.float64]) -> list[str]:
    """Return the mean share of every stratum over runs, with its standard error, as text."""
    of_runs = np.array([shares(values, strata) for values in runs if values])
    errors = of_runs.std(axis=0, ddof=1) / len(of_runs) ** 0.5
    return [f"{m:.3f} ± {e:.3f}" for m, e in zip(of_runs.mean(axis=0), errors, strict=True)]


def biases(known: Known, by: str, epochs: tuple[int, ...]) -> list[list[str]]:
    """Return rows of text: the share of every stratum among the best quarter after some epochs."""
    benchmark, values = known.benchmark, np.array(list(known.properties[by].values()))
    strata = np.unique(values)
    rows = [["", *(f"{by} {stratum:g}" for stratum in strata)]]
    rows.append(["population", *(f"{s:.3f}" for s in shares(list(values), strata))])
    for epoch in epochs:
        reached = np.array([curve[epoch - 1] for curve in benchmark.curves])
        rows.append([f"best quarter, {epoch}", *best(reached, 0.75, values, strata)])
    for name, quantile in (("quarter", 0.75), ("hundredth", 0.99)):
        rows.append([f"best {name}, test", *best(benchmark.reports, quantile, values, strata)])
    return rows


def best(
    reached: NDArray[np.float64],
    quantile: float,
    values: NDArray[np.float64],
    strata: NDArray[np.float64],
) -> list[str]:
    """Return the share of every stratum among those above a quantile, as text."""
    chosen = values[reached >= np.nanquantile(reached, quantile)]
    return [f"{share:.3f}" for share in shares(list(chosen), strata)]


def curves(folder: Path) -> list[list[str]]:
    """Return rows of text: of each training of the three cells, the order at the rungs."""
    frame = pd.read_parquet(folder / "nats_curves_3arch.parquet").query("hp == 200")
    texts = pd.read_parquet(folder / "nb201.parquet", columns=["index", "arch"])
    cells = texts.set_index("index")["arch"].map(NB201.from_string)
    depths = ", ".join(f"{i} has depth {NB201.depth(cells[i])}" for i in frame["index"].unique())
    rows = [[depths, "epoch 1", "4", "16", "64", "200"]]
    for (data, seed), runs in frame.groupby(["dataset", "seed"]):
        part = "x_valid_acc" if data == "cifar10-valid" else "ori_test_acc"
        orders = []
        for epoch in (1, 4, 16, 64, 200):
            value = {i: c[epoch - 1] for i, c in zip(runs["index"], runs[part], strict=True)}
            orders.append(" > ".join(map(str, sorted(value, key=value.get, reverse=True))))
        rows.append([f"{data}, seed {seed}, {part}", *orders])
    return rows


def settings(quick: bool) -> list[Setting]:
    """Return what is compared on SpikeNAS."""
    main = [Setting(variant=v, at=at) for v, at in product(("stopping", "promotion"), AT)]
    if quick:
        return main
    others = [Setting(variant=v, by=by) for v in VARIANTS for by in ("width", "params")]
    others += [Setting(variant=v, reduction=2) for v in VARIANTS]
    others += [Setting(variant=v, grace=3) for v in VARIANTS]
    others += [Setting("evolution", v) for v in VARIANTS]
    return main + others


AT, VARIANTS = ("early", "all"), ("stopping", "promotion")


def show(rows: list[list[str]]) -> None:
    """Print a table."""
    head, *body = rows
    for row in (head, ["---"] * len(head), *body):
        print("|", " | ".join(row), "|", flush=True)
    print()


def results(only: str, folder: Path, seeds: int, quick: bool, quiet: bool) -> Iterator[Any]:
    """Yield the measures; print the tables as they come."""
    if only in ("all", "curves") and not quiet:
        show(curves(folder))
    if only in ("all", "spikenas"):
        known = spikenas(folder)
        for by in () if quiet else ("depth", "width", "params"):
            show(biases(known, by, (1, 4, 16, 64)))
        for setting in settings(quick):
            yield from compared("spikenas", known, setting, seeds)
        if not quiet:
            show(survivors(known, Setting(), known.budgets[1], seeds))
    for data in ("c10", "c100") if only in ("all", "nb201") else ():
        known = nasbench201(folder, data)
        if not quiet:
            show(biases(known, "depth", (1, 2)))
        for variant, by in product(VARIANTS, ("depth",) if quick else ("depth", "width", "params")):
            setting = Setting(variant=variant, by=by)
            yield from compared(f"nb201-{data}", known, setting, seeds)
        if not quiet:
            show(survivors(known, Setting(), known.budgets[1], seeds))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=Path, default=Path("tables"), help="folder of the tables")
    parser.add_argument("--only", choices=("all", "spikenas", "nb201", "curves"), default="all")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="ten seeds, fewer settings")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    seeds, found = 10 if args.quick else args.seeds, {}
    for row in results(args.only, args.tables, seeds, args.quick, args.json):
        found[row.pop("measure")] = row
        if not args.json:
            (name, row), (ours, other) = list(found.items())[-1], row["errors"]
            print(
                f"| {name} | {row['ours']} ± {ours} | {row['other']} ± {other} |"
                f" {row['difference']:+} ± {row['standard_error']} |", flush=True,
            )  # fmt: skip
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
