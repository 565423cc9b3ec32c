"""Asynchronous successive halving.

Li et al.: A System for Massively Parallel Hyperparameter Tuning (MLSys 2020). Ray Tune's own ASHA
forgets its rungs when the driver dies; these are replayed from the journal.
"""

import math
from dataclasses import dataclass, field
from heapq import heappop, heappush, heappushpop
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import PositiveInt

from raynas.schedulers.scheduler import Scheduler

#: (value, minus the order of arrival, evaluation)
_Arrival = tuple[float, int, int]


@dataclass
class Asha(Scheduler):
    """Asynchronous successive halving.

    Li et al.: A System for Massively Parallel Hyperparameter Tuning (MLSys 2020). Rung k stands
    at r * eta^k epochs; no rung waits to be complete.

    The stopping variant decides at once: a trial that reaches a rung goes on if it is among the
    best 1/eta of all that have reached it so far, at least the best one. The promotion variant,
    the paper's algorithm 2, stops every trial at its rung; when a worker is free, the best one
    in the highest rung that is among the best 1/eta of its rung and was not promoted goes on to
    the next, and only where there is none a new architecture starts. Promotion makes fewer
    mistakes early on, stopping needs no second start of a trial.

    Args:
        grace: epochs that every trial gets, r.
        reduction: eta; 1 trial of `reduction` passes a rung.
        variant: `stopping` or `promotion`.
    """

    grace: PositiveInt = 1
    reduction: Annotated[int, Ge(2)] = 4
    variant: Literal["stopping", "promotion"] = "stopping"
    _rungs: dict[int, "Rung"] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Say whether it promotes, which is asked before it is started."""
        self.promotes = self.variant == "promotion"

    @property
    def rungs(self) -> dict[int, list[float]]:
        """Return {epochs: all values recorded at this rung, rising}."""
        return {epochs: rung.values for epochs, rung in self._rungs.items()}

    def start(self, epochs: int) -> None:
        """Set up the rungs below the largest number of epochs."""
        super().start(epochs)
        self._rungs = {}
        rung = self.grace
        while rung < epochs:
            self._rungs[rung] = self._rung(rung)
            rung *= self.reduction

    def report(self, evaluation: int, epochs: int, value: float) -> bool:
        """Return whether the trial goes on: always between rungs, at one if it is passed."""
        rung = self._rungs.get(epochs)
        if rung is None:
            return True
        among_best = rung.add(value, evaluation)
        return among_best and not self.promotes

    def promotable(self) -> int | None:
        """Return the best candidate of the highest rung that has one."""
        for rung in reversed(self._rungs.values()):
            if rung.candidate is not None:
                return rung.candidate
        return None

    def promote(self) -> int | None:
        """Let what is `promotable` go on; its rung will not offer it again."""
        waiting = (rung for rung in reversed(self._rungs.values()) if rung.candidate is not None)
        rung = next(waiting, None)
        return None if rung is None else rung.promote()

    def _rung(self, epochs: int) -> "Rung":
        """Make an empty rung at so many epochs."""
        return Rung(self.reduction, least=0 if self.promotes else 1)


class Rung:
    """What has reached a rung, and which of its best 1/eta were not promoted yet.

    Args:
        reduction: eta.
        least: the size of the best 1/eta where that would be smaller.
    """

    def __init__(self, reduction: int, least: int):
        self._reduction, self._least = reduction, least
        self._best = Best()

    @property
    def values(self) -> list[float]:
        """Return all values recorded, rising."""
        return self._best.values

    @property
    def candidate(self) -> int | None:
        """Return the best evaluation of the best 1/eta that was not promoted, if any."""
        return self._best.candidate

    def add(self, value: float, evaluation: int) -> bool:
        """Record an evaluation; return whether it is among the best 1/eta."""
        self._best.add(value, evaluation)
        if self._best.size < max(self._least, self._best.count // self._reduction):
            self._best.widen()
        return self._best.reached_by(value)

    def promote(self) -> int | None:
        """Count the candidate as promoted, and return it."""
        return self._best.promote()


class Best:
    """The best so many of what has arrived, and which of them were not promoted yet.

    Recording and promoting take logarithmic time, however many evaluations there are.

    Attributes:
        count: number of arrivals.
    """

    def __init__(self) -> None:
        self.count = 0
        #: heaps of (value, -arrival, evaluation): the lowest of the best, the highest of the rest
        self._best: list[_Arrival] = []
        self._rest: list[_Arrival] = []
        #: heap, the highest first, of what was among the best at some time
        self._waiting: list[_Arrival] = []
        self._among_best: set[int] = set()
        self._promoted: set[int] = set()

    @property
    def size(self) -> int:
        """Return how many are the best."""
        return len(self._best)

    @property
    def values(self) -> list[float]:
        """Return all values recorded, rising."""
        return sorted([a[0] for a in self._best] + [-a[0] for a in self._rest])

    @property
    def next_value(self) -> float:
        """Return the value that the next place would go to."""
        return -self._rest[0][0] if self._rest else -math.inf

    @property
    def candidate(self) -> int | None:
        """Return the best evaluation of the best that was not promoted, if any."""
        while self._waiting:
            evaluation = self._waiting[0][2]
            if evaluation in self._among_best and evaluation not in self._promoted:
                return evaluation
            heappop(self._waiting)
        return None

    def reached_by(self, value: float) -> bool:
        """Return whether a value is as high as the lowest of the best."""
        return bool(self._best) and value >= self._best[0][0]

    def add(self, value: float, evaluation: int) -> None:
        """Record an evaluation, which may drive the lowest of the best from its place."""
        self.count += 1
        arrival = (value, -self.count, evaluation)
        if self._best and arrival > self._best[0]:
            lowest = heappushpop(self._best, arrival)
            self._among_best.discard(lowest[2])
            self._enters(arrival)
            arrival = lowest
        heappush(self._rest, _negative(arrival))

    def widen(self) -> None:
        """Count one more among the best: the highest of the rest."""
        arrival = _negative(heappop(self._rest))
        heappush(self._best, arrival)
        self._enters(arrival)

    def promote(self) -> int | None:
        """Count the candidate as promoted, and return it."""
        evaluation = self.candidate
        if evaluation is not None:
            self._promoted.add(evaluation)
        return evaluation

    def _enters(self, arrival: _Arrival) -> None:
        self._among_best.add(arrival[2])
        heappush(self._waiting, _negative(arrival))


def _negative(arrival: _Arrival) -> _Arrival:
    """Negate an arrival, for a heap with the highest first; the evaluation stays."""
    return -arrival[0], -arrival[1], arrival[2]
