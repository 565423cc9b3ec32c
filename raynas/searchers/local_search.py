"""Local search: climb from neighbor to better neighbor, start anew on every summit.

White, Nolen, Savani: Exploring the Loss Landscape in Neural Architecture Search (UAI 2021);
there the best neighbor is taken, here the first better one, which needs about half as many
evaluations on NAS-Bench-201 (Den Ottelander et al.: Local Search is a Remarkably Strong Baseline
for Neural Architecture Search, EMO 2021).
"""

import math
from dataclasses import dataclass, field

from raynas.searchers.searcher import Searcher
from search_spaces import Architecture, SearchSpace

Rank = tuple[int, float]


@dataclass
class LocalSearch(Searcher):
    """First-improvement local search with random restarts.

    The neighbors of the center are evaluated in random order; as soon as one is better, it is
    the center. When none is, the climb is over and another starts at a random architecture. A
    worker that is free while the last neighbors are still being evaluated evaluates the start of
    the next climb; of several such, the best is taken. Values are compared by the epochs behind
    them first.
    """

    center: tuple[Rank, Architecture] | None = field(default=None, init=False)
    #: neighbors of the center that were not asked for yet
    _queue: list[Architecture] = field(default_factory=list, init=False, repr=False)
    #: what was asked for and awaits its result: neighbors, and starts of climbs
    _climbing: list[Architecture] = field(default_factory=list, init=False, repr=False)
    _starting: list[Architecture] = field(default_factory=list, init=False, repr=False)
    #: starts of climbs that have their result
    _starts: list[tuple[Rank, Architecture]] = field(default_factory=list, init=False, repr=False)

    def start(self, space: SearchSpace, seed: int) -> None:
        """Begin on no summit at all."""
        super().start(space, seed)
        self.center = None
        self._queue, self._climbing, self._starting, self._starts = [], [], [], []

    def ask(self) -> Architecture:
        """Return a neighbor of the center, or the start of a climb."""
        if not self._queue and not self._climbing:
            self._begin_climb()
        if self._queue:
            self._climbing.append(self._queue.pop())
            return self._climbing[-1]
        self._starting.append(self.space.sample(self.rng))
        return self._starting[-1]

    def tell(self, architecture: Architecture, value: float, budget: int) -> None:
        """Make a better neighbor the center; keep a start until the climb has ended."""
        rank = (budget, value)
        if architecture in self._climbing:
            self._climbing.remove(architecture)
            if self.center is not None and math.isfinite(value) and rank > self.center[0]:
                self._move(rank, architecture)
            return
        if architecture in self._starting:
            self._starting.remove(architecture)
        if math.isfinite(value):
            self._starts.append((rank, architecture))

    def _begin_climb(self) -> None:
        """Leave the summit for the best of the starts that are known."""
        self.center = None
        if self._starts:
            best = max(self._starts, key=lambda start: start[0])
            self._starts.remove(best)
            self._move(*best)

    def _move(self, rank: Rank, architecture: Architecture) -> None:
        self.center = (rank, architecture)
        self._queue = list(self.space.neighbors(architecture))
        self.rng.shuffle(self._queue)
