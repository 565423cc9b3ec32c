"""The part of a search space that a table covers."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

from search_spaces import Architecture, SearchSpace
from search_spaces.architecture import Decision
from search_spaces.counting import Counts

_MUTATIONS = 200  # in search of one that the table has, before its rows are gone through


class TablePart(SearchSpace):
    """The architectures of a space that a table has, where those are not all.

    Draws are uniform over the table's rows; neighbors and mutations are those that it has.
    """

    def __init__(self, whole: SearchSpace, archs: tuple[Architecture, ...]):
        self.whole, self.archs = whole, archs
        self._forms = {whole.canonical(arch) for arch in archs}

    @property
    def name(self) -> str:
        """The name of the whole space."""
        return self.whole.name

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The decisions of the whole space."""
        return self.whole.decisions

    @property
    def size(self) -> int:
        """Number of rows."""
        return len(self.archs)

    def __iter__(self) -> Iterator[Architecture]:
        return iter(self.archs)

    def is_valid(self, arch: Architecture) -> bool:
        """Tell whether the table has it, or one that computes the same function."""
        return self.whole.is_valid(arch) and self.whole.canonical(arch) in self._forms

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Draw one of the rows."""
        return self.archs[int(rng.integers(len(self.archs)))]

    def mutate(self, arch: Architecture, rng: np.random.Generator) -> Architecture:
        """Draw a mutation that the table has; one of the rows, where it has none."""
        for _ in range(_MUTATIONS):
            child = self.whole.mutate(arch, rng)
            if self.is_valid(child):
                return child
        near = list(self.neighbors(arch))
        return near[int(rng.integers(len(near)))] if near else self.sample(rng)

    def canonical(self, arch: Architecture) -> Architecture:
        """Ask the whole space."""
        return self.whole.canonical(arch)

    def to_string(self, arch: Architecture) -> str:
        """Write as the whole space does."""
        return self.whole.to_string(arch)

    def from_string(self, text: str) -> Architecture:
        """Read as the whole space does."""
        return self.whole.from_string(text)

    def build(self, arch: Architecture, *shape: Any, **shapes: Any) -> nn.Module:
        """Build as the whole space does."""
        return self.whole.build(arch, *shape, **shapes)

    @property
    def counts_fast(self) -> bool:
        """True where the whole space counts fast."""
        return self.whole.counts_fast

    def counts(self, arch: Architecture, *shape: Any, **shapes: Any) -> Counts:
        """Count as the whole space does."""
        return self.whole.counts(arch, *shape, **shapes)

    def cell_graphs(self, arch: Architecture) -> Any:
        """Ask the whole space."""
        return self.whole.cell_graphs(arch)
