"""The shared weights of DARTS-like cells: every node reads every node before it.

Liu, Simonyan, Yang: DARTS (ICLR 2019), section 2. An architecture keeps two edges of each node.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from search_spaces.architecture import Architecture, Decision
from search_spaces.cells.cell import Cell
from search_spaces.cells.genotypes import Genotype
from search_spaces.cells.network import Place, preprocess, stem
from search_spaces.cells.operations import FactorizedReduce, operation
from search_spaces.cells.space import CELLS, CellSpace
from search_spaces.errors import InvalidArchitecture
from search_spaces.modules import GlobalPoolClassifier
from search_spaces.weight_sharing.graph_supernet import GraphSupernet
from search_spaces.weight_sharing.space import WeightSharingSpace
from search_spaces.weight_sharing.supernet import Mixture


@dataclass(frozen=True)
class SharingCellSpace(CellSpace, WeightSharingSpace):
    """Cells that can share weights: those whose output joins all their nodes."""

    loose: ClassVar[bool] = False

    def supernet(
        self,
        input_shape: Sequence[int] = (3, 32, 32),
        num_classes: int = 10,
        affine: bool = False,
    ) -> "CellSupernet":
        """Make a network whose paths are the networks that `build` makes; see `CellSupernet`."""
        return CellSupernet(self, input_shape, num_classes, affine)

    def differentiable_supernet(
        self, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> "CellSupernet":
        """Make the search network of DARTS; see `CellSupernet`."""
        return CellSupernet(self, input_shape, num_classes, differentiable=True)


class CellSupernet(GraphSupernet):
    """Slots are the edges of the normal and of the reduction cell; weights are each cell's own.

    With `differentiable` it is the search network of DARTS (and its code, `MixedOp`): batch
    normalization follows poolings too, has no scale and shift anywhere but in the stem, and
    "none" is among the choices of every edge, the last one. Its paths are then no networks that
    `build` makes.

    Args:
        space: whose architectures it holds.
        input_shape: (channels, height, width) of one image.
        num_classes: number of logits.
        affine: whether batch normalization on the edges has scale and shift.
        differentiable: as above.
    """

    def __init__(
        self,
        space: CellSpace,
        input_shape: Sequence[int],
        num_classes: int,
        affine: bool = False,
        differentiable: bool = False,
    ):
        self.nodes, self.choices = range(2, 2 + space.nodes), space.choices
        if differentiable and "none" not in self.choices:
            self.choices = (*self.choices, "none")
        slots = [
            Decision(f"{kind}_{source}_{node}", self.choices)
            for kind in CELLS
            for node, source in self._edges()
        ]
        super().__init__(space, slots, affine)
        self.cells, self.differentiable = space, differentiable
        value = self.images
        values = [value := self.fixed(part, value) for part in stem(space.skeleton, input_shape[0])]
        outputs = [values[0], values[-1]]
        whole = Cell((), tuple(self.nodes))  # all that a place needs to know of its cell
        for place in space.skeleton.places(Genotype(whole, whole)):
            self.begin_layer()
            outputs.append(self._add_cell(place, outputs[-2], outputs[-1]))
        self.fixed(GlobalPoolClassifier(place.channels * space.nodes, num_classes), outputs[-1])

    def _add_cell(self, place: Place, before: int, last: int) -> int:
        """Add the steps of a cell that reads two values; return the value of its output."""
        c, affine = place.channels, False if self.differentiable else None
        first = FactorizedReduce if place.reduced else preprocess
        nodes = [
            self.fixed(first(place.before, c), before, affine),
            self.fixed(preprocess(place.last, c), last, affine),
        ]
        slot = itertools.count(len(self._edges()) if place.stride == 2 else 0)
        for node in self.nodes:
            strides = [place.stride if i < 2 else 1 for i in range(node)]
            edges = [
                self.choose(next(slot), self._on_edge(c, stride), nodes[i], stride)
                for i, stride in enumerate(strides)
            ]
            nodes.append(self.joined(edges))
        return self.joined(nodes[2:], "cat")

    def _edges(self) -> list[tuple[int, int]]:
        """List (node, source) of all edges of a cell."""
        return [(node, source) for node in self.nodes for source in range(node)]

    def _on_edge(self, channels: int, stride: int) -> list[nn.Module | None]:
        return [
            None
            if name == "none"
            else operation(name, channels, stride, self.affine, pool_norm=self.differentiable)
            for name in self.choices
        ]

    def selection(self, arch: Architecture) -> tuple[tuple[int, ...], ...]:
        """Select two edges of each node, or one that is taken twice."""
        if arch.name:
            raise InvalidArchitecture(
                f"{self.space.name}: {arch.name} lies outside the decisions of this space; the"
                " supernet has no weights for it."
            )
        genotype = self.cells.to_genotype(arch)
        selected: list[tuple[int, ...]] = []
        for cell in (genotype.normal, genotype.reduction):
            taken = cell.triples()
            selected += [
                tuple(
                    self.choices.index(name) for target, name, at in taken if (target, at) == edge
                )
                for edge in self._edges()
            ]
        return tuple(selected)

    def derive(self, mixture: Mixture) -> Architecture:
        """Take two edges of each node, by the rule of DARTS (section 2.4); "none" is left out.

        Every edge has its strongest operation, and a node the two edges where that is strongest.
        Where a node may read another twice (PNAS, `replacement`), the two strongest operations
        may lie on one edge; so an architecture with one operation twice there is never derived.
        Of equally strong ones the first is taken, in the order of edges, then of choices.
        """
        slots = iter(self.check(mixture))
        cells = [Cell(tuple(self._strongest_edges(slots)), tuple(self.nodes)) for _ in CELLS]
        return self.cells.from_genotype(Genotype(*cells))

    def _strongest_edges(self, slots: Iterator[Tensor]) -> Iterator[tuple[str, int]]:
        """Yield (operation, source), two for each node of a cell."""
        most = 1 if self.cells.distinct else 2  # operations of an edge
        for node in self.nodes:
            edges: list[tuple[float, str, int]] = []
            for source in range(node):
                weighed = zip(next(slots).tolist(), self.choices, strict=True)
                choices = [(w, name, source) for w, name in weighed if name != "none"]
                edges += sorted(choices, key=lambda choice: -choice[0])[:most]
            best = sorted(edges, key=lambda edge: -edge[0])[:2]
            yield from ((name, source) for _, name, source in best)
