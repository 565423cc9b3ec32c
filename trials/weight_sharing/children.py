"""Which children share a supernet's weights, and in which order they are trained.

Zhang et al.: Deeper Insights into Weight Sharing in NAS (arXiv 2001.01431), for groups and
cycles; Chu et al.: FairNAS (ICCV 2021), for strict fairness; Ning et al. (arXiv 2008.03064), for
sampling over classes of architectures that compute the same function.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from search_spaces import Architecture, SearchSpace
from search_spaces.errors import InvalidArgument
from trials.trial import derived_seed

#: uniform: each path drawn anew. fair: rounds of as many paths as the largest decision has choices,
#: one update each, dealt so that every choice is trained equally often. cycle: all children in
#: lexicographic order, again and again; shuffled: the same in one random order; reshuffled: in a
#: new order each time.
Sampling = Literal["uniform", "fair", "cycle", "shuffled", "reshuffled"]
#: similarity: slices of the lexicographic order, so that members have their leading decisions in
#: common; random; or a function that gives the group's key
Grouping = Literal["similarity", "random"] | Callable[[Architecture], Hashable]

_MAX_LISTED = 200_000  # architectures of a space that are listed
_RANDOM_GROUPS = 42  # the seed of the study's partition
_MAX_TRIES = 1000


@dataclass(frozen=True)
class Children:
    """The architectures of a space, divided into groups with a supernet each.

    Args:
        space: of the architectures.
        groups: how many; with a function as grouping, as many as it has values.
        grouping: how they are divided.
        canonical: whether only one of all that compute the same function is a child; the others
            are judged by that one.

    Raises:
        InvalidArgument: when the space is too large for what is asked of it, or there are more
            groups than children.
    """

    space: SearchSpace
    groups: int = 1
    grouping: Grouping = "similarity"
    canonical: bool = False

    def __post_init__(self) -> None:
        if self.canonical and not self.listed:
            raise self.too_large("canonical=true")
        if self.grouping not in ("similarity", "random") and not self.listed:
            raise self.too_large("grouping by a function")
        if self.listed and self.groups > len(self.listed):
            raise InvalidArgument(
                f"groups={self.groups}: {self.space.name} has only {len(self.listed)} children."
            )

    def too_large(self, what: str) -> InvalidArgument:
        """Return the error for what needs all architectures of a space that has too many."""
        return InvalidArgument(
            f"{what} goes through all architectures, of which {self.space.name} has"
            f" {self.space.size:.1e}; that works up to {_MAX_LISTED:,}."
        )

    @cached_property
    def listed(self) -> list[Architecture]:
        """All children in lexicographic order; empty where there are too many."""
        if self.space.size > _MAX_LISTED:
            return []
        if not self.canonical:
            return list(self.space)
        return sorted({self.space.canonical(arch) for arch in self.space})

    @cached_property
    def _group_of(self) -> dict[Architecture, int]:
        """The group of each listed child."""
        n = len(self.listed)
        if self.grouping == "similarity":
            return {arch: i * self.groups // n for i, arch in enumerate(self.listed)}
        if self.grouping == "random":
            places = np.arange(n) % self.groups
            np.random.RandomState(_RANDOM_GROUPS).shuffle(places)
            return {arch: int(place) for arch, place in zip(self.listed, places, strict=True)}
        keys = [self.grouping(arch) for arch in self.listed]
        numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        return {arch: numbers[key] for arch, key in zip(self.listed, keys, strict=True)}

    def __len__(self) -> int:
        """Return the number of groups."""
        return max(self._group_of.values()) + 1 if self.listed else self.groups

    def form(self, arch: Architecture) -> Architecture:
        """Return the child that stands for an architecture."""
        self.space.check(arch)
        return self.space.canonical(arch) if self.canonical else arch

    def group_of(self, arch: Architecture) -> int:
        """Return the group of an architecture."""
        form = self.form(arch)
        if self.listed:
            return self._group_of[form]
        if self.grouping == "random":
            return derived_seed(_RANDOM_GROUPS, *form.choices) % self.groups
        index = 0  # in the lexicographic order of all combinations, valid or not
        for decision, choice in zip(self.space.decisions, form.choices, strict=True):
            index = index * len(decision.choices) + choice
        return index * self.groups // self.space.size

    def members(self, group: int) -> list[Architecture]:
        """Return the children of a group; empty where they are not listed."""
        return self._members[group] if self.listed else []

    def draw(self, group: int, rng: np.random.Generator) -> Architecture:
        """Draw a child of a group, uniformly."""
        members = self.members(group)
        if members:
            return members[int(rng.integers(len(members)))]
        for _ in range(_MAX_TRIES * self.groups):
            arch = self.space.sample(rng)
            if self.group_of(arch) == group:
                return arch
        raise InvalidArgument(
            f"groups={self.groups}: found no architecture of {self.space.name} for group {group}."
            " Choose fewer groups, or grouping='random'."
        )

    @cached_property
    def _members(self) -> list[list[Architecture]]:
        members: list[list[Architecture]] = [[] for _ in range(len(self))]
        for arch, group in self._group_of.items():
            members[group].append(arch)
        return members

    def some(self, group: int, count: int, seed: int) -> list[Architecture]:
        """Draw different children of a group, in order; all if no more than `count`."""
        members = self.members(group)
        rng = np.random.default_rng(derived_seed(seed))
        if members:
            chosen = rng.permutation(len(members))[:count]
            return [members[i] for i in sorted(chosen)]
        return sorted({self.draw(group, rng) for _ in range(count)})


@dataclass(frozen=True)
class Order:
    """Which paths of a group are trained at which step.

    Raises:
        InvalidArgument: for an order that the children do not allow.
    """

    children: Children
    group: int
    sampling: Sampling
    seed: int

    def __post_init__(self) -> None:
        if self.sampling == "fair" and (len(self.children) > 1 or self.children.canonical):
            raise InvalidArgument(
                "sampling='fair' draws choices, not children; it goes with groups=1 and"
                " canonical=false only. Choose 'uniform' or 'reshuffled'."
            )
        if self.sampling not in ("uniform", "fair") and not self.children.listed:
            raise self.children.too_large(f"sampling={self.sampling!r}")

    def epoch(self, epoch: int, steps: int) -> Iterator[list[Architecture]]:
        """Yield the paths of each step of an epoch; several in a step of `fair`."""
        rng = np.random.default_rng(derived_seed(self.seed, epoch))
        decks = [_deck(len(decision.choices), rng) for decision in self.children.space.decisions]
        for step in range(epoch * steps, (epoch + 1) * steps):
            if self.sampling == "fair":
                yield self._round(decks)
            elif self.sampling == "uniform":
                yield [self.children.draw(self.group, rng)]
            else:
                members = self.children.members(self.group)
                cycle, place = divmod(step, len(members))
                yield [members[self._permutation(cycle, len(members))[place]]]

    def _permutation(self, cycle: int, count: int) -> list[int]:
        if self.sampling == "cycle":
            return list(range(count))
        path = (self.seed,) if self.sampling == "shuffled" else (self.seed, cycle)
        if path not in self._drawn:
            self._drawn.clear()
            rng = np.random.default_rng(derived_seed(*path))
            self._drawn[path] = rng.permutation(count).tolist()
        return self._drawn[path]

    @cached_property
    def _drawn(self) -> dict[tuple[int, ...], list[int]]:
        return {}

    def _round(self, decks: Sequence[Iterator[int]]) -> list[Architecture]:
        """Draw as many paths as the largest decision has choices.

        Where all decisions have as many, each choice exactly once (strict fairness); the choices
        of a smaller one are dealt on and on, so that none is ever ahead of another by two.
        """
        space = self.children.space
        length = max(len(decision.choices) for decision in space.decisions)
        for _ in range(_MAX_TRIES):
            rows = [tuple(next(deck) for deck in decks) for _ in range(length)]
            paths = [Architecture(space.name, row) for row in rows]
            if all(map(space.is_valid, paths)):
                return paths
        raise InvalidArgument(
            f"sampling='fair': found no round of valid architectures of {space.name}. Choose"
            " 'uniform'."
        )


def _deck(size: int, rng: np.random.Generator) -> Iterator[int]:
    """Deal all choices in a random order, then in another one, and so on."""
    while True:
        yield from rng.permutation(size).tolist()
