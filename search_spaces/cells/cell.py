"""A cell of the DARTS kind: which operation stands on which edge; its widest form.

Liu, Simonyan, Yang: DARTS (ICLR 2019), section 2.1; Shu, Wang, Cai: Understanding Architectures
Learnt by Cell-based NAS (ICLR 2020) for the widest and shallowest form.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from search_spaces.graph import CellGraph, Edge, present

INPUTS = ("c_{k-2}", "c_{k-1}")
OUTPUT = "c_{k}"


@dataclass(frozen=True)
class Cell:
    """A cell of the DARTS kind: every node is the sum of two edges, the output joins nodes.

    Nodes 0 and 1 are the cell's inputs (the outputs of the cells before the last and of the
    last), intermediate nodes count from 2; the output concatenates some of them.

    Args:
        edges: (operation, source node), two for each intermediate node in order.
        concat: the nodes that the output concatenates.
    """

    edges: tuple[tuple[str, int], ...]
    concat: tuple[int, ...]

    @property
    def sources(self) -> list[tuple[int, int]]:
        """The two source nodes of each intermediate node."""
        indices = [source for _, source in self.edges]
        return list(zip(indices[::2], indices[1::2], strict=True))

    def triples(self, dead: bool = True) -> list[tuple[int, str, int]]:
        """List (target node, operation, source node) of each edge, in order.

        Args:
            dead: also the edges that do not lie on a path from an input to the output, and
                those whose operation is "none".
        """
        edges = [
            (2 + i // 2, operation, source) for i, (operation, source) in enumerate(self.edges)
        ]
        if dead:
            return edges
        edges = [edge for edge in edges if edge[1] != "none"]
        reached, needed = {0, 1}, set(self.concat)
        for target, _, source in edges:
            if source in reached:
                reached.add(target)
        for target, _, source in reversed(edges):
            if target in needed:
                needed.add(source)
        return [edge for edge in edges if edge[2] in reached and edge[0] in needed]

    def canonical(self) -> "Cell":
        """Return one cell for all that differ in the order of nodes, or of a node's edges.

        Nor does it matter where an edge with "none" starts, which is 0 wherever that is. Nodes
        are sorted by their level and by the expression that they compute, ties tried out.
        """
        pairs = [self.edges[i : i + 2] for i in range(0, len(self.edges), 2)]
        levels, terms = [0, 0], ["a", "b"]
        for pair in pairs:
            real = [edge for edge in pair if edge[0] != "none"]
            levels.append(1 + max((levels[source] for _, source in real), default=0))
            terms.append("+".join(sorted(f"({terms[source]}){op}" for op, source in real)))
        keys = [*zip(levels, terms, strict=True)]
        nodes = sorted(range(2, len(keys)), key=keys.__getitem__)
        ties = [tuple(group) for _, group in itertools.groupby(nodes, key=keys.__getitem__)]
        orders = itertools.product(*(itertools.permutations(tie) for tie in ties))
        return min(
            (self._arranged([*itertools.chain(*order)]) for order in orders),
            key=lambda cell: (cell.edges, cell.concat),
        )

    def _arranged(self, order: Sequence[int]) -> "Cell":
        place = {0: 0, 1: 1} | {node: 2 + i for i, node in enumerate(order)}
        edges: list[tuple[str, int]] = []
        for node in order:
            pair = self.edges[2 * node - 4 : 2 * node - 2]
            new = [(op, place[source]) for op, source in pair if op != "none"]
            while len(new) < len(pair):  # at different nodes, which some spaces ask for
                new.append(("none", min({0, 1} - {source for _, source in new})))
            edges += sorted(new, key=lambda e: e[::-1])
        return Cell(tuple(edges), tuple(sorted(place[node] for node in self.concat)))

    def adapt(self) -> "Cell":
        """Return the widest and shallowest cell with the same operations and nodes joined.

        A node that does not read both inputs is re-wired to read one of each, in the order of
        the first node that does (so the published NASNet, AmoebaNet and SNAS forms come out;
        the published ENAS form differs, see `genotypes.py`).
        """
        both = [pair for pair in self.sources if set(pair) == {0, 1}]
        order = both[0] if both else (0, 1)
        pairs = [pair if set(pair) == {0, 1} else order for pair in self.sources]
        sources = [source for pair in pairs for source in pair]
        edges = zip((operation for operation, _ in self.edges), sources, strict=True)
        return Cell(tuple(edges), self.concat)

    def graph(self) -> CellGraph:
        """Return the graph, nodes named as in the field: c_{k-2}, c_{k-1}, 0, 1, .., c_{k}."""
        names = [*INPUTS, *map(str, range(len(self.sources)))]
        edges = [Edge(names[s], names[t], operation) for t, operation, s in self.triples()]
        edges += [Edge(names[node], OUTPUT) for node in self.concat]
        return CellGraph(INPUTS, OUTPUT, present(INPUTS, edges))


def loose_ends(sources: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """List the intermediate nodes that no other node reads."""
    used = {source for pair in sources for source in pair}
    return tuple(node for node in range(2, 2 + len(sources)) if node not in used)
