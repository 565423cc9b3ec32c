"""The base of the spaces of DARTS-like cells: decisions, notation, network."""

import itertools
from abc import ABC
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar

from pydantic import PositiveInt
from torch import nn

from search_spaces.architecture import Architecture, Decision
from search_spaces.cells.cell import Cell, loose_ends
from search_spaces.cells.genotypes import Genotype, named, read_genotype
from search_spaces.cells.network import CellNetwork, Skeleton, Stem
from search_spaces.counting import Counts
from search_spaces.errors import InvalidArchitecture, InvalidArgument
from search_spaces.graph import CellGraph
from search_spaces.naming import closest
from search_spaces.notation import Scanner
from search_spaces.space import SearchSpace

CELLS = ("normal", "reduction")
_KEPT = 4096  # cells


@dataclass(frozen=True)
class CellSpace(SearchSpace, ABC):
    """A normal and a reduction cell; every node adds two edges up, the output joins nodes.

    The network: a 3x3 convolution with 3 x `channels` channels; `cells` cells, each reading the
    outputs of the two cells before it, those at 1/3 and 2/3 of the depth being reduction cells
    (stride 2, twice the channels); global average pooling, a linear layer.

    `params` and `macs` count as the published tables do, with every edge of a cell. `build`
    leaves out what cannot influence the output: an input that a cell does not read, a node that
    the output of a published adapted cell does not join. With `dead_edges` it leaves out
    nothing, and its counts are those of `params` and `macs`.

    Args:
        channels: channels of the nodes of the first cells (36 in the published networks); the
            stem "imagenet" needs 2 at least.
        cells: number of cells (20).
        auxiliary: whether training has a second classifier on the second reduction cell, whose
            logits are the network's attribute `auxiliary_logits`; counted in `params` only, and
            no part of a supernet.
        stem: one 3x3 convolution ("cifar"), the same with stride 2 ("tiny_imagenet"), or three
            of stride 2 ("imagenet").
        dead_edges: also build what cannot influence the output.
    """

    channels: PositiveInt = 36
    cells: PositiveInt = 20
    auxiliary: bool = False
    stem: Stem = "cifar"
    dead_edges: bool = False

    notation: ClassVar[str] = (
        "Genotype(normal=[('operation', source), ...], normal_concat=[node, ...], reduce=[...],"
        " reduce_concat=[...]), two edges for each node, or the name of a published cell: DARTS_V2"
    )
    #: what can stand on an edge
    operations: ClassVar[tuple[str, ...]]
    #: intermediate nodes of a cell
    nodes: ClassVar[int]
    #: whether the output joins the nodes that no other node reads, or all nodes
    loose: ClassVar[bool]

    def __post_init__(self) -> None:
        """Check what depends on several options.

        Raises:
            InvalidArgument: when there are too few channels for the stem.
        """
        if self.stem == "imagenet" and self.channels < 2:
            raise InvalidArgument(
                f"{self.name}: channels={self.channels}: the stem 'imagenet' halves them; give at"
                " least 2."
            )

    @property
    def choices(self) -> tuple[str, ...]:
        """The operations that can be chosen."""
        return self.operations

    @property
    def distinct(self) -> bool:
        """True where the two edges of a node start at different nodes."""
        return False

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """Sources of a node's two edges, then their operations, node by node, cell by cell."""
        decisions: list[Decision] = []
        for cell, node in itertools.product(CELLS, range(2, 2 + self.nodes)):
            if self.distinct:
                pairs = tuple(itertools.combinations(range(node), 2))
                decisions.append(Decision(f"{cell}_{node}_sources", pairs, "wiring"))
            else:
                sources = tuple(range(node))
                decisions += [
                    Decision(f"{cell}_{node}_source_{i}", sources, "wiring") for i in (0, 1)
                ]
            decisions += [Decision(f"{cell}_{node}_operation_{i}", self.choices) for i in (0, 1)]
        return tuple(decisions)

    def to_genotype(self, arch: Architecture) -> Genotype:
        """Return the cells of `arch`."""
        if self.check(arch).name:
            return named(arch.name)
        return self._decode(arch)

    def _decode(self, arch: Architecture) -> Genotype:
        return Genotype(*(_cell(self, choices) for choices in self._halves(arch)))

    def _halves(self, arch: Architecture) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the choices of the normal and of the reduction cell."""
        half = len(self.decisions) // 2
        return arch.choices[:half], arch.choices[half:]

    def cell_of(self, choices: Sequence[int]) -> Cell:
        """Return the cell that these choices make, of either kind."""
        decisions = self.decisions[: len(choices)]
        values = iter([d.choices[c] for d, c in zip(decisions, choices, strict=True)])
        edges: list[tuple[str, int]] = []
        sources: list[tuple[int, int]] = []
        for _ in range(self.nodes):
            sources.append(next(values) if self.distinct else (next(values), next(values)))
            edges += [(next(values), source) for source in sources[-1]]
        return Cell(tuple(edges), self._concat(sources))

    def _concat(self, sources: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        return loose_ends(sources) if self.loose else tuple(range(2, 2 + self.nodes))

    def from_genotype(self, genotype: Genotype) -> Architecture:
        """Find the architecture with these cells; edges are put in order where sources differ.

        Raises:
            InvalidArchitecture: when they are not of this space; the message says why.
        """
        choices: list[int] = []
        decisions = iter(self.decisions)
        for name, cell in zip(CELLS, (genotype.normal, genotype.reduction), strict=True):
            choices += self._cell_choices(name, cell, decisions)
        return self.architecture(choices)

    def _cell_choices(self, name: str, cell: Cell, decisions: Iterator[Decision]) -> list[int]:
        if len(cell.sources) != self.nodes or cell.concat != self._concat(cell.sources):
            raise self._outside(
                f"the {name} cell has {len(cell.sources)} nodes and joins {cell.concat}; this"
                f" space has {self.nodes} and joins"
                f" {'those that no other node reads' if self.loose else 'all'}."
            )
        choices: list[int] = []
        for i in range(0, len(cell.edges), 2):
            choices += self._node_choices(name, cell.edges[i : i + 2], decisions)
        return choices

    def _node_choices(
        self, cell: str, edges: Sequence[tuple[str, int]], decisions: Iterator[Decision]
    ) -> list[int]:
        if self.distinct:
            edges = sorted(edges, key=lambda edge: edge[1])
            pair = tuple(source for _, source in edges)
            pairs = next(decisions).choices
            if pair not in pairs:
                raise self._outside(
                    f"a node of the {cell} cell reads node {pair[0]} twice. The option"
                    " replacement=true allows that."
                )
            values = [pairs.index(pair)]
        else:
            values = [next(decisions).choices.index(source) for _, source in edges]
        for operation, _ in edges:
            operations = next(decisions).choices
            if operation not in operations:
                raise self._outside(
                    f"no operation {operation!r}. {closest(operation, operations)} Known:"
                    f" {', '.join(operations)}."
                )
            values.append(operations.index(operation))
        return values

    def _outside(self, reason: str) -> InvalidArchitecture:
        return InvalidArchitecture(f"{self.name}: not in this space: {reason}")

    def genotype(self, name: str) -> Architecture:
        """Return a published architecture: `DARTS_V2`, `ENAS_ADAPT`, `NASNet_CONN3`.

        Any of `genotypes.named`. One that the decisions of this space cannot express (an adapted
        cell that leaves nodes unused, a cell of another space) is an architecture with a name in
        place of choices: to build, train and draw, not to vary.

        Raises:
            UnknownName: when there is none of this name (the closest match is suggested).
        """
        genotype = named(name)
        try:
            return self.from_genotype(genotype)
        except InvalidArchitecture:
            return Architecture(self.name, (), name)

    def check(self, arch: Architecture) -> Architecture:
        """Return `arch` itself, if its choices or its name are of this space."""
        if arch.name and arch.space == self.name and not arch.choices:
            named(arch.name)
            return arch
        return super().check(arch)

    def is_valid(self, arch: Architecture) -> bool:
        """Tell whether both cells have a path from the inputs to the output."""
        if "none" not in self.choices:
            return True
        genotype = self._decode(arch)
        return all(cell.triples(dead=False) for cell in (genotype.normal, genotype.reduction))

    def canonical(self, arch: Architecture) -> Architecture:
        """Return one for all that differ in the order of nodes, or of the edges of a node."""
        if self.check(arch).name:
            return arch
        normal, reduction = (_canonical(self, choices) for choices in self._halves(arch))
        return Architecture(self.name, normal + reduction)

    def canonical_choices(self, choices: tuple[int, ...]) -> tuple[int, ...]:
        """Return the choices of the canonical form of one cell, of either kind; see `canonical`."""
        cell = _cell(self, choices).canonical()
        return tuple(self._cell_choices(CELLS[0], cell, iter(self.decisions)))

    def adapt(self, arch: Architecture) -> Architecture:
        """Return the widest and shallowest architecture with the same operations (`Cell.adapt`).

        The output of its cells joins the nodes that this space's rule says: all of them.
        """
        if self.check(arch).name:
            return self.genotype(f"{arch.name}_ADAPT")
        genotype = self._decode(arch).adapt()
        every = tuple(range(2, 2 + self.nodes))
        normal, reduction = genotype.normal.edges, genotype.reduction.edges
        return self.from_genotype(Genotype(Cell(normal, every), Cell(reduction, every)))

    def to_string(self, arch: Architecture) -> str:
        """Write `Genotype(normal=[('sep_conv_3x3', 0), ...], ...)`, or a published cell's name."""
        return arch.name if self.check(arch).name else str(self._decode(arch))

    def from_string(self, text: str) -> Architecture:
        """Read what `to_string` writes, or the name of any published cell."""
        scanner = Scanner(self.name, text, spaces=True)
        if text.split("(")[0].strip() in ("Genotype", ""):
            return self.from_genotype(read_genotype(scanner, self.choices, self.nodes))
        try:
            return self.genotype(text.strip())
        except InvalidArchitecture:
            raise
        except ValueError as error:
            raise InvalidArchitecture(
                f"{self.name}: cannot read {text!r}: at position 0, wanted 'Genotype(' or the"
                f" name of published cells. {error}"
            ) from None

    def cell_graphs(self, arch: Architecture) -> dict[str, CellGraph]:
        """Return both cells, with the edges that carry anything (`graph.present`)."""
        genotype = self.to_genotype(arch)
        return {"normal": _graph(genotype.normal), "reduction": _graph(genotype.reduction)}

    @property
    def skeleton(self) -> Skeleton:
        """The way the cells are stacked."""
        return Skeleton(self.channels, self.cells, self.stem, self.auxiliary, self.dead_edges)

    def counts(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> Counts:
        """Count in closed form, for the forward pass in evaluation mode; see the class."""
        return self.skeleton.counts(self.to_genotype(arch), input_shape, num_classes)

    def build(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> nn.Module:
        """Build the network of `arch`, a `CellNetwork`; see the class."""
        return CellNetwork(self.to_genotype(arch), self.skeleton, input_shape, num_classes)


# What a search asks of each cell again and again: neighbors have one cell in common.


@lru_cache(maxsize=_KEPT)
def _cell(space: CellSpace, choices: tuple[int, ...]) -> Cell:
    return space.cell_of(choices)


@lru_cache(maxsize=_KEPT)
def _canonical(space: CellSpace, choices: tuple[int, ...]) -> tuple[int, ...]:
    return space.canonical_choices(choices)


@lru_cache(maxsize=_KEPT)
def _graph(cell: Cell) -> CellGraph:
    return cell.graph()
