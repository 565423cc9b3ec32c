"""How far to trust a ranking by shared weights: against the truth, and against itself.

The measures are in `raynas.understanding.rank_measures`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import search_spaces
from raynas.errors import InvalidArgument, UnknownName
from raynas.record.events import METRIC, Status
from raynas.record.folder import RunFolder
from raynas.record.results import Result, load
from raynas.understanding.rank_measures import (
    Numbers,
    STau,
    gt_tau,
    random_std,
    ranks,
    s_tau,
    tau_interval,
    top_n_rank,
)
from search_spaces import SearchSpace
from search_spaces.naming import construct
from trials import EVALUATORS, Table

_FEWEST = 5  # architectures that a comparison needs
_TOPS = (1, 3, 10)
#: lower bounds of tau from which on a ranking is good for more; see `RankStability.verdict`
_DISCARD, _SHORTLIST, _TRUST = 0.0, 0.4, 0.7


class Interval(NamedTuple):
    """A value with its 95 % interval; NaN bounds where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        text = f"{self.value:.2f}"
        return text if math.isnan(self.low) else f"{text} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class RankStability:
    """What a supernet's ranking is worth.

    Attributes:
        architectures: number of ranked architectures.
        compared: how many of them the truth has; 0 without truth.
        tau: GT-Tau of the finished supernet (of the first run), over architectures.
        tau_batches: mean of GT-Tau over the last mini-batches (GT-Tau-Mean-k); its bounds are
            the mean -+ the standard deviation (GT-Tau-Std-k).
        runs: S-Tau between the finished supernets of several runs.
        epochs: S-Tau between the last epochs of one run, averaged over runs; without an interval,
            since they depend on each other.
        batches: S-Tau between the last mini-batches of one run, likewise.
        top_rank: {n: Top-n-Rank}, averaged over runs.
        operations: `decision`, `choice`, `architectures`, and `over_rated` with its bootstrap
            interval `low`, `high`: by how many ranks the supernet puts architectures with this
            choice too high, on average; the most over-rated first. Empty without truth.
    """

    architectures: int
    compared: int = 0
    tau: Interval | None = None
    tau_batches: Interval | None = None
    runs: STau | None = None
    epochs: STau | None = None
    batches: STau | None = None
    top_rank: Mapping[int, float] = field(default_factory=dict)
    operations: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def verdict(self) -> str:
        """What to use the ranking for, in plain language.

        By the interval of tau: not above 0, for nothing. Above 0: whole halves can be told
        apart. Above .4: the better half of random pairs are in order at odds of 7 to 3, enough
        for a shortlist that is trained alone. Above .7: as good as a training with another seed,
        whose tau with the mean of ten was .8 in the study.
        """
        return f"{self._against_truth()} {self._against_itself()}".strip()

    def _against_truth(self) -> str:
        if self.tau is None:
            return "The truth is not known: train some of the architectures alone to compare."
        said = f"Tau {self.tau} with the truth over {self.compared} architectures:"
        low = self.tau.low
        if not low > _DISCARD:
            return f"{said} not distinguishable from chance, do not use it to choose."
        if low <= _SHORTLIST:
            return f"{said} use it to discard the worst half, not to pick the winner."
        if low <= _TRUST:
            return f"{said} use it for a shortlist, and train the shortlist to pick the winner."
        return f"{said} about as good as one training of each; still train the best few."

    def _against_itself(self) -> str:
        for spread, what in ((self.batches, "mini-batches"), (self.epochs, "epochs"),
                             (self.runs, "runs")):  # fmt: skip
            if spread is not None and spread.mean < _TRUST:
                return (
                    f"The ranking changes between {what} (S-Tau {spread.mean:.2f}): average over"
                    " several."
                )
        return ""

    def to_frame(self) -> pd.DataFrame:
        """One row per measure that is known: `measure`, `value`, `low`, `high`."""
        rows: list[tuple[str, float, float, float]] = []
        if self.tau is not None:
            rows.append(("GT-Tau", *self.tau))
        if self.tau_batches is not None:
            rows.append(("GT-Tau, last mini-batches (-+ std)", *self.tau_batches))
        for name, spread in (("runs", self.runs), ("last epochs", self.epochs),
                             ("last mini-batches", self.batches)):  # fmt: skip
            if spread is not None:
                rows.append((f"S-Tau, {name}", spread.mean, spread.low, spread.high))
        rows += [(f"Top-{n}-Rank", rank, math.nan, math.nan) for n, rank in self.top_rank.items()]
        rows.append(("std of tau if random", random_std(self.architectures), math.nan, math.nan))
        return pd.DataFrame(rows, columns=["measure", "value", "low", "high"])

    def __str__(self) -> str:
        parts = [
            f"{self.architectures} architectures",
            self.to_frame().round(3).to_string(index=False),
        ]
        if not self.operations.empty:
            parts.append(self.operations.round(2).to_string(index=False))
        return "\n".join([*parts, self.verdict])


