"""The cell of NAS-Bench-101: a graph of vertices, its hash, its module.

Ying et al.: NAS-Bench-101: Towards Reproducible Neural Architecture Search (ICML 2019).
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from search_spaces.counting import Counts, conv_counts
from search_spaces.modules import ConvBNReLU

OPERATIONS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
#: kernel size of each operation's convolution
KERNELS = (3, 1, 0)


@dataclass(frozen=True)
class CellMatrix:
    """A cell as a graph of vertices; vertex 0 is the input, the last one the output.

    Args:
        matrix: matrix[i][j] tells whether there is an edge from vertex i to vertex j > i.
        labels: index into `OPERATIONS` of each inner vertex.
    """

    matrix: tuple[tuple[bool, ...], ...]
    labels: tuple[int, ...]

    @property
    def edges(self) -> list[tuple[int, int]]:
        """All edges (i, j), by target and then by source."""
        order = range(len(self.matrix))
        return [(i, j) for j in order for i in range(j) if self.matrix[i][j]]

    def sources(self, vertex: int) -> list[int]:
        """List the vertices that `vertex` reads."""
        return [i for i in range(vertex) if self.matrix[i][vertex]]

    def pruned(self) -> "CellMatrix | None":
        """Leave out vertices on no path from input to output; return None without a path."""
        last = len(self.matrix) - 1
        edges = self.edges
        reached, reaching = {0}, {last}
        for i, j in edges:
            if i in reached:
                reached.add(j)
        for i, j in reversed(edges):
            if j in reaching:
                reaching.add(i)
        kept = sorted(reached & reaching)
        return self.arranged(kept) if last in reached else None

    def arranged(self, order: Sequence[int]) -> "CellMatrix":
        """Return the cell of the vertices in `order` (input first, output last)."""
        matrix = tuple(tuple(self.matrix[i][j] for j in order) for i in order)
        return CellMatrix(matrix, tuple(self.labels[v - 1] for v in order[1:-1]))

    def vertex_hashes(self) -> list[str]:
        """Hash each vertex's place in the graph (`hash_module` of the benchmark)."""
        order = range(len(self.matrix))
        readers = [[w for w in order if self.matrix[v][w]] for v in order]
        sources = [[w for w in order if self.matrix[w][v]] for v in order]
        labels = (-1, *self.labels, -2)
        hashes = [md5(str((len(readers[v]), len(sources[v]), labels[v]))) for v in order]
        for _ in order:
            hashes = [
                md5(
                    "".join(sorted(hashes[w] for w in sources[v]))
                    + "|"
                    + "".join(sorted(hashes[w] for w in readers[v]))
                    + "|"
                    + hashes[v]
                )
                for v in order
            ]
        return hashes

    def canonical(self) -> "CellMatrix":
        """Return one for all isomorphic cells: vertices by level and hash, ties tried out."""
        levels = [0] * len(self.matrix)
        for i, j in self.edges:
            levels[j] = max(levels[j], levels[i] + 1)
        keys = list(zip(levels, self.vertex_hashes(), strict=True))
        inner = sorted(range(1, len(keys) - 1), key=keys.__getitem__)
        ties = [tuple(group) for _, group in itertools.groupby(inner, key=keys.__getitem__)]
        orders = itertools.product(*(itertools.permutations(tie) for tie in ties))
        forms = (self.arranged([0, *itertools.chain(*o), len(keys) - 1]) for o in orders)
        return max(forms, key=lambda form: form.matrix)

    def channels(self, inputs: int, outputs: int) -> list[int]:
        """Return the channels of each vertex: those that feed the output share its channels.

        The first ones get one more where they do not divide; another vertex has as many as the
        widest that it feeds (`compute_vertex_channels` of the benchmark).
        """
        last = len(self.matrix) - 1
        final = [v for v in self.sources(last) if v > 0]
        channels = [inputs, *(0 for _ in range(1, last)), outputs]
        for position, v in enumerate(final):
            channels[v] = outputs // len(final) + (position < outputs % len(final))
        for v in range(last - 1, 0, -1):
            if not self.matrix[v][last]:
                channels[v] = max(channels[w] for w in range(v + 1, last) if self.matrix[v][w])
        return channels


def md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def cell_counts(cell: CellMatrix, inputs: int, outputs: int, pixels: int) -> Counts:
    """Count one cell with so many input and output channels, on so many pixels."""
    channels = cell.channels(inputs, outputs)
    total = Counts()
    for vertex, label in enumerate(cell.labels, 1):
        c = channels[vertex]
        if cell.matrix[0][vertex]:
            total += conv_counts(inputs, c, 1, pixels)
        if KERNELS[label]:
            total += conv_counts(c, c, KERNELS[label] ** 2, pixels)
    if cell.matrix[0][-1]:
        total += conv_counts(inputs, outputs, 1, pixels)
    return total


class MatrixCell(nn.Module):
    """A cell as a module: a vertex adds its sources up and applies its operation to the sum."""

    def __init__(self, cell: CellMatrix, inputs: int, outputs: int):
        super().__init__()
        self.channels = cell.channels(inputs, outputs)
        self.sources = [cell.sources(v) for v in range(len(cell.matrix))]
        self.projections = nn.ModuleDict(
            {
                str(v): ConvBNReLU(inputs, self.channels[v], 1)
                for v, sources in enumerate(self.sources)
                if 0 in sources
            }
        )
        self.operations = nn.ModuleList(
            _operation(label, self.channels[v]) for v, label in enumerate(cell.labels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `batch x inputs x height x width` to `batch x outputs x height x width`."""
        values = [x]
        for v, operation in enumerate(self.operations, 1):
            terms = [values[i][:, : self.channels[v]] for i in self.sources[v] if i]
            if 0 in self.sources[v]:
                terms.append(self.projections[str(v)](x))
            values.append(operation(_sum(terms)))
        last = len(self.sources) - 1
        joined = [values[i] for i in self.sources[last] if i]
        terms = [torch.cat(joined, dim=1)] if joined else []
        if 0 in self.sources[last]:
            terms.append(self.projections[str(last)](x))
        return _sum(terms)


def _sum(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _operation(label: int, channels: int) -> nn.Module:
    kernel = KERNELS[label]
    return ConvBNReLU(channels, channels, kernel) if kernel else nn.MaxPool2d(3, 1, 1)
