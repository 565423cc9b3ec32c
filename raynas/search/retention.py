"""Which evaluations' checkpoints are needed no more, so that a long search does not fill a disk."""

import heapq
import math
from collections.abc import Iterable

from raynas.record.history import Evaluation, History
from raynas.schedulers import Scheduler
from raynas.search.faults import of_the_machine, was_cut_short

_SLACK = 16  # what is not needed is found out only now and then: after so many have ended


class Retention:
    """Knows whose checkpoints there may be, and finds those that nothing needs any more.

    Needed are those of what is running, of what the scheduler may still let go on, of what ran when
    the search was over, of what a fault of the machine ended where nothing has succeeded yet, and
    of the best: the ones with the most epochs, among them those with the highest value.

    Args:
        most: how many of the best; None: everything is needed.
    """

    def __init__(self, most: int | None):
        self.most = most
        #: what has ended and was not discarded
        self._ended: set[int] = set()
        self._limit = (most or 0) + _SLACK

    def begin(self, evaluation: int) -> None:
        """Note that an evaluation goes on that had ended."""
        self._ended.discard(evaluation)

    def end(self, evaluation: int) -> None:
        """Note that an evaluation has ended."""
        self._ended.add(evaluation)

    def discard(self, evaluations: Iterable[int]) -> None:
        """Note that the checkpoints of some are not there any more."""
        self._ended.difference_update(evaluations)

    def unneeded(
        self, history: History, scheduler: Scheduler, samples: int, last: bool
    ) -> list[int]:
        """Return the evaluations whose checkpoints nothing needs; most of the time, none.

        Args:
            history: of the search.
            scheduler: of the search.
            samples: how many evaluations there will be, at most.
            last: whether the search has ended; else looking is put off until it is worth it.
        """
        if self.most is None or (len(self._ended) <= self._limit and not last):
            return []
        ended = [history.evaluations[index] for index in self._ended]
        needed = self._best(ended) | _may_go_on(ended, scheduler, samples)
        needed |= {e.index for e in ended if was_cut_short(e.reason)}
        if history.best is None:
            needed |= {e.index for e in ended if of_the_machine(e.reason)}
        self._limit = len(needed) * 5 // 4 + _SLACK
        return sorted(self._ended - needed)

    def _best(self, ended: list[Evaluation]) -> set[int]:
        valued = (e for e in ended if math.isfinite(e.value))
        best = heapq.nlargest(self.most or 0, valued, key=lambda e: (*e.rank, -e.index))
        return {evaluation.index for evaluation in best}


def _may_go_on(ended: list[Evaluation], scheduler: Scheduler, samples: int) -> set[int]:
    """Return what the scheduler has stopped and may let go on."""
    resumable = scheduler.may_go_on(samples)
    if resumable is None:
        return {e.index for e in ended if e.epochs < scheduler.epochs}
    return set(resumable)