def rank_stability(
    runs: Result | str | Path | Sequence[Result | str | Path],
    truth: Any = None,
    seed: int = 0,
) -> RankStability:
    """How far the ranking of a run's supernet can be trusted.

    Args:
        runs: a run with `evaluate="supernet"`, or several that differ in their seed or in the
            order of training, whose rankings are then compared.
        truth: what the architectures reach when they are trained alone: {notation: value} or a
            Series of that, a run with `evaluate="train"`, a `Table`, or `table:FILE`. None: only
            the ranking's agreement with itself is told.
        seed: of the bootstrap.

    Raises:
        InvalidArgument: when a run has no rankings, runs do not rank the same architectures, or
            the truth has fewer than 5 of them.
    """
    several = list(runs) if isinstance(runs, Sequence) and not isinstance(runs, str) else [runs]
    if not several:
        raise InvalidArgument("runs: none are given.")
    results = [run if isinstance(run, Result) else load(run) for run in several]
    tables = [_rankings(result.path) for result in results]
    names = list(tables[0].columns)
    for result, table in zip(results, tables, strict=True):
        if list(table.columns) != names:
            raise InvalidArgument(
                f"runs: {result.path} ranks other architectures than {results[0].path}; compare"
                " runs with the same space, groups and probes."
            )
    space = _space(results[0])
    finals = [table.loc["final"].to_numpy()[0] for table in tables]
    found = RankStability(
        architectures=len(names),
        runs=s_tau(finals) if len(finals) > 1 else None,
        epochs=_mean_s_tau(tables, "epoch"),
        batches=_mean_s_tau(tables, "batch"),
    )
    if truth is None:
        return found
    known = _truth(truth, names, space)
    where = np.flatnonzero(~np.isnan(known))
    if len(where) < _FEWEST:
        raise InvalidArgument(
            f"truth: has {len(where)} of the {len(names)} ranked architectures; at least {_FEWEST}"
            " are needed. They are in supernet/rankings.parquet."
        )
    return _compared(found, tables, finals, known, where, names, space, seed)


def _compared(
    found: RankStability, tables: list[pd.DataFrame], finals: list[Numbers], known: Numbers,
    where: NDArray[np.int64], names: list[str], space: SearchSpace | None, seed: int,
) -> RankStability:  # fmt: skip
    true = known[where]
    batches = [
        [gt_tau(row[where], true) for row in table.loc["batch"].to_numpy()]
        for table in tables if "batch" in table.index
    ]  # fmt: skip
    low, high = tau_interval(finals[0][where], true, seed)
    spread = float(np.mean([np.std(taus) for taus in batches])) if batches else 0.0
    mean = float(np.mean([np.mean(taus) for taus in batches])) if batches else 0.0
    tops = [n for n in _TOPS if n < len(where)]
    return RankStability(
        architectures=found.architectures,
        compared=len(where),
        tau=Interval(gt_tau(finals[0][where], true), low, high),
        tau_batches=Interval(mean, mean - spread, mean + spread) if batches else None,
        runs=found.runs,
        epochs=found.epochs,
        batches=found.batches,
        top_rank={
            n: float(np.mean([top_n_rank(final[where], true, n) for final in finals])) for n in tops
        },
        operations=_over_rated(finals[0][where], true, [names[i] for i in where], space, seed),
    )


