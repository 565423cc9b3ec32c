"""The shared weights of DARTS-like cells: every node reads every node before it.

Liu, Simonyan, Yang: DARTS (ICLR 2019), section 2. An architecture keeps two edges of each node.
"""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from search_spaces.architecture import Architecture, Decision
from search_spaces.cells.genotypes import Genotype
from search_spaces.cells.network import Skeleton, preprocess, stem
from search_spaces.cells.operations import FactorizedReduce, operation
from search_spaces.errors import InvalidArchitecture
from search_spaces.graph import Cell
from search_spaces.modules import GlobalPoolClassifier
from search_spaces.weight_sharing.supernet import GraphSupernet

if TYPE_CHECKING:
    from search_spaces.cells.space import CellSpace

_KINDS = ("normal", "reduction")


class CellSupernet(GraphSupernet):
    """Slots are the edges of the normal and of the reduction cell; weights are each cell's own."""

    def __init__(
        self,
        space: "CellSpace",
        skeleton: Skeleton,
        input_shape: Sequence[int],
        num_classes: int,
        affine: bool,
    ):
        self.nodes, self.choices = range(2, 2 + space.nodes), space.choices
        slots = [
            Decision(f"{kind}_{source}_{node}", self.choices)
            for kind in _KINDS
            for node, source in self._edges()
        ]
        super().__init__(space, slots, affine)
        self.cells = space
        value = self.images
        values = [value := self.fixed(part, value) for part in stem(skeleton, input_shape[0])]
        outputs = [values[0], values[-1]]
        whole = Cell((), tuple(self.nodes))  # all that a place needs to know of its cell
        for place in skeleton.places(Genotype(whole, Cell((), tuple(self.nodes)))):
            self.begin_layer()
            c, stride = place.channels, place.stride
            first = FactorizedReduce if place.reduced else preprocess
            nodes = [
                self.fixed(first(place.before, c), outputs[-2]),
                self.fixed(preprocess(place.last, c), outputs[-1]),
            ]
            slot = itertools.count(len(self._edges()) if stride == 2 else 0)
            for node in self.nodes:
                edges = [
                    self.choose(next(slot), self._on_edge(c, stride if i < 2 else 1), nodes[i])
                    for i in range(node)
                ]
                nodes.append(self.joined(edges))
            outputs.append(self.joined(nodes[2:], "cat"))
        self.fixed(GlobalPoolClassifier(c * space.nodes, num_classes), outputs[-1])

    def _edges(self) -> list[tuple[int, int]]:
        """(node, source) of all edges of a cell."""
        return [(node, source) for node in self.nodes for source in range(node)]

    def _on_edge(self, channels: int, stride: int) -> list[nn.Module | None]:
        return [
            None if name == "none" else operation(name, channels, stride, self.affine)
            for name in self.choices
        ]

    def selection(self, arch: Architecture) -> tuple[tuple[int, ...], ...]:
        """Two edges of each node, or one that is taken twice."""
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
