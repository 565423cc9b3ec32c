"""Searches against a tabular benchmark on a virtual clock: no Ray, no training.

The searcher, the scheduler and the `Search` that joins them are those of a real run; only the
trials are simulated. W workers finish asynchronously, each after the seconds that the table
says, so a search of days is over in a moment and can be repeated with hundreds of seeds.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from raynas.record.events import METRIC, Status
from raynas.record.history import Evaluation
from raynas.schedulers import Fifo, Scheduler
from raynas.search.admission import Admission
from raynas.search.search import Search
from raynas.searchers import Searcher
from search_spaces import Architecture
from trials.proxies import Score
from trials.tables.benchmark import Benchmark

#: (proxy, architecture) to score
Scores = Callable[[str | Score, Architecture], float]


@dataclass
class Simulation:
    """One simulated search.

    Args:
        benchmark: what the trials would have reached, and in how many seconds.
        searcher: not started yet.
        scheduler: not started yet; None: every trial runs to its end.
        seed: of the search.
        queries: number of evaluations, if that is what ends the search.
        time_budget: seconds on the virtual clock, if they do. What is not done by then does
            not count.
        workers: trials at the same time.
        unique: whether architectures that compute the same function are evaluated once only.
        scores: of proxies, for searchers that want some before they start.
        admission: what may be evaluated; None: everything.

    Attributes:
        search: the search, with all its evaluations.
        seconds: the virtual clock.
        ended: number of times that a worker was done with one, within the budget.
        found_best: evaluations that had ended when the best architecture of the table was
            among them, fully evaluated; None before that.
        incumbents: (seconds, evaluations ended, index of the evaluation that is the best now),
            from every moment at which that changed.
    """

    benchmark: Benchmark
    searcher: Searcher
    scheduler: Scheduler | None = None
    seed: int = 0
    queries: int | None = None
    time_budget: float = math.inf
    workers: int = 1
    unique: bool = True
    scores: Scores | None = None
    admission: Admission | None = None
    search: Search = field(init=False)
    seconds: float = field(default=0.0, init=False)
    ended: int = field(default=0, init=False)
    found_best: int | None = field(default=None, init=False)
    incumbents: list[tuple[float, int, int]] = field(default_factory=list, init=False)

    def run(self) -> "Simulation":
        """Simulate until the budget is used, or the searcher has nothing more to ask for."""
        samples = self.queries if self.queries is not None else 2**62
        self.search = search = Search(
            self.benchmark.space, self.searcher, self.scheduler or Fifo(), samples,
            self.benchmark.epochs, self.seed, unique=self.unique, admission=self.admission,
        )  # fmt: skip
        self._score()
        #: (when the next epoch ends, a tie-breaker, evaluation)
        ends: list[tuple[float, int, Evaluation]] = []
        self._rows: dict[int, int] = {}
        started = 0
        while True:
            while len(ends) < self.workers and (evaluation := search.suggest()):
                heapq.heappush(ends, (self.seconds + self._epoch(evaluation), started, evaluation))
                started += 1
            if not ends:
                return self
            now, order, evaluation = heapq.heappop(ends)
            if now > self.time_budget:
                self.seconds = self.time_budget
                return self
            self.seconds = now
            if self._goes_on(evaluation):
                heapq.heappush(ends, (now + self._epoch(evaluation), order, evaluation))

    def _score(self) -> None:
        """Give the searcher the scores that it wants."""
        scoring = self.searcher.scoring
        for arch in list(self.search.unscored):
            assert scoring is not None
            assert self.scores is not None, "a searcher wants scores and there are none"
            self.search.score(arch, self.scores(scoring.proxy, arch))

    def _epoch(self, evaluation: Evaluation) -> float:
        """Return the seconds of an epoch."""
        row = self._rows.get(evaluation.index)
        if row is None:
            arch = self.search.architectures[evaluation.index]
            row = self._rows[evaluation.index] = self.benchmark.row(arch)
        return float(self.benchmark.costs[row]) / len(self.benchmark.curves[row])

    def _goes_on(self, evaluation: Evaluation) -> bool:
        """Report an epoch's end and return whether another one follows."""
        curve = self.benchmark.curves[self._rows[evaluation.index]]
        value = float(curve[evaluation.epochs])
        if math.isnan(value):
            self._finish(evaluation, Status.FAILED, "no value")
            return False
        goes_on = self.search.report(evaluation.index, {METRIC: value})
        if evaluation.epochs == len(curve):
            self._finish(evaluation, Status.COMPLETED)
        elif not goes_on:
            self._finish(evaluation, Status.STOPPED)
        else:
            return True
        return False

    def _finish(self, evaluation: Evaluation, status: Status, reason: str | None = None) -> None:
        before = self.search.best
        self.search.finish(evaluation.index, status, reason)
        self.ended += 1
        form = self.benchmark.space.canonical
        if (
            self.found_best is None
            and status is Status.COMPLETED
            and form(self.search.architectures[evaluation.index]) == self.benchmark.best
        ):
            self.found_best = self.search.finished
        if self.search.best is not None and self.search.best is not before:
            self.incumbents.append((self.seconds, self.ended, self.search.best.index))
