"""Centers of neighborhoods, and how they are judged; see `raynas.searchers.neighborhood`."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from search_spaces import Architecture

#: from the values of a neighborhood to the one that judges its center; larger is better
Aggregate = Callable[[Sequence[float]], float]


def mean_minus_std(values: Sequence[float]) -> float:
    """Return the mean minus the standard deviation."""
    return statistics.fmean(values) - statistics.pstdev(values)


AGGREGATES: dict[str, Aggregate] = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "worst": min,
    "mean-std": mean_minus_std,  # [choice]
}

# All [choice]. docs/neighborhood.md says what they bring.
_PRIOR = 4  # neighbors that weigh as much as the architecture's own value, while racing
_SPREADS = 2  # standard deviations that a center may be better than known so far, while racing


@dataclass(eq=False)
class Center:
    """An architecture whose neighborhood is, was or will be looked at.

    Attributes:
        architecture: as it was asked for.
        queue: neighbors that are still to be drawn, in random order, with canonical forms.
        drawn: canonical forms of those that were, evaluated or on their way.
        asked: results of it that the inner searcher waits for.
        owed: results that have come, of which the inner searcher was not told.
        told: whether it was told of one.
        open: whether its neighborhood is being evaluated.
        budget: epochs behind its own value.
        own: its own value; None while that is awaited.
        values: of the drawn neighbors, as far as they are known and did not fail.
        drop: how much lower than its own value the aggregate of `values` is.
    """

    architecture: Architecture
    queue: list[tuple[Architecture, Architecture]] = field(default_factory=list)
    drawn: list[Architecture] = field(default_factory=list)
    asked: int = 0
    owed: int = 0
    told: bool = False
    open: bool = False
    budget: int = 0
    own: float | None = None
    values: list[float] = field(default_factory=list)
    drop: float = 0.0


class Judge:
    """Judges centers by their neighbors, and in a race by what is usual among all centers.

    Args:
        aggregate: from the values of a neighborhood to the one that judges its center.
        racing: whether centers race; see `NeighborhoodAware`.
    """

    def __init__(self, aggregate: Aggregate, racing: bool):
        self.aggregate, self.racing = aggregate, racing
        self.start()

    def start(self) -> None:
        """Forget all centers."""
        #: the most epochs behind a value so far
        self.longest = 0
        self._usual, self._spread, self._lead = 0.0, math.inf, -math.inf

    def update(self, center: Center, results: Mapping[Architecture, tuple[int, float]]) -> None:
        """Compute anew what the known neighbors say.

        Args:
            center: of the neighbors.
            results: {canonical form: (budget, value)}.
        """
        if center.own is None or not math.isfinite(center.own):
            center.values, center.drop = [], 0.0
            return
        drawn = (results.get(form) for form in center.drawn)
        center.values = [value for _, value in filter(None, drawn) if math.isfinite(value)]
        if self.racing and center.values:
            center.drop = center.own - self.aggregate(center.values)

    def judged(self, center: Center) -> bool:
        """Return whether the center may be the outcome."""
        if center.own is None or not math.isfinite(center.own):
            return False
        return bool(center.values) if self.racing else not center.open

    def merit(self, center: Center) -> float:
        """Return how good a center is by its neighborhood; it must have its own value."""
        assert center.own is not None
        if not math.isfinite(center.own):
            return center.own
        if not self.racing:
            return self.aggregate([center.own, *center.values])
        n = len(center.values)
        return center.own - n / (n + _PRIOR) * (center.drop - self._usual)

    def weigh(self, centers: Iterable[Center]) -> None:
        """Learn from all centers: their usual drop, its spread, and the merit to beat."""
        self._usual, self._spread, self._lead = 0.0, math.inf, -math.inf
        if not self.racing:
            return
        raced = [center for center in centers if center.values]
        if raced:
            weights = np.array([len(center.values) for center in raced])
            drops = np.array([center.drop for center in raced])
            self._usual = float(weights @ drops / weights.sum())
            if len(raced) > 2:
                squares = (drops - self._usual) ** 2
                self._spread = math.sqrt(float(weights @ squares / weights.sum()))
        rivals = (c for c in raced if len(c.values) >= _PRIOR and c.budget == self.longest)
        self._lead = max(map(self.merit, rivals), default=-math.inf)

    def can_win(self, center: Center) -> bool:
        """Return whether a center could still be the outcome; always, without racing."""
        if not self.racing:
            return True
        spread = _SPREADS * self._spread * math.sqrt(_PRIOR / (len(center.values) + _PRIOR))
        return center.budget == self.longest and self.merit(center) + spread >= self._lead
