"""How far to trust a ranking by shared weights: against the truth, and against itself.

The measures are in `raynas.understanding.rank_measures`, what is compared in
`raynas.understanding.rankings`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from raynas.errors import InvalidArgument
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
from raynas.understanding.rankings import read_rankings, space_of, true_values
from search_spaces import SearchSpace

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
        """Say what to use the ranking for, in plain language.

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
        """Return one row per measure that is known: `measure`, `value`, `low`, `high`."""
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
    """Measure how far the ranking of a run's supernet can be trusted.

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
    tables = [read_rankings(result.path) for result in results]
    names = list(tables[0].columns)
    for result, table in zip(results, tables, strict=True):
        if list(table.columns) != names:
            raise InvalidArgument(
                f"runs: {result.path} ranks other architectures than {results[0].path}; compare"
                " runs with the same space, groups and probes."
            )
    space = space_of(results[0])
    finals = [table.loc["final"].to_numpy()[0] for table in tables]
    stability = RankStability(
        architectures=len(names),
        runs=s_tau(finals) if len(finals) > 1 else None,
        epochs=_mean_s_tau(tables, "epoch"),
        batches=_mean_s_tau(tables, "batch"),
    )
    if truth is None:
        return stability
    values = true_values(truth, names, space)
    where = np.flatnonzero(~np.isnan(values))
    if len(where) < _FEWEST:
        raise InvalidArgument(
            f"truth: has {len(where)} of the {len(names)} ranked architectures; at least {_FEWEST}"
            " are needed. They are in supernet/rankings.parquet."
        )
    return _compared(stability, [table.iloc[:, where] for table in tables], values[where], space,
                     seed)  # fmt: skip


def _compared(
    stability: RankStability, tables: list[pd.DataFrame], truth: Numbers,
    space: SearchSpace | None, seed: int,
) -> RankStability:  # fmt: skip
    """Add what the truth says of rankings.

    Args:
        stability: of the rankings among themselves.
        tables: of each run, one row per ranking, one column per architecture of the truth.
        truth: the true values of these architectures.
        space: of the architectures, where it is known.
        seed: of the bootstraps.
    """
    finals = [table.loc["final"].to_numpy()[0] for table in tables]
    batches = [
        [gt_tau(row, truth) for row in table.loc["batch"].to_numpy()]
        for table in tables if "batch" in table.index
    ]  # fmt: skip
    low, high = tau_interval(finals[0], truth, seed)
    spread = float(np.mean([np.std(taus) for taus in batches])) if batches else 0.0
    mean = float(np.mean([np.mean(taus) for taus in batches])) if batches else 0.0
    return replace(
        stability,
        compared=len(truth),
        tau=Interval(gt_tau(finals[0], truth), low, high),
        tau_batches=Interval(mean, mean - spread, mean + spread) if batches else None,
        top_rank={
            n: float(np.mean([top_n_rank(final, truth, n) for final in finals]))
            for n in _TOPS
            if n < len(truth)
        },
        operations=_over_rated(finals[0], truth, list(tables[0].columns), space, seed),
    )


def _mean_s_tau(tables: list[pd.DataFrame], kind: str) -> STau | None:
    """Return S-Tau between the rankings of one kind, averaged over runs."""
    agreements = [
        s_tau(table.loc[kind].to_numpy())
        for table in tables
        if kind in table.index and len(table.loc[kind]) > 1
    ]
    return STau(*np.mean(agreements, axis=0)[:3].tolist()) if agreements else None


def _over_rated(
    values: Numbers, truth: Numbers, names: list[str], space: SearchSpace | None, seed: int
) -> pd.DataFrame:
    """Return the table of `RankStability.operations`."""
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
