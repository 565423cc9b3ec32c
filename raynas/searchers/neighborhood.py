"""Neighborhood-aware search: an architecture is judged by its neighborhood, not by itself.

Wang, Cao, Li, Kitani: Neighborhood-Aware Neural Architecture Search (BMVC 2021), of which the
abstract was readable; the structure is recalled, settings and code are unknown, every choice of
ours is marked [choice]. `na_rs` is their NA-RS, `NeighborhoodAware` the same around any searcher.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields

import numpy as np
from pydantic import InstanceOf, NonNegativeInt, PositiveInt

from raynas.searchers.area import Area
from raynas.searchers.auto import Auto
from raynas.searchers.centers import AGGREGATES, Aggregate, Center, Judge
from raynas.searchers.evolution import Evolution
from raynas.searchers.local_search import LocalSearch
from raynas.searchers.naswot import Naswot
from raynas.searchers.random_search import RandomSearch
from raynas.searchers.searcher import Searcher
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import InvalidArgument
from search_spaces.naming import construct, lookup, spell
from search_spaces.neighbors import draw_neighbors

#: what can be wrapped by its name
_INNER: dict[str, Callable[..., Searcher]] = {
    "area": Area,
    "auto": Auto,
    "evolution": Evolution,
    "local": LocalSearch,
    "naswot": Naswot,
    "random": RandomSearch,
}

# All [choice]. docs/neighborhood.md says what they bring.
_SHARE = 0.5  # of all evaluations, at most, that are neighbors, while racing
_RACES = 8  # at the same time


@dataclass
class NeighborhoodAware(Searcher):
    """Judges what a searcher asks for by the neighborhoods of it.

    The inner searcher asks for a center. Neighbors of it are drawn, distinct and uniformly, from
    all architectures within `distance` decisions, and evaluated like everything else, so each is
    a trial of its own and none is paid for twice. When all results are in, the inner searcher is
    told their aggregate, center included, in place of the center's value. The outcome of the
    search is the center with the highest aggregate.

    With `racing`, evaluations are spent where they can still change the outcome [choice]:

    - Any architecture that was evaluated, a neighbor too, may become a center; so what was paid
      for to judge one architecture also explores.
    - An architecture is judged by v - k / (k + 4) * (d - D): v is its own value, d how much lower
      the aggregate of its k neighbors is, D the same on average of all centers. That is the
      aggregate itself (but for D, which is common to all) when k is large, and v when there are
      no neighbors yet: neighborhoods are alike, and few neighbors say little.
    - Of the centers that can still win, the best-judged gets the next neighbor. One is dropped
      when it would lose even if its neighborhood were two standard deviations better than known so
      far (by the spread of d over centers, shrunk with k), when eight others are ahead, or when a
      scheduler has stopped it early. Then, or when `neighbors` have come, its race is over, and
      an inner searcher that had asked for it is told how it was judged.
    - At most half of the evaluations are neighbors, so a searcher that does not know how long it
      will go on is never far from either exploring or judging.

    A neighbor that fails is left out of the aggregate; a center that fails is told as failed and
    no further neighbors are drawn. A neighbor that a scheduler stopped early counts with the
    value it has: leaving out those that were stopped for being bad would make a sharp optimum
    look flat. What the inner searcher is told has the center's budget.

    Args:
        inner: the searcher, or its name; arguments after the name are separated by `;`
            (`evolution:population=20;sample=5`).
        neighbors: of a center that are drawn, at most. 0: exactly the inner searcher. The default
            is the whole neighborhood in NAS-Bench-201.
        distance: number of decisions in which a neighbor may differ.
        aggregate: `mean`, `median`, `worst`, `mean-std` (mean minus standard deviation), or a
            function of a list of values.
        racing: as above; else every center gets all its neighbors.
        rewire: whether neighbors may differ in the wiring of a cell too, not only in operations.
    """

    inner: str | InstanceOf[Searcher] = "random"
    neighbors: NonNegativeInt = 24
    distance: PositiveInt = 1
    aggregate: str | Aggregate = "mean"
    racing: bool = True
    rewire: bool = False
    searcher: Searcher = field(init=False, repr=False)
    #: {canonical form: (budget, value)}
    results: dict[Architecture, tuple[int, float]] = field(
        default_factory=dict, init=False, repr=False
    )
    centers: dict[Architecture, Center] = field(default_factory=dict, init=False, repr=False)
    #: canonical forms that are being evaluated
    _pending: dict[Architecture, None] = field(default_factory=dict, init=False, repr=False)
    _races: list[Center] = field(default_factory=list, init=False, repr=False)
    _judge: Judge = field(init=False, repr=False, compare=False)
    #: evaluations asked for: all, and of neighbors
    _asked: int = field(default=0, init=False, repr=False)
    _drawn: int = field(default=0, init=False, repr=False)
    #: whether what was asked for last is one
    _is_neighbor: bool = field(default=False, init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.inner, str):
            self.searcher = construct("inner", self.inner.replace(";", ","), _INNER)
        else:
            self.searcher = self.inner
        if isinstance(self.searcher, NeighborhoodAware):
            raise InvalidArgument("inner: a neighborhood-aware searcher cannot be wrapped again.")
        if self.searcher.needs_predictions or self.searcher.driver:
            raise InvalidArgument(
                f"inner: {type(self.searcher).__name__} cannot be wrapped: it"
                f" {'is led by gradients' if self.searcher.driver else 'grows an ensemble'}."
            )
        self.needs_full_training = self.searcher.needs_full_training
        self.repeats = self.searcher.repeats
        self.fewest_samples = self.searcher.fewest_samples
        self.inner = _spelled(self.searcher)
        if isinstance(self.aggregate, str):
            aggregate = lookup("aggregate", self.aggregate, AGGREGATES)
        else:
            aggregate = self.aggregate
            self.aggregate = f"{aggregate.__module__}.{aggregate.__qualname__}"
        self._judge = Judge(aggregate, self.racing)

    def start(self, space: SearchSpace, seed: int) -> None:
        """Begin; the inner searcher has the random numbers that it would have by itself."""
        super().start(space, seed)
        self.rng = np.random.default_rng([seed, 1])
        self.searcher.admits = self.admits
        self.searcher.start(space, seed)
        self.scoring = self.searcher.scoring
        self.results, self.centers, self._pending, self._races = {}, {}, {}, []
        self._asked = self._drawn = 0
        self._drawn_by: dict[Architecture, list[Center]] = {}
        self._opened: dict[Architecture, Center] = {}
        self._judge.start()

    def tell_scores(self, scores: Mapping[Architecture, float]) -> None:
        """Hand them to the inner searcher."""
        self.searcher.tell_scores(scores)

    def ask(self) -> Architecture | None:
        """Return a neighbor of a center, or a new center."""
        if self.neighbors == 0:
            return self.searcher.ask()
        if not self.racing or self._drawn < _SHARE * self._asked:
            neighbor = self._draw()
            if neighbor is not None:
                return neighbor
        asked = self.searcher.ask()
        return self._draw() if asked is None else self._begin(asked)

    def tell(self, architecture: Architecture, value: float, budget: int) -> None:
        """Take in a result, and tell the inner searcher of centers that are judged by now."""
        if self.neighbors == 0:
            self.searcher.tell(architecture, value, budget)
            return
        form = self.space.canonical(architecture)
        self._pending.pop(form, None)
        before = self.results.get(form)
        if before is None or budget >= before[0]:
            self.results[form] = (budget, value)
        center = self.centers.get(architecture)
        if center is None and self.racing:
            center = Center(architecture)
        if math.isfinite(value):
            self._judge.longest = max(self._judge.longest, budget)
        for nearby in self._drawn_by.get(form, ()):
            self._judge.update(nearby, self.results)
        if center is not None:
            self._arrived(center, *self.results[form])
        self._settle()

    def decline(self, architecture: Architecture) -> None:
        """Leave a neighbor out of its neighborhoods; have the inner searcher take a center back."""
        if self.neighbors == 0:
            self.searcher.decline(architecture)
            return
        form = self.space.canonical(architecture)
        if form in self._pending:
            del self._pending[form]
            self._asked -= 1
        if self._is_neighbor:
            self._drawn -= 1
            self._drawn_by.pop(form)[-1].drawn.remove(form)
            self._settle()
            return
        center = self.centers[architecture]
        center.asked -= 1
        self.searcher.decline(architecture)
        if not center.asked and center.own is None:
            del self.centers[architecture]
            if center.open:
                self._races.remove(center)
                del self._opened[architecture]

    def merits(self) -> dict[Architecture, float]:
        """Return how the centers are judged, of those that may be the outcome."""
        if self.neighbors == 0:
            return dict(self.searcher.merits())
        judge = self._judge
        judged = (center for center in self._opened.values() if judge.judged(center))
        return {center.architecture: judge.merit(center) for center in judged}

    # Centers and their neighbors

    def _begin(self, arch: Architecture) -> Architecture:
        """Note a center that the inner searcher asks for."""
        self._is_neighbor = False
        center = self.centers.get(arch)
        if center is None:
            center = self.centers[arch] = Center(arch)
            if not self.racing:
                self._open(center)
        center.asked += 1
        form = self.space.canonical(arch)
        if form not in self.results and form not in self._pending:
            self._pending[form] = None
            self._asked += 1
        return arch

    def _open(self, center: Center) -> None:
        center.open = True
        self._races.append(center)
        self._opened[center.architecture] = center
        near = draw_neighbors(
            self.space, center.architecture, self.neighbors, self.rng, self.distance, self.rewire
        )
        admitted = near if self.admits is None else filter(self.admits, near)
        center.queue = [(neighbor, self.space.canonical(neighbor)) for neighbor in admitted]

    def _draw(self) -> Architecture | None:
        """Return the next neighbor to evaluate, of the best center that lacks one."""
        races = self._races
        if self.racing:
            races = sorted(races, key=self._judge.merit, reverse=True)
        for center in races:
            for i, (neighbor, form) in enumerate(center.queue):
                if form not in self._pending and form not in self.results:
                    self._take(center, i)
                    self._pending[form] = None
                    self._asked += 1
                    self._drawn += 1
                    self._is_neighbor = True
                    return neighbor
        return None

    def _take(self, center: Center, i: int) -> None:
        """Move the i-th of the queue to those that are drawn."""
        form = center.queue.pop(i)[1]
        center.drawn.append(form)
        self._drawn_by.setdefault(form, []).append(center)

    def _arrived(self, center: Center, budget: int, value: float) -> None:
        """Take a center's own result, the first or one with more epochs."""
        center.own, center.budget = value, budget
        if center.asked:
            center.asked -= 1
            center.owed += 1
        elif center.told:
            center.owed += 1
        self._judge.update(center, self.results)
        if not math.isfinite(value):
            self._close(center)
        elif self.racing and not center.drawn and not center.open and self._judge.can_win(center):
            self.centers[center.architecture] = center
            self._open(center)
        elif not center.open:
            self._close(center)

    def _settle(self) -> None:
        """Take in neighbors that are known by now; end the races that are over."""
        for center in list(self._races):
            if center.own is not None and center.queue and center.queue[0][1] in self.results:
                while center.queue and center.queue[0][1] in self.results:
                    self._take(center, 0)
                self._judge.update(center, self.results)
        self._judge.weigh(self._opened.values())
        over = [center for center in self._races if self._is_over(center)]
        for center in over:
            self._close(center)
        if self.racing and len(self._races) > _RACES:
            self._close(min(self._races, key=self._judge.merit))

    def _is_over(self, center: Center) -> bool:
        complete = not center.queue and all(form in self.results for form in center.drawn)
        return center.own is not None and (complete or not self._judge.can_win(center))

    def _close(self, center: Center) -> None:
        """End a center's race and tell the inner searcher how it was judged."""
        if center.open:
            center.open = False
            self._races.remove(center)
            center.queue = []
        for _ in range(center.owed):
            self.searcher.tell(center.architecture, self._judge.merit(center), center.budget)
            center.told = True
        center.owed = 0
        if self.racing and not center.asked and not center.drawn and not center.told:
            self.centers.pop(center.architecture, None)
        if self.racing and not center.drawn:
            self._opened.pop(center.architecture, None)


def na_rs(
    neighbors: NonNegativeInt = 24,
    distance: PositiveInt = 1,
    aggregate: str = "mean",
    racing: bool = True,
    rewire: bool = False,
) -> NeighborhoodAware:
    """Return NA-RS: random search whose draws are judged by their neighborhoods."""
    return NeighborhoodAware(RandomSearch(), neighbors, distance, aggregate, racing, rewire)


def _spelled(searcher: Searcher) -> str:
    """Return a searcher's name with what differs from its defaults, as `_INNER` reads it.

    But for functions, which no text can bring back.
    """
    name = next((name for name, factory in _INNER.items() if factory is type(searcher)), None)
    if name is None:
        return f"{type(searcher).__module__}.{type(searcher).__qualname__}"
    options = {
        f.name: _option(getattr(searcher, f.name))
        for f in fields(searcher)  # type: ignore[arg-type]  # all of them are dataclasses
        if f.init and (f.default is MISSING or getattr(searcher, f.name) != f.default)
    }
    return spell(name, options).replace(",", ";")


def _option(value: object) -> object:
    """Return an option as it is spelled, a function by its name."""
    if not callable(value):
        return value
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return f"function-{value.__module__}.{name}"
