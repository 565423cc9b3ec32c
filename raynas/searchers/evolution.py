"""Regularized evolution.

Real et al.: Regularized Evolution for Image Classifier Architecture Search (AAAI 2019),
algorithm 1, with the defaults of NAS-Bench-201's R-EA.
"""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import PositiveInt

from raynas.searchers.searcher import Searcher
from search_spaces import Architecture, SearchSpace


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
    evaluations never join.

    Args:
        population: P.
        sample: S, the size of a tournament.
    """

    population: PositiveInt = 10
    sample: PositiveInt = 3
    #: {birth: member}, the `population` youngest
    members: dict[int, Member] = field(default_factory=dict, init=False, repr=False)
    _births: int = field(default=0, init=False, repr=False)
    #: {architecture: births whose result is awaited, oldest first}
    _pending: dict[Architecture, list[int]] = field(default_factory=dict, init=False, repr=False)

    def start(self, space: SearchSpace, seed: int) -> None:
        """Begin with an empty population."""
        super().start(space, seed)
        self.members, self._births, self._pending = {}, 0, {}

    def ask(self) -> Architecture:
        """A random architecture for the first P births, then the child of a tournament."""
        if self._births < self.population or not self.members:
            arch = self.space.sample(self.rng)
        else:
            members = list(self.members.values())
            drawn = self.rng.integers(len(members), size=self.sample)
            parent = max((members[i] for i in drawn), key=lambda m: (m.budget, m.value))
            arch = self.space.mutate(parent.architecture, self.rng)
        self._pending.setdefault(arch, []).append(self._births)
        self._births += 1
        return arch

    def tell(self, architecture: Architecture, value: float, budget: int) -> None:
        """The architecture joins the population, which then loses its oldest member."""
        birth = self._birth(architecture)
        if not math.isfinite(value):
            return
        self.members[birth] = Member(budget, value, architecture)
        if len(self.members) > self.population:
            del self.members[min(self.members)]

    def _birth(self, architecture: Architecture) -> int:
        """When the architecture was asked for; now, if it never was."""
        births = self._pending.get(architecture)
        if not births:
            self._births += 1
            return self._births - 1
        birth = births.pop(0)
        if not births:
            del self._pending[architecture]
        return birth

    def state(self) -> dict[str, Any]:
        """The population, what is awaited, and the random generator."""
        return {
            **super().state(),
            "births": self._births,
            "members": [
                [birth, m.budget, m.value, list(m.architecture.choices)]
                for birth, m in self.members.items()
            ],
            "pending": [[list(arch.choices), births] for arch, births in self._pending.items()],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from where `state` was taken."""
        super().load_state(state)
        self._births = state["births"]
        self.members = {
            birth: Member(budget, value, self.space.architecture(choices))
            for birth, budget, value, choices in state["members"]
        }
        self._pending = {
            self.space.architecture(choices): list(births) for choices, births in state["pending"]
        }
