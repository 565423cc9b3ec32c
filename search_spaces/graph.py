"""A cell as a graph: its width and depth, its picture as text.

Shu, Wang, Cai: Understanding Architectures Learnt by Cell-based NAS (ICLR 2020).
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Edge:
    """From one node to another, with the operation on it ("" for a plain connection)."""

    source: str
    target: str
    operation: str = ""


@dataclass(frozen=True)
class CellGraph:
    """A directed acyclic graph from the cell's inputs to its output.

    An edge whose operation is "none" is no edge, and neither is one that starts where nothing
    arrives: see `present`, with which spaces make their graphs.

    Args:
        inputs: names of the input nodes.
        output: name of the output node.
        edges: all edges, each after the edges into its source.
    """

    inputs: tuple[str, ...]
    output: str
    edges: tuple[Edge, ...]

    def nodes(self) -> list[str]:
        """List all nodes, inputs first, the output last."""
        inner = dict.fromkeys(edge.target for edge in self.edges if edge.target != self.output)
        return [*self.inputs, *inner, self.output]

    def width(self) -> float:
        """Measure the width, in units of a node's channels c (section 3 of the paper).

        The sum, over the intermediate nodes, of the fraction of a node's incoming edges that
        start at an input. Whether a node is part of the output does not matter.
        """
        width = 0.0
        for node in self.nodes()[len(self.inputs) : -1]:
            sources = [edge.source for edge in self.edges if edge.target == node]
            width += sum(source in self.inputs for source in sources) / len(sources)
        return width

    def depth(self) -> int:
        """Count the edges on the longest path from any input to the output; 0 without one."""
        return self.levels().get(self.output, 0)

    def levels(self) -> dict[str, int]:
        """Return {node: edges on the longest path from any input}, reachable nodes only."""
        levels = dict.fromkeys(self.inputs, 0)
        for edge in self.edges:
            if edge.source in levels:
                levels[edge.target] = max(levels.get(edge.target, 0), levels[edge.source] + 1)
        return levels

    def to_graphviz(self, name: str = "cell") -> str:
        """Write the graph in the dot language of Graphviz."""
        lines = [f'digraph "{name}" {{', "  rankdir=LR;", "  node [shape=box, style=rounded];"]
        for node in self.nodes():
            style = ' [style="rounded,filled", fillcolor=lightgrey]' if self._is_end(node) else ""
            lines.append(f'  "{node}"{style};')
        for edge in self.edges:
            label = f' [label="{edge.operation}"]' if edge.operation else ""
            lines.append(f'  "{edge.source}" -> "{edge.target}"{label};')
        return "\n".join([*lines, "}"])

    def _is_end(self, node: str) -> bool:
        return node in self.inputs or node == self.output


def present(inputs: Collection[str], edges: Iterable[Edge]) -> tuple[Edge, ...]:
    """Return the edges that carry anything from the inputs; each must follow those into its source.

    Left out are those whose operation is "none", and those that start at a node that no edge
    left reaches.
    """
    reached, kept = set(inputs), []
    for edge in edges:
        if edge.operation != "none" and edge.source in reached:
            reached.add(edge.target)
            kept.append(edge)
    return tuple(kept)
