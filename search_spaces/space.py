"""The contract of a search space, and all that can be derived from it.

A search space is a product of named categorical decisions. An architecture is a small frozen
value, the index of the choice taken at every decision; only `SearchSpace.build` makes modules.
A space's file therefore holds its decisions, its notation, its network, and nothing else.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.architecture import Architecture, Decision
from search_spaces.counting import Counts, count_macs, count_params
from search_spaces.errors import InvalidArchitecture, RaynasError
from search_spaces.graph import CellGraph, Edge
from search_spaces.naming import lookup
from search_spaces.notation import Scanner

if TYPE_CHECKING:  # both take long to import
    from matplotlib.figure import Figure
    from torch import nn

_MAX_TRIES = 10_000


class SearchSpace(ABC):
    """A set of architectures, and how to build, vary and name them.

    A space is immutable and knows no data, no training and no randomness of its own: random
    generators are arguments. A subclass gives `name`, `decisions` and `build`; where it has
    them, also `is_valid`, `canonical` and the field's notation (`to_string`, `from_string`).

    Example:
        >>> import numpy as np, search_spaces
        >>> space = search_spaces.get("nasbench201", channels=4, cells=1)
        >>> arch = space.sample(np.random.default_rng(0))
        >>> space.from_string(space.to_string(arch)) == arch
        True
        >>> len(list(space.neighbors(arch)))
        24
    """

    @property
    def name(self) -> str:
        """The space's name; a class attribute of the built-in spaces."""
        return type(self).__name__

    @property
    def paper(self) -> str:
        """The publication, shown by `raynas spaces`."""
        return ""

    @property
    def notation(self) -> str:
        """The notation in words, shown by `raynas spaces`."""
        return "choice indices, joined by '-'"

    @cached_property
    @abstractmethod
    def decisions(self) -> tuple[Decision, ...]:
        """The decisions, in the order in which an architecture lists its choices."""

    @abstractmethod
    def build(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> "nn.Module":
        """Build the untrained network of `arch`, without what cannot reach the output.

        Args:
            arch: an architecture of this space.
            input_shape: (channels, height, width) of one image.
            num_classes: number of logits.

        Returns:
            A module that maps images, `batch x channels x height x width`, to logits,
            `batch x num_classes`.
        """

    # What a space may refine

    def is_valid(self, arch: Architecture) -> bool:
        """Tell whether the combination of choices is an architecture at all (default: always)."""
        return True

    def canonical(self, arch: Architecture) -> Architecture:
        """Return one representative for all architectures that compute the same function."""
        return arch

    def cell_graphs(self, arch: Architecture) -> dict[str, CellGraph]:
        """Return {"normal": its cell as a graph, ...}; empty where a space has no cells."""
        return {}

    def parts(self, arch: Architecture) -> list[str]:
        """Return what is drawn in a row where a space has no cells (default: each decision)."""
        return [f"{name}={value}" for name, value in self.to_config(self.check(arch)).items()]

    def to_string(self, arch: Architecture) -> str:
        """Write `arch` in the field's notation."""
        return "-".join(map(str, self.check(arch).choices))

    def from_string(self, text: str) -> Architecture:
        """Read the architecture that `text` denotes; the inverse of `to_string`.

        Raises:
            InvalidArchitecture: when the text denotes no architecture of this space; the
                message says at which position, what was wanted there, and the closest match.
        """
        scanner = Scanner(self.name, text)
        choices = []
        for i, decision in enumerate(self.decisions):
            if i:
                scanner.literal("-")
            choices.append(scanner.integer(most=len(decision.choices) - 1))
        scanner.end()
        return self.architecture(choices)

    def mutate(self, arch: Architecture, rng: np.random.Generator) -> Architecture:
        """Draw a valid architecture that differs from `arch` in exactly one decision.

        The decision and its new choice are drawn uniformly, anew until the result is valid.
        """
        free = self.variable()
        for _ in range(_MAX_TRIES if free else 0):
            child = self.changed(arch, free[int(rng.integers(len(free)))], rng)
            if self.is_valid(child):
                return child
        raise RaynasError(f"{self.name}: found no valid mutation of {self.to_string(arch)}.")

    def counts(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> Counts:
        """Count trainable parameters, and MACs of one image's forward pass (1 MAC = 2 FLOPs).

        Default: of the network, which is built for it; a space with a closed form overrides this.
        """
        network = self.build(arch, input_shape, num_classes)
        return Counts(count_params(network), count_macs(network, input_shape))

    # What follows from the decisions

    @property
    def counts_fast(self) -> bool:
        """True where `counts` has a closed form, which takes microseconds and no network."""
        return type(self).counts is not SearchSpace.counts

    def params(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> int:
        """Count the trainable parameters; see `counts`."""
        return self.counts(arch, input_shape, num_classes).params

    def macs(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> int:
        """Count the multiply-accumulate operations of one image; see `counts`."""
        return self.counts(arch, input_shape, num_classes).macs

    @property
    def size(self) -> int:
        """Number of combinations of choices, valid or not."""
        return math.prod(len(decision.choices) for decision in self.decisions)

    def __iter__(self) -> Iterator[Architecture]:
        """Yield all valid architectures, in lexicographic order of their choices."""
        for choices in itertools.product(*(range(len(d.choices)) for d in self.decisions)):
            arch = Architecture(self.name, choices)
            if self.is_valid(arch):
                yield arch

    def architecture(self, choices: Sequence[int]) -> Architecture:
        """Return the architecture with these choice indices, checked."""
        return self.check(Architecture(self.name, tuple(choices)))

    def check(self, arch: Architecture) -> Architecture:
        """Return `arch` itself.

        Raises:
            InvalidArchitecture: when it is not an architecture of this space.
        """
        if arch.space != self.name:
            raise InvalidArchitecture(
                f"{self.name}: the architecture {arch.choices} is of the space {arch.space!r}."
            )
        if arch.name:
            raise InvalidArchitecture(f"{self.name}: has no published {arch.name!r}.")
        if len(arch.choices) != len(self.decisions):
            raise InvalidArchitecture(
                f"{self.name}: {len(arch.choices)} choices given, {len(self.decisions)} wanted."
            )
        for decision, choice in zip(self.decisions, arch.choices, strict=True):
            if not 0 <= choice < len(decision.choices):
                raise InvalidArchitecture(
                    f"{self.name}: choice {choice} of decision {decision.name!r} is not in"
                    f" 0..{len(decision.choices) - 1}."
                )
        if not self.is_valid(arch):
            raise InvalidArchitecture(f"{self.name}: {arch.choices} is not valid in this space.")
        return arch

    def sample(self, rng: np.random.Generator) -> Architecture:
        """Draw a valid architecture, uniformly."""
        sizes = self._sizes
        for _ in range(_MAX_TRIES):
            choices = (rng.random(len(sizes)) * sizes).astype(np.int64).tolist()
            arch = Architecture(self.name, tuple(choices))
            if self.is_valid(arch):
                return arch
        raise RaynasError(f"{self.name}: drew no valid architecture in {_MAX_TRIES} tries.")

    def changed(self, arch: Architecture, decision: int, rng: np.random.Generator) -> Architecture:
        """Draw another choice, uniformly, at the decision with this index."""
        step = 1 + int(rng.integers(len(self.decisions[decision].choices) - 1))
        return self.replaced(arch, decision, self._varied(arch)[decision] + step)

    def replaced(self, arch: Architecture, decision: int, choice: int) -> Architecture:
        """Put `choice` (modulo the number of choices) at the decision with this index."""
        choices = list(self._varied(arch))
        choices[decision] = choice % len(self.decisions[decision].choices)
        return Architecture(self.name, tuple(choices))

    def variable(self, rewire: bool = True) -> list[int]:
        """Return the indices of the decisions in which architectures can differ.

        Args:
            rewire: also those on the wiring, which count anyway where there are no others.
        """
        free = [i for i, decision in enumerate(self.decisions) if len(decision.choices) > 1]
        others = [i for i in free if self.decisions[i].kind != "wiring"]
        return free if rewire or not others else others

    def neighbors(
        self, arch: Architecture, distance: int = 1, rewire: bool = True
    ) -> Iterator[Architecture]:
        """Yield all valid architectures near `arch`, the nearest first, decision by decision.

        The neighborhood by which an architecture is judged leaves the wiring as it is (Wang et
        al.: Neighborhood-Aware NAS, BMVC 2021: one operation replaced): `rewire=False`.

        Args:
            arch: in the middle; it is none of them itself.
            distance: number of decisions in which they may differ from it.
            rewire: whether they may differ in decisions on the wiring; see `variable`.

        Raises:
            InvalidArchitecture: for a published architecture outside the decisions.
        """
        choices = self._varied(arch)
        for changes in range(1, distance + 1):
            for changed in itertools.combinations(self.variable(rewire), changes):
                options = [
                    [c for c in range(len(self.decisions[i].choices)) if c != choices[i]]
                    for i in changed
                ]
                for others in itertools.product(*options):
                    new = list(choices)
                    for i, choice in zip(changed, others, strict=True):
                        new[i] = choice
                    neighbor = Architecture(self.name, tuple(new))
                    if self.is_valid(neighbor):
                        yield neighbor

    def distance(self, a: Architecture, b: Architecture) -> int:
        """Count the decisions in which two architectures differ."""
        return sum(x != y for x, y in zip(self._varied(a), self._varied(b), strict=True))

    def encode(self, arch: Architecture) -> NDArray[np.float32]:
        """Encode one-hot: `sum of len(choices)` zeros and ones, one 1 per decision."""
        parts = [
            np.eye(len(decision.choices), dtype=np.float32)[choice]
            for decision, choice in zip(self.decisions, self._varied(arch), strict=True)
        ]
        return np.concatenate(parts)

    def to_config(self, arch: Architecture) -> dict[str, Any]:
        """Return {decision name: chosen value}, which Tune and Optuna call a configuration."""
        return {
            decision.name: decision.choices[choice]
            for decision, choice in zip(self.decisions, self._varied(arch), strict=True)
        }

    def from_config(self, config: Mapping[str, Any]) -> Architecture:
        """Read what `to_config` returns.

        Raises:
            InvalidArchitecture: when a decision is missing, or its value no choice of it.
        """
        choices = []
        for decision in self.decisions:
            if config.get(decision.name, self) not in decision.choices:
                raise InvalidArchitecture(
                    f"{self.name}: {decision.name}={config.get(decision.name)!r} is not one of"
                    f" {', '.join(map(repr, decision.choices))}."
                )
            choices.append(decision.choices.index(config[decision.name]))
        return self.architecture(choices)

    def width(self, arch: Architecture, cell: str = "normal") -> float:
        """Measure a cell's width in units of a node's channels (`CellGraph.width`)."""
        return self._cell(arch, cell).width()

    def depth(self, arch: Architecture, cell: str = "normal") -> int:
        """Measure a cell's depth in edges (`CellGraph.depth`).

        Raises:
            UnknownName: when the space has no such cell.
        """
        return self._cell(arch, cell).depth()

    def graphs(self, arch: Architecture) -> dict[str, CellGraph]:
        """Return {panel: what `draw` shows there}: its cells, or its parts as a chain."""
        return self.cell_graphs(arch) or {self.name: self._chain(arch)}

    def draw(self, arch: Architecture) -> "Figure":
        """Draw a matplotlib figure, one panel for each cell, or one without cells."""
        from search_spaces.drawing import figure  # matplotlib takes long to import

        return figure(self.graphs(arch), self.name)

    def to_graphviz(self, arch: Architecture) -> str:
        """Write what `draw` shows in the dot language of Graphviz: one graph for each panel."""
        graphs = self.graphs(arch)
        return "\n".join(graph.to_graphviz(name) for name, graph in graphs.items())

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        return np.array([len(decision.choices) for decision in self.decisions])

    def _varied(self, arch: Architecture) -> tuple[int, ...]:
        if arch.name:
            raise InvalidArchitecture(
                f"{self.name}: {arch.name} lies outside the decisions of this space; it can be"
                " built, trained and drawn, but not varied or encoded."
            )
        return arch.choices

    def _cell(self, arch: Architecture, cell: str) -> CellGraph:
        name = "reduction" if cell == "reduce" else cell
        return lookup(f"{self.name}: cell", name, self.cell_graphs(arch))

    def _chain(self, arch: Architecture) -> CellGraph:
        counts: Counter[str] = Counter()
        nodes = []
        for part in ("input", *self.parts(arch), "output"):
            counts[part] += 1  # two equal parts are two nodes
            nodes.append(part if counts[part] == 1 else f"{part} ({counts[part]})")
        edges = (Edge(a, b) for a, b in itertools.pairwise(nodes))
        return CellGraph((nodes[0],), nodes[-1], tuple(edges))
