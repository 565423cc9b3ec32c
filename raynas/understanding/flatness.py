"""How flat the surroundings of architectures are: the values of what was evaluated beside them.

A flat optimum stays good when one decision changes. This is computed from whatever a run has
evaluated, by any searcher; `raynas.searchers.neighborhood` searches for it. Both take their
neighbors from the space (`SearchSpace.neighbors`): one decision is another one, and the wiring of a
cell stays. Here a network counts once, however many neighbors spell it, and an architecture's own
not at all: a dead edge says nothing about how flat an optimum is. The searcher counts spellings.
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

_DIGITS = 12  # of a drop


class Flatness(NamedTuple):
    """The values of an architecture's neighborhood, to which it belongs itself.

    Attributes:
        own: the architecture's own value.
        neighbors: how many of its neighbors have a value, their own or that of one that computes
            the same function. Those that compute the same count once, and not at all when it is
            what the architecture computes.
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
        """Return how far the mean of the neighbors is below the architecture's own value."""
        drop = (self.own - self.mean) * (self.neighbors + 1) / self.neighbors
        return round(drop, _DIGITS)  # else equal values differ by the rounding of their mean


class Neighborhoods:
    """Collects the values of evaluations and tells how flat their surroundings are."""

    def __init__(self, space: SearchSpace):
        self.space = space
        #: {canonical form: value}
        self._values: dict[Architecture, float] = {}
        self._own: dict[int, Architecture] = {}
        #: {evaluation: canonical forms of all its neighbors but its own, in order}
        self._near: dict[int, dict[Architecture, None]] = {}
        self._beside: dict[Architecture, set[int]] = {}

    def add(self, index: int, arch: Architecture, value: float) -> list[int]:
        """Take in an evaluation and return those whose flatness changes by it, rising."""
        if not math.isfinite(value):
            return []
        try:
            neighbors = list(self.space.neighbors(arch, rewire=False))
        except RaynasError:  # a published architecture that the decisions cannot express
            return []
        form = self.space.canonical(arch)
        near = dict.fromkeys(map(self.space.canonical, neighbors))
        near.pop(form, None)
        self._values[form], self._own[index], self._near[index] = value, form, near
        for neighbor in near:
            self._beside.setdefault(neighbor, set()).add(index)
        return sorted({index} | self._beside.get(form, set()))

    def __getitem__(self, index: int) -> Flatness | None:
        """Return the flatness of an evaluation; None where nothing else near it has a value."""
        form = self._own.get(index)
        near = self._near.get(index, {})
        beside = [self._values[neighbor] for neighbor in near if neighbor in self._values]
        if form is None or not beside:
            return None
        own = self._values[form]
        values = np.array([own, *beside])
        return Flatness(
            own, len(beside), float(values.mean()), float(values.min()), float(values.std())
        )


def flatness(run: str | Path | Result, space: SearchSpace | None = None) -> pd.DataFrame:
    """Return the flatness of all evaluations of a run, finished or not, whatever its searcher.

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
    columns = ["evaluation", "architecture", "epochs", result.metric, *COLUMNS]
    return table.loc[table["neighbors"] > 0, columns].reset_index(drop=True)


def with_flatness(
    trials: pd.DataFrame,
    space: SearchSpace,
    merits: Mapping[int, float] | None = None,
    metric: str = METRIC,
) -> pd.DataFrame:
    """Add `COLUMNS` to a table of trials; NaN where no neighbor was evaluated.

    Args:
        trials: as `Result.trials`.
        space: the search space.
        merits: {evaluation: how the searcher judged it}, for another column `merit`.
        metric: the column that the search maximized.
    """
    usable = trials[trials["status"].isin([Status.COMPLETED.value, Status.STOPPED.value])]
    rows = zip(usable["evaluation"], usable["architecture"], usable[metric], strict=True)
    near = collected(space, ((i, space.from_string(text), value) for i, text, value in rows))
    flat = [near[i] for i in trials["evaluation"]]
    columns = {
        name: [math.nan if f is None else f[1 + i] for f in flat] for i, name in enumerate(COLUMNS)
    }
    if merits:
        columns["merit"] = [merits.get(i, math.nan) for i in trials["evaluation"]]
    return trials.assign(**columns)


def collected(
    space: SearchSpace, evaluations: Iterable[tuple[int, Architecture, float]]
) -> Neighborhoods:
    """Collect the neighborhoods of (index, architecture, value)."""
    neighborhoods = Neighborhoods(space)
    for index, arch, value in evaluations:
        neighborhoods.add(index, arch, value)
    return neighborhoods
