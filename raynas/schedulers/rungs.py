"""A rung of successive halving: what has reached it, and which are its best."""

import math
from heapq import heappop, heappush, heappushpop, nlargest

#: (value, minus the order of arrival, evaluation)
_Arrival = tuple[float, int, int]


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

    def add(self, value: float, evaluation: int) -> None:
        """Record an evaluation."""
        self._best.add(value, evaluation)
        if self._best.size < max(self._least, self._best.count // self._reduction):
            self._best.widen()

    def passes(self, value: float, evaluation: int) -> bool:
        """Return whether an evaluation that is recorded is among the best 1/eta by now."""
        return self._best.reached_by(value)

    def promote(self) -> int | None:
        """Count the candidate as promoted, and return it."""
        return self._best.promote()

    def let_through(self, evaluation: int) -> None:
        """Count an evaluation as promoted although nothing was decided by its rank."""
        self._best.let_through(evaluation)

    def may_pass(self, arrivals: int) -> list[int]:
        """Return what was not promoted and may be, when in the end so many have arrived."""
        return self._best.waiting_among(max(self._least, arrivals // self._reduction))


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

    def let_through(self, evaluation: int) -> None:
        """Count an evaluation as promoted, wherever it stands."""
        self._promoted.add(evaluation)

    def waiting_among(self, most: int) -> list[int]:
        """Return those among the best `most` that were not promoted."""
        arrivals = [*self._best, *map(_negative, self._rest)]
        return [a[2] for a in nlargest(most, arrivals) if a[2] not in self._promoted]

    def _enters(self, arrival: _Arrival) -> None:
        self._among_best.add(arrival[2])
        heappush(self._waiting, _negative(arrival))


def _negative(arrival: _Arrival) -> _Arrival:
    """Negate an arrival, for a heap with the highest first; the evaluation stays."""
    return -arrival[0], -arrival[1], arrival[2]
