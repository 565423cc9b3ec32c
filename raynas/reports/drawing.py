"""Architectures as inline SVG: a column of nodes, the connections beside it.

Everything stands in one column, so that a phone shows a cell of nine nodes or a network of twenty
stages as it is; a connection to the next node goes straight down, others go around on the right.
"""

from collections.abc import Sequence

from markupsafe import Markup

from raynas.reports.rendering import render
from search_spaces import Architecture, SearchSpace
from search_spaces.graph import CellGraph, Edge

_LETTER = 7.3  # pixels
_LINE = 17
_GAP = 22  # between two nodes
_LANE = 11  # between two connections beside the column
_COLORS = 6  # `.c0` to `.c5` in the style of the page
_NARROWEST = 90


def drawing(space: SearchSpace, arch: Architecture) -> Markup:
    """Return the graphs of an architecture as SVG: its cells, or its stages or decisions in a row.

    Args:
        space: of the architecture.
        arch: the architecture.
    """
    pictures = [_picture(name, graph) for name, graph in space.graphs(arch).items()]
    return render("drawing", pictures=pictures)


def _picture(name: str, graph: CellGraph) -> dict[str, object]:
    """Return what the template draws of a graph, in pixels."""
    nodes = graph.nodes()
    lines = {node: _lines(graph, node) for node in nodes}
    letters = max(len(text) for node in nodes for text in (node, *lines[node]))
    width = max(_NARROWEST, letters * _LETTER + 16)
    tops, y = {}, 1.0
    for node in nodes:
        tops[node] = y
        y += _LINE * (1 + len(lines[node])) + 8 + _GAP
    bottoms = {node: tops[node] + _LINE * (1 + len(lines[node])) + 8 for node in nodes}
    order = {node: i for i, node in enumerate(nodes)}
    curves, lanes = [], _lanes(graph.edges, order)
    for edge in dict.fromkeys((e.source, e.target) for e in graph.edges):
        source, target = edge
        color = order[source] % _COLORS
        if order[target] == order[source] + 1:
            path = f"M{width / 2:.0f} {bottoms[source]:.0f} V{tops[target] - 2:.0f}"
        else:
            start, end = bottoms[source] - 8, tops[target] + 8
            x = width + _LANE * (1 + lanes[edge])
            path = (
                f"M{width:.0f} {start:.0f} H{x - 6:.0f} q6 0 6 6 V{end - 6:.0f} q0 6 -6 6"
                f" H{width + 2:.0f}"
            )
        curves.append((color, path))
    boxes = [
        {
            "name": node,
            "lines": lines[node],
            "top": tops[node],
            "height": bottoms[node] - tops[node],
            "color": order[node] % _COLORS,
            "end": node in graph.inputs or node == graph.output,
        }
        for node in nodes
    ]
    right = width + _LANE * (1 + max(lanes.values(), default=-1)) + 8
    return {"name": name, "boxes": boxes, "curves": curves, "width": width, "line": _LINE,
            "size": (right, y - _GAP + 1)}  # fmt: skip


def _lines(graph: CellGraph, node: str) -> list[str]:
    """Return the operations on the edges into a node, with the nodes where these start."""
    edges = [edge for edge in graph.edges if edge.target == node and edge.operation]
    return [f"{edge.operation} ← {edge.source}" for edge in edges]


def _lanes(edges: Sequence[Edge], order: dict[str, int]) -> dict[tuple[str, str], int]:
    """Return the lane of each connection that skips nodes: the short ones inside, none crossing.

    Those that pass the same place have lanes of their own.
    """
    spans = {(e.source, e.target): (order[e.source], order[e.target]) for e in edges}
    long = sorted((b - a, a, edge) for edge, (a, b) in spans.items() if b - a > 1)
    taken: list[list[tuple[int, int]]] = []
    lanes = {}
    for _, first, edge in long:
        last = spans[edge][1]
        for lane, others in enumerate(taken):  # noqa: B007  the first free one is wanted
            if all(last <= a or b <= first for a, b in others):
                break
        else:
            lane = len(taken)
            taken.append([])
        taken[lane].append((first, last))
        lanes[edge] = lane
    return lanes
