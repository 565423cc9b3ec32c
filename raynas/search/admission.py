"""Which architectures a search evaluates, and what they are worth, under a constraint."""

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np

from raynas.search.deduplication import Deduplication
from raynas.searchers.constraints import Constraint
from search_spaces import Architecture

_DRAWS = 300  # from the space, to find one that is admitted
_LOOKED_THROUGH = 20_000  # architectures of a space, in order, when no draw is


class Admission:
    """Says what may be evaluated next, and counts what has been.

    Args:
        constraint: None: everything is admitted, and nothing is penalized.
        measured: the property that it is about.
    """

    def __init__(
        self,
        constraint: Constraint | None = None,
        measured: Callable[[Architecture], float] | None = None,
    ):
        self.constraint, self._measured = constraint, measured
        #: how often what the searcher asked for was not admitted
        self.declined = 0
        #: evaluations that were begun although they were not admitted, for want of others
        self.beyond = 0
        self._counts: Counter[float] = Counter()

    def admits(self, arch: Architecture) -> bool:
        """Return whether an architecture may be evaluated next."""
        return self.constraint is None or self._excess(arch) <= 0

    def admitted(self, arch: Architecture) -> bool:
        """Return whether an architecture that is asked for may be evaluated; else count it."""
        admitted = self.admits(arch)
        self.declined += not admitted
        return admitted

    def forbids(self, arch: Architecture) -> bool:
        """Return whether an architecture may never be evaluated."""
        return self.constraint is not None and math.isinf(self._excess(arch))

    def penalty(self, arch: Architecture) -> float:
        """Return what the metric of an architecture is lowered by."""
        return 0.0 if self.constraint is None else self.constraint.penalty(self._value(arch))

    @property
    def penalizes(self) -> bool:
        """Return whether values are lowered at all."""
        return self.constraint is not None and self.constraint.penalizes

    def begin(self, arch: Architecture) -> None:
        """Note that an evaluation begins."""
        if self.constraint is not None:
            self.beyond += not self.admits(arch)
            self._counts[self._value(arch)] += 1

    def note(self, evaluations: int, samples: int) -> str:
        """Return what the user should know of what the constraint has done; empty: nothing.

        Args:
            evaluations: begun in all.
            samples: that were asked for.
        """
        notes = []
        if self.beyond:
            notes.append(
                f"{self.beyond} of {evaluations} evaluations go beyond the quota, because nothing"
                " new within it was found."
            )
        if self.declined and evaluations < samples:
            notes.append(
                f"The search ended after {evaluations} of {samples} evaluations: nothing new was"
                " found that the constraint admits."
            )
        return f"constraint={self.constraint}: {' '.join(notes)}" if notes else ""

    def unseen(self, known: Deduplication, seed: int) -> Architecture | None:
        """Return an architecture to evaluate in place of what was declined.

        Without a constraint it is the first of the space that was not evaluated. With one it is the
        first of some draws that is admitted; where none is, that which goes least beyond the rule,
        so that a quota that cannot be kept does not end the search.

        Args:
            known: what was evaluated.
            seed: of the draws.

        Returns:
            None when there is none.
        """
        if self.constraint is None:
            return next(known.unseen(), None)
        rng = np.random.default_rng(seed)
        drawn = (known.space.sample(rng) for _ in range(_DRAWS))
        found = self._least_beyond(a for a in drawn if known.evaluation(a) is None)
        if found is None:  # the space may be small, and nearly all of it known
            found = self._least_beyond(itertools.islice(known.unseen(), _LOOKED_THROUGH))
        return found

    def _least_beyond(self, archs: Iterable[Architecture]) -> Architecture | None:
        best, least = None, math.inf
        for arch in archs:
            excess = self._excess(arch)
            if excess < least:
                best, least = arch, excess
            if excess <= 0:
                break
        return best

    def _excess(self, arch: Architecture) -> float:
        assert self.constraint is not None
        return self.constraint.excess(self._value(arch), self._counts)

    def _value(self, arch: Architecture) -> float:
        assert self._measured is not None
        return self._measured(arch)
