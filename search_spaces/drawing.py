"""Pictures of cells with matplotlib.

A node is a box that lists the operations on its incoming edges; each edge ends at its operation,
and has the color of the node where it starts. Nodes stand in columns by depth.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from search_spaces.graph import CellGraph

_LINE = 0.2  # inches
_LETTER = 0.075  # inches
_COLORS = ("#1f4e79", "#b5541c", "#3a7d34", "#8c2d62", "#6b5b1e", "#2b7a78", "#5b4b9a")


@dataclass(frozen=True)
class _Box:
    """Where a node is drawn, in inches: left edge, vertical center, width, the lines in it."""

    left: float
    center: float
    width: float
    title: str
    operations: tuple[str, ...]

    @property
    def height(self) -> float:
        return _LINE * (1.4 + len(self.operations))

    @property
    def right(self) -> float:
        return self.left + self.width

    def line(self, index: int) -> float:
        """Return the vertical place of the title (0) or of an operation (1, 2, ..)."""
        return self.center + self.height / 2 - _LINE * (0.7 + index)


def figure(graphs: Mapping[str, CellGraph], title: str) -> Figure:
    """Draw one panel under the other, each a graph from its inputs (left) to its output."""
    panels = {name: _boxes(graph) for name, graph in graphs.items()}
    extents = [_extent(boxes) for boxes in panels.values()]
    heights = [top - bottom + 0.6 for _, bottom, top in extents]
    size = (max(right for right, _, _ in extents) + 0.4, sum(heights) + 0.6)
    picture = Figure(figsize=size, layout="constrained")
    picture.suptitle(title)
    axes = picture.subplots(len(graphs), 1, squeeze=False, height_ratios=heights)
    for panel, (name, graph), extent in zip(axes[:, 0], graphs.items(), extents, strict=True):
        panel.set_title(name, fontsize=10)
        _draw(graph, panels[name], panel)
        panel.set_xlim(-0.1, max(right for right, _, _ in extents) + 0.1)
        panel.set_ylim(extent[1] - 0.1, extent[2] + 0.1)
        panel.set_axis_off()
    return picture


def _extent(boxes: Mapping[str, _Box]) -> tuple[float, float, float]:
    """Return the right, lowest and highest border of all boxes, edges under them included."""
    return (
        max(box.right for box in boxes.values()),
        min(box.center - box.height / 2 for box in boxes.values()) - _LINE,
        max(box.center + box.height / 2 for box in boxes.values()),
    )


def _boxes(graph: CellGraph) -> dict[str, _Box]:
    operations = {
        node: tuple(edge.operation for edge in graph.edges if edge.target == node)
        for node in graph.nodes()
    }
    levels = graph.levels()
    columns: dict[int, list[str]] = defaultdict(list)
    for node in graph.nodes():
        last = max(levels.values()) if node == graph.output else 0
        columns[max(levels.get(node, 0), last)].append(node)
    boxes: dict[str, _Box] = {}
    left = 0.0
    for level in sorted(columns):
        texts = {node: tuple(filter(None, operations[node])) for node in columns[level]}
        letters = max(len(text) for node, lines in texts.items() for text in (node, *lines))
        width = _LETTER * letters + 0.25
        heights = [_Box(left, 0, width, node, lines).height for node, lines in texts.items()]
        top = (sum(heights) + _LINE * (len(heights) - 1)) / 2
        for (node, lines), height in zip(texts.items(), heights, strict=True):
            boxes[node] = _Box(left, top - height / 2, width, node, lines)
            top -= height + _LINE
        left += width + 0.8
    return boxes


def _draw(graph: CellGraph, boxes: Mapping[str, _Box], axes: Axes) -> None:
    colors = {node: _COLORS[i % len(_COLORS)] for i, node in enumerate(boxes)}
    seen: dict[str, int] = defaultdict(int)
    for edge in graph.edges:
        seen[edge.target] += bool(edge.operation)
        source, target = boxes[edge.source], boxes[edge.target]
        start = (source.right, source.center)
        end = (target.left, target.line(seen[edge.target]) if edge.operation else target.center)
        path = _path(start, end, boxes)
        color = colors[edge.source]
        axes.add_patch(FancyArrowPatch(path=path, arrowstyle="->", mutation_scale=9, color=color))
    for node, box in boxes.items():
        end_of_graph = node in graph.inputs or node == graph.output
        _draw_box(box, "#e4e4e4" if end_of_graph else "white", colors[node], axes)


def _path(start: tuple[float, float], end: tuple[float, float], boxes: Mapping[str, _Box]) -> Path:
    """Make a curve from `start` to `end`, under all boxes of the columns between them."""
    points, codes = [start], [Path.MOVETO]
    between = [box for box in boxes.values() if start[0] < box.left and box.right < end[0]]
    if between:
        lane = min(box.center - box.height / 2 for box in between) - _LINE / 2
        first = (min(box.left for box in between), lane)
        last = (max(box.right for box in between), lane)
        points += [*_bend(start, first), last]
        codes += [Path.CURVE4] * 3 + [Path.LINETO]
    points += _bend(points[-1], end)
    codes += [Path.CURVE4] * 3
    return Path(points, codes)


def _bend(start: tuple[float, float], end: tuple[float, float]) -> list[tuple[float, float]]:
    middle = (start[0] + end[0]) / 2
    return [(middle, start[1]), (middle, end[1]), end]


def _draw_box(box: _Box, face: str, color: str, axes: Axes) -> None:
    corner = (box.left, box.center - box.height / 2)
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(
        FancyBboxPatch(
            corner, box.width, box.height, boxstyle=style, facecolor=face, edgecolor=color, zorder=2
        )
    )
    for index, text in enumerate((box.title, *box.operations)):
        axes.text(
            (box.left + box.right) / 2,
            box.line(index),
            text,
            ha="center",
            va="center",
            fontsize=8,
            weight="normal" if index else "bold",
            zorder=3,
        )
