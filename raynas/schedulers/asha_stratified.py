"""Asynchronous successive halving within families of architectures.

Wide and shallow cells converge faster than deep ones of equal final accuracy (Shu, Wang, Cai:
Understanding Architectures Learnt by Cell-based NAS, ICLR 2020), so what is best after
a few epochs is so in part by its family. Here an architecture competes with its own family only
at the early rungs, and of each family as large a share passes as of all. No paper has this rule;
it is stratified sampling applied to the rungs of `Asha`.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge

from raynas.schedulers.asha import Asha
from raynas.schedulers.rungs import Best, Rung
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import InvalidArgument
from search_spaces.properties import Property, measure

_EARLY = 10  # the part of the epochs in which rungs are early, one in so many
_SAMPLE = 200  # architectures of the space that tell how a property is distributed


@dataclass
class AshaStratified(Asha):
    """Successive halving in which architectures compete within their stratum only.

    Strata are the values of a property, where it has at most `strata` of them, and otherwise
    classes of about equal population, with bounds at the quantiles of 200 architectures drawn
    from the space. Those 200 are the same in every run, so a replay has the same strata.

    As many pass a rung as with `Asha`, 1/eta of all that reach it. Each place that this gives
    goes to the stratum that is furthest below its share, 1/eta of its own members, and there to
    the best. So a stratum keeps its part within about one place however few it has, and one of
    few members costs nothing: it waits until a place is due to it.

    By default strata hold at the early rungs, the first one and those within the first tenth of
    the epochs, and the later rungs are those of `Asha`: what is behind there is hardly behind
    because it converges slowly, and holding places for it costs accuracy.

    Args:
        grace: epochs that every trial gets, r.
        reduction: eta; 1 trial of `reduction` passes a rung.
        variant: `stopping` or `promotion`; see `Asha`.
        by: what makes the strata: a name (`search_spaces.properties.PROPERTIES`), or a function
            of space and architecture. `params` and `macs` are those for 32 x 32 color images
            in 10 classes; only their order counts.
        strata: their number, at most.
        at: the rungs at which strata hold, `early` or `all`.
        peers, chance, extrapolate, audit: see `Asha`.
    """

    by: str | Property = "depth"
    strata: Annotated[int, Ge(2)] = 4
    at: Literal["early", "all"] = "early"
    needs_architectures = True
    #: {evaluation: its stratum}
    _stratum: dict[int, int] = field(default_factory=dict, init=False, repr=False)
    #: the highest values of all strata but the last; None before the first evaluation
    _bounds: list[float] | None = field(default=None, init=False, repr=False)

    def check(self, space: SearchSpace) -> None:
        """Refuse a space whose architectures do not have the property.

        Raises:
            InvalidArgument: for a name that is none, cells that the space does not have, and a
                function that returns no finite number.
        """
        try:
            self._bounds_in(space)
        except InvalidArgument as error:
            raise type(error)(f"scheduler='asha-stratified', by={self.by!r}: {error}") from None

    def start(self, epochs: int) -> None:
        """Set up the rungs below the largest number of epochs; forget all evaluations."""
        self._stratum, self._bounds = {}, None
        super().start(epochs)

    def begin(self, evaluation: int, space: SearchSpace, architecture: Architecture) -> None:
        """Learn the stratum of an evaluation."""
        if self._bounds is None:
            self._bounds = self._bounds_in(space)
        value = measure(self.by, space)(architecture)
        self._stratum[evaluation] = bisect_left(self._bounds, value)

    def _rung(self, epochs: int) -> Rung:
        if self.at == "early" and epochs > max(self.grace, self.epochs / _EARLY):
            return super()._rung(epochs)
        return StratifiedRung(self.reduction, self._stratum)

    def _bounds_in(self, space: SearchSpace) -> list[float]:
        """Return the highest value of every stratum but the last."""
        rng, of = np.random.default_rng(0), measure(self.by, space)
        values = np.array([of(space.sample(rng)) for _ in range(_SAMPLE)])
        if not np.isfinite(values).all():
            odd = values[~np.isfinite(values)][0]
            raise InvalidArgument(f"it is {odd} for some architectures: return finite numbers.")
        distinct = np.unique(values)
        if len(distinct) <= self.strata:
            return [float(value) for value in distinct[:-1]]
        shares = np.arange(1, self.strata) / self.strata
        return [float(v) for v in np.unique(np.quantile(values, shares, method="lower"))]


class StratifiedRung(Rung):
    """A rung in which the best 1/eta are those of the strata.

    Args:
        reduction: eta.
        stratum: {evaluation: its stratum}, which grows.
    """

    def __init__(self, reduction: int, stratum: Mapping[int, int]):
        self._reduction, self._stratum = reduction, stratum
        self._count = 0
        self._highest = -math.inf
        self._strata: dict[int, Best] = {}

    @property
    def values(self) -> list[float]:
        """Return all values recorded, rising."""
        return sorted(value for best in self._strata.values() for value in best.values)

    @property
    def candidate(self) -> int | None:
        """Return an evaluation among the best of its stratum that was not promoted, if any."""
        best = self._with_candidate()
        return None if best is None else best.candidate

    def add(self, value: float, evaluation: int) -> None:
        """Record an evaluation; every eta arrivals a place is shared out."""
        own = self._strata.setdefault(self._stratum[evaluation], Best())
        own.add(value, evaluation)
        self._count += 1
        self._highest = max(self._highest, value)
        if self._count % self._reduction == 0:
            max(self._strata.values(), key=self._claim).widen()

    def passes(self, value: float, evaluation: int) -> bool:
        """Return whether an evaluation that is recorded is among the best of its stratum by now.

        Before eta have arrived there is no place to share out, and as in `Asha` the best so far
        is among the best. Otherwise the first to arrive, of whatever stratum, could be the only
        one to pass the last rung for long.
        """
        if self._count < self._reduction:
            return value >= self._highest
        return self._strata[self._stratum[evaluation]].reached_by(value)

    def promote(self) -> int | None:
        """Count the candidate as promoted, and return it."""
        best = self._with_candidate()
        return None if best is None else best.promote()

    def let_through(self, evaluation: int) -> None:
        """Count an evaluation as promoted although nothing was decided by its rank."""
        self._strata[self._stratum[evaluation]].let_through(evaluation)

    def may_pass(self, arrivals: int) -> list[int]:
        """Return what was not promoted and may be, when in the end so many have arrived.

        A stratum gets a place only while it is not above its share, so it has never more than its
        share and one place.
        """
        arriving = max(0, arrivals - self._count)
        return [
            evaluation
            for best in self._strata.values()
            for evaluation in best.waiting_among(1 + (best.count + arriving) // self._reduction)
        ]

    def _claim(self, best: Best) -> tuple[int, float]:
        """Return how far a stratum is below its share, in members; of equals, the better goes."""
        return best.count - self._reduction * best.size, best.next_value

    def _with_candidate(self) -> Best | None:
        return next((b for b in self._strata.values() if b.candidate is not None), None)
