"""Quotas, limits and penalties on a property of the architectures, for every searcher.

A constraint is a rule about one number of an architecture, with no state of its own; what has been
evaluated is counted by whoever drives the searcher (`raynas.search.admission`).
"""

import functools
import math
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from search_spaces import Architecture, SearchSpace
from search_spaces.errors import InvalidArgument
from search_spaces.properties import Property, measure

_NO_BOUNDS = (-math.inf, math.inf)
_ROUNDING = 1e-9  # 0.1 * 30 is a little more than 3
_DRAWS = 300  # architectures that show whether a constraint leaves anything
_FEWEST_DRAWS = 30  # so many show whether a property is a number


@dataclass(frozen=True)
class Constraint(ABC):
    """A rule about a property of the architectures.

    Args:
        of: the property: a name of `search_spaces.properties`, or a function of space and
            architecture.
    """

    of: str | Property

    def excess(self, value: float, counts: Mapping[float, int]) -> float:
        """Return by how many evaluations one more of this value goes beyond the rule.

        Args:
            value: the property of an architecture that may be evaluated next.
            counts: {value: evaluations begun so far}.

        Returns:
            0: it may be evaluated. Infinity: it never may.
        """
        return 0.0

    def penalty(self, value: float) -> float:
        """Return what is subtracted from the metric of an architecture with this property."""
        return 0.0

    @property
    def penalizes(self) -> bool:
        """Return whether it lowers metrics at all."""
        return type(self).penalty is not Constraint.penalty

    def measured(
        self, space: SearchSpace, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> Callable[[Architecture], float]:
        """Return what measures the property, after a look at what the space has of it.

        Args:
            space: to be searched.
            input_shape: (channels, height, width) of the images.
            num_classes: of the data.

        Raises:
            InvalidArgument: when the architectures have no such property, it is no number, or
                none of some hundreds of random ones may ever be evaluated.
        """
        try:
            measured = functools.cache(measure(self.of, space, input_shape, num_classes))
        except InvalidArgument as error:
            raise type(error)(f"constraint: {error}") from None
        rng, values, possible = np.random.default_rng(0), [], False
        for _ in range(_DRAWS):
            arch = space.sample(rng)
            values.append(measured(arch))
            if not math.isfinite(values[-1]):
                raise InvalidArgument(
                    f"constraint: {self._name} of {space.to_string(arch)} is {values[-1]}: a"
                    " property is a finite number."
                )
            possible |= math.isfinite(self.excess(values[-1], {}))
            if possible and len(values) >= _FEWEST_DRAWS:
                return measured
        raise InvalidArgument(
            f"constraint={self}: of {_DRAWS} random architectures of {space.name} none is within"
            f" it; {self._name} of theirs is {min(values):g} to {max(values):g}. Widen it, or"
            " choose another space."
        )

    @property
    def _name(self) -> str:
        return self.of if isinstance(self.of, str) else getattr(self.of, "__name__", "the property")


@dataclass(frozen=True)
class Limit(Constraint):
    """Nothing outside the limit is evaluated: the property is at least `least`, at most `most`."""

    least: float | None = None
    most: float | None = None

    def __post_init__(self) -> None:
        """Refuse a limit that limits nothing, or that nothing is within."""
        least, most = self.bounds
        if math.isnan(least) or math.isnan(most) or least > most or (least, most) == _NO_BOUNDS:
            raise InvalidArgument(
                f"constraint: limit with least={self.least}, most={self.most}: give one of the two,"
                " or both with least <= most."
            )

    @property
    def bounds(self) -> tuple[float, float]:
        """Return the least and the largest value within the limit."""
        least = -math.inf if self.least is None else self.least
        return least, math.inf if self.most is None else self.most

    def excess(self, value: float, counts: Mapping[float, int]) -> float:
        """See `Constraint`."""
        least, most = self.bounds
        return 0.0 if least <= value <= most else math.inf


@dataclass(frozen=True)
class Quota(Constraint):
    """At most the share `most` of the evaluations have the same value of the property.

    It holds at every moment, rounded up: of n evaluations at most ceil(most n) have one value. Of
    a property with a different value for nearly every architecture, such as `macs`, give a function
    that puts it into classes.
    """

    most: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        if not 0 < self.most <= 1:
            raise InvalidArgument(
                f"constraint: quota with most={self.most}: a share of all evaluations is above 0"
                " and at most 1."
            )

    def excess(self, value: float, counts: Mapping[float, int]) -> float:
        """See `Constraint`."""
        allowed = math.ceil(self.most * (sum(counts.values()) + 1) - _ROUNDING)
        return float(max(0, counts.get(value, 0) + 1 - allowed))


@dataclass(frozen=True)
class Penalty(Constraint):
    """The metric is lowered by weight * max(0, value / above - 1)."""

    above: float = math.nan
    weight: float = math.nan

    def __post_init__(self) -> None:
        """Refuse a penalty that is none."""
        if not 0 < self.above < math.inf or not 0 < self.weight < math.inf:
            raise InvalidArgument(
                f"constraint: penalty with above={self.above}, weight={self.weight}: give both,"
                " positive and finite; weight is in units of the metric (0.05: five points of"
                " accuracy for twice as much as `above`)."
            )

    def penalty(self, value: float) -> float:
        """See `Constraint`."""
        return self.weight * max(0.0, value / self.above - 1)
