"""How flat the surroundings of architectures are: the values of what was evaluated beside them.

A flat optimum stays good when one decision changes. This is computed from whatever
a run has evaluated, by any searcher; `raynas.searchers.neighborhood` searches for it.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

import search_spaces
from raynas.errors import RaynasError, UnknownName
from raynas.record.events import METRIC, Status
from raynas.record.results import Result, load
from search_spaces import Architecture, SearchSpace

#: of `Flatness`, as columns of a table of trials
COLUMNS = ("neighbors", "neighborhood_mean", "neighborhood_worst", "neighborhood_std")


class Flatness(NamedTuple):
    """What is known of an architecture's neighborhood, to which it belongs itself.

    Attributes:
        own: the architecture's own value.
        neighbors: how many of its neighbors have a value; those that compute the same function
            as one that was evaluated have its value.
        mean: of the neighborhood.
        worst: of the neighborhood.
        std: of the neighborhood; not of a sample.
    """

    own: float
    neighbors: int
    mean: float
    worst: float
    std: float

    @property
    def drop(self) -> float:
        """How far the mean of the neighbors is below the architecture's own value."""
        return (self.own - self.mean) * (self.neighbors + 1) / self.neighbors


class Neighborhoods:
    """Collects values and tells how flat their surroundings are, at distance 1."""

    def __init__(self, space: SearchSpace):
        self.space = space
        #: {canonical form: value}
        self._values: dict[Architecture, float] = {}
        self._own: dict[int, Architecture] = {}
        #: {evaluation: canonical forms of all its neighbors}
        self._near: dict[int, list[Architecture]] = {}
        self._beside: dict[Architecture, set[int]] = {}

    def add(self, index: int, arch: Architecture, value: float) -> list[int]:
        """Take in an evaluation; whose flatness that changes, rising."""
        if not math.isfinite(value):
            return []
        try:
            near = [self.space.canonical(neighbor) for neighbor in self.space.neighbors(arch)]
        except RaynasError:  # a published architecture that the decisions cannot express
            return []
        form = self.space.canonical(arch)
        self._values[form], self._own[index], self._near[index] = value, form, near
        for neighbor in near:
            self._beside.setdefault(neighbor, set()).add(index)
        return sorted({index} | self._beside.get(form, set()))

    def __getitem__(self, index: int) -> Flatness | None:
        """The flatness of an evaluation; None where nothing else near it has a value."""
        form = self._own.get(index)
        if form is None or all(
            near == form or near not in self._values for near in self._near[index]
        ):
            return None
        own = self._values[form]
        found = [self._values[near] for near in self._near[index] if near in self._values]
        values = np.array([own, *found])
        return Flatness(
            own, len(found), float(values.mean()), float(values.min()), float(values.std())
        )


def flatness(run: str | Path | Result, space: SearchSpace | None = None) -> pd.DataFrame:
    """The flatness of all evaluations of a run, finished or not, whatever its searcher.

    Args:
        run: its folder, or what `raynas.run` and `raynas.load` return.
        space: the search space; None: the one of the run, if it has a name.

    Returns:
        One row for each evaluation beside which at least one other architecture was evaluated:
        `evaluation`, `architecture`, `epochs`, its own `val_accuracy`, and of the
        neighborhood, itself included, `neighbors` (their number without itself),
        `neighborhood_mean`, `neighborhood_worst` and `neighborhood_std`. Trials that were
        stopped early are in it with the value they had; see `epochs`.

    Raises:
        UnknownName: for a space of the user's own that was not given.
    """
    result = run if isinstance(run, Result) else load(run)
    if space is None:
        try:
            space = search_spaces.get(str(result.config["space"]))
        except UnknownName as error:
            raise UnknownName(f"{error} Give the run's own space: flatness(run, space).") from None
    table = with_flatness(result.trials, space, metric=result.metric)
    known = table[table["neighbors"] > 0]
    return known[["evaluation", "architecture", "epochs", result.metric, *COLUMNS]].reset_index(
        drop=True
    )


def with_flatness(
    trials: pd.DataFrame,
    space: SearchSpace,
    merits: Mapping[int, float] | None = None,
    metric: str = METRIC,
) -> pd.DataFrame:
    """A table of trials with the columns `COLUMNS`; NaN where no neighbor was evaluated.

    Args:
        trials: as `Result.trials`.
        space: the search space.
        merits: {evaluation: how the searcher judged it}, for another column `merit`.
        metric: the column that the search maximized.
    """
    usable = trials[trials["status"].isin([Status.COMPLETED.value, Status.STOPPED.value])]
    rows = zip(usable["evaluation"], usable["architecture"], usable[metric], strict=True)
    known = collected(space, ((i, space.from_string(text), value) for i, text, value in rows))
    found = [known[i] for i in trials["evaluation"]]
    columns = {
        name: [math.nan if f is None else f[1 + i] for f in found] for i, name in enumerate(COLUMNS)
    }
    if merits:
        columns["merit"] = [merits.get(i, math.nan) for i in trials["evaluation"]]
    return trials.assign(**columns)


def collected(
    space: SearchSpace, evaluations: Iterable[tuple[int, Architecture, float]]
) -> Neighborhoods:
    """The neighborhoods of (index, architecture, value)."""
    known = Neighborhoods(space)
    for index, arch, value in evaluations:
        known.add(index, arch, value)
    return known