def _rankings(folder: Path) -> pd.DataFrame:
    """One row per ranking, (kind, offset), one column per architecture."""
    path = RunFolder(folder).rankings
    if not path.exists():
        raise InvalidArgument(
            f"runs: {folder} has no {path.relative_to(folder)}. Rankings are kept by runs with"
            " evaluate='supernet' and probes > 0, once the supernet is trained."
        )
    try:
        rows = pd.read_parquet(path)
        rows = rows.drop_duplicates(["kind", "offset", "architecture"], keep="last")
        table = rows.pivot(index=["kind", "offset"], columns="architecture", values="accuracy")
    except (OSError, ValueError, KeyError) as error:
        raise InvalidArgument(f"runs: {path} cannot be read: {error}") from error
    if "final" not in table.index:
        raise InvalidArgument(f"runs: {path} has no final ranking; the training has not ended.")
    return table


def _mean_s_tau(tables: list[pd.DataFrame], kind: str) -> STau | None:
    """S-Tau between the rankings of one kind, averaged over runs."""
    found = [
        s_tau(table.loc[kind].to_numpy())
        for table in tables
        if kind in table.index and len(table.loc[kind]) > 1
    ]
    return STau(*np.mean(found, axis=0)[:3].tolist()) if found else None


def _space(result: Result) -> SearchSpace | None:
    """The space of a run; None where only the user could make it."""
    try:
        return search_spaces.get(result.config["space"])
    except UnknownName:
        return None


def _truth(truth: Any, names: list[str], space: SearchSpace | None) -> Numbers:
    """The true value of each architecture; NaN where it is not known."""
    if isinstance(truth, str) and truth.partition(":")[0] == "table":
        truth = construct("truth", truth, EVALUATORS)
    if isinstance(truth, Table):
        if space is None:
            raise InvalidArgument("truth: a table needs a built-in space.")
        benchmark = truth.benchmark(space)
        values = {}
        for name in names:
            arch = space.from_string(name)
            if benchmark.space.is_valid(arch):
                values[name] = float(benchmark.curves[benchmark.row(arch)][-1])
        return np.array([values.get(name, math.nan) for name in names])
    if isinstance(truth, Result | str | Path):
        truth = _trained(truth if isinstance(truth, Result) else load(truth))
    if not isinstance(truth, Mapping | pd.Series):
        raise InvalidArgument(
            f"truth={truth!r}: give a mapping or Series from notation to value, a run, or"
            " table:FILE."
        )

    def form(text: str) -> Any:
        return text if space is None else space.canonical(space.from_string(text))

    own = {str(name): float(value) for name, value in truth.items()}
    equal = {form(name): value for name, value in own.items()}
    return np.array([own.get(name, equal.get(form(name), math.nan)) for name in names])


def _trained(result: Result) -> dict[str, float]:
    """What the trials of a run reached that were trained longest."""
    if result.config["evaluate"].partition(":")[0] in ("supernet", "proxy"):
        raise InvalidArgument(f"truth: {result.path} has no architectures that were trained alone.")
    trials = result.trials
    done = trials[trials["status"] == Status.COMPLETED]
    done = done[done["epochs"] == done["epochs"].max()]
    return dict(zip(done["architecture"], done[METRIC], strict=True))


def _over_rated(
    values: Numbers, truth: Numbers, names: list[str], space: SearchSpace | None, seed: int
) -> pd.DataFrame:
    """See `RankStability.operations`."""
    columns = ["decision", "choice", "architectures", "over_rated", "low", "high"]
    if space is None:
        return pd.DataFrame(columns=columns)
    excess = ranks(values) - ranks(truth)  # ranks rise with the value
    configs = [space.to_config(space.from_string(name)) for name in names]
    rng = np.random.default_rng(seed)
    rows = []
    for decision in space.decisions:
        for choice in decision.choices:
            mine = excess[[config[decision.name] == choice for config in configs]]
            if len(mine) < 2:
                continue
            means = rng.choice(mine, (1000, len(mine))).mean(1)
            low, high = np.percentile(means, [2.5, 97.5])
            rows.append((decision.name, str(choice), len(mine), mine.mean(), low, high))
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values("over_rated", ascending=False, ignore_index=True)
