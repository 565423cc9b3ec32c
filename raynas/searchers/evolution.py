"""Regularized evolution.

Real et al.: Regularized Evolution for Image Classifier Architecture Search (AAAI 2019),
algorithm 1, with the defaults of NAS-Bench-201's R-EA.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import PositiveInt

from raynas.searchers.naswot import Naswot
from raynas.searchers.searcher import Scoring, Searcher
from search_spaces import Architecture, SearchSpace
from search_spaces.errors import RaynasError
from trials.proxies import Score, check_proxy

_MUTATIONS = 100  # in a row, until one is admitted


class Member(NamedTuple):
    """A member of the population."""

    budget: int
    value: float
    architecture: Architecture


@dataclass
class Evolution(Searcher):
    """Tournament selection, one mutation, and the oldest member dies.

    The first P architectures are random. Then each is a mutation of the fittest of S members
    drawn with replacement from the P youngest. There are no generations: as soon as a result
    arrives its architecture is a member, and while fewer than P results are known the
    tournaments are held among those.

    Where this differs from the paper: age counts from birth (when the architecture was asked
    for), so one that trains slowly is not younger for it; and since a scheduler may stop trials
    early, members are compared by the epochs they reached first, by value second. Failed
    evaluations never join. Under a constraint a child is mutated until it is admitted.

    Args:
        population: P.
        sample: S, the size of a tournament.
        warm_start: a proxy, any of `trials.proxies.PROXIES` or a function of the user's own: the
            first P architectures are not random, but those of `candidates` random ones that score
            best. (Given a `Naswot`, its proxy and its number of candidates are taken.)
        candidates: number of random architectures that are scored for a warm start.
    """

    population: PositiveInt = 10
    sample: PositiveInt = 3
    warm_start: str | Score | Naswot | None = None
    candidates: PositiveInt = 20
    #: the best-scoring first: what is left of the warm start
    _first: list[Architecture] = field(default_factory=list, init=False, repr=False)
    #: {birth: member}, the `population` youngest
    members: dict[int, Member] = field(default_factory=dict, init=False, repr=False)
    _births: int = field(default=0, init=False, repr=False)
    #: {architecture: its latest birth}
    _born: dict[Architecture, int] = field(default_factory=dict, init=False, repr=False)
    #: {architecture: births whose result is awaited, oldest first}
    _pending: dict[Architecture, list[int]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.warm_start, Naswot):
            self.candidates, self.warm_start = self.warm_start.candidates, self.warm_start.proxy
        if self.warm_start is not None:
            check_proxy("warm_start", self.warm_start)

    def start(self, space: SearchSpace, seed: int) -> None:
        """Begin with an empty population."""
        super().start(space, seed)
        self.members, self._births, self._pending, self._first = {}, 0, {}, []
        self._born = {}
        self.scoring = None
        if self.warm_start is not None:
            assert not isinstance(self.warm_start, Naswot)  # but the proxy of one
            drawn = [space.sample(self.rng) for _ in range(self.candidates)]
            self.scoring = Scoring(self.warm_start, list(dict.fromkeys(drawn)))

    def tell_scores(self, scores: Mapping[Architecture, float]) -> None:
        """Let the best-scoring architectures be the first that are asked for."""
        self._first = sorted(scores, key=lambda arch: -scores[arch])[: self.population]

    def ask(self) -> Architecture:
        """Return a random architecture for the first P births, then a tournament's child."""
        if self._first:
            arch = self._first.pop(0)
        elif self._births < self.population or not self.members:
            arch = self.space.sample(self.rng)
        else:
            members = list(self.members.values())
            drawn = self.rng.integers(len(members), size=self.sample)
            parent = max((members[i] for i in drawn), key=lambda m: (m.budget, m.value))
            arch = self._child(parent.architecture)
        self._pending.setdefault(arch, []).append(self._births)
        self._born[arch] = self._births
        self._births += 1
        return arch

    def tell(self, architecture: Architecture, value: float, budget: int) -> None:
        """Let the architecture join the population, which then loses its oldest member."""
        birth = self._birth(architecture)
        if not math.isfinite(value):
            return
        self.members[birth] = Member(budget, value, architecture)
        if len(self.members) > self.population:
            del self.members[min(self.members)]

    def decline(self, architecture: Architecture) -> None:
        """Give the birth back, which the next architecture has."""
        births = self._pending[architecture]
        births.pop()
        if not births:
            del self._pending[architecture]
        self._born.pop(architecture)
        self._births -= 1

    def _child(self, parent: Architecture) -> Architecture:
        """Return a mutation; of one that would be declined another, so that a child may lie beyond.

        Under a tight limit what is admitted lies in islands: to move the one large operation that
        it allows, the search must leave the limit and come back.
        """
        arch = parent
        try:
            for _ in range(_MUTATIONS):
                arch = self.space.mutate(arch, self.rng)
                if self.admits is None or self.admits(arch):
                    break
        except RaynasError:  # it has no valid neighbor
            arch = self.space.sample(self.rng)
        return arch

    def _birth(self, architecture: Architecture) -> int:
        """Return when the architecture was asked for; now, if it never was.

        One that was promoted is told of again and keeps its age.
        """
        births = self._pending.get(architecture)
        if not births:
            if architecture in self._born:
                return self._born[architecture]
            self._births += 1
            return self._births - 1
        birth = births.pop(0)
        if not births:
            del self._pending[architecture]
        return birth
