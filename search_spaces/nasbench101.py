"""NAS-Bench-101: cells of at most 7 vertices and 9 edges, one of 3 operations on each vertex.

Ying et al.: NAS-Bench-101: Towards Reproducible Neural Architecture Search (ICML 2019).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt
from torch import nn

from search_spaces.architecture import Architecture, Decision
from search_spaces.counting import Counts, conv_counts, linear_counts
from search_spaces.errors import InvalidArchitecture, InvalidArgument
from search_spaces.graph import CellGraph, Edge
from search_spaces.modules import ConvBNReLU, GlobalPoolClassifier
from search_spaces.nasbench101_cell import OPERATIONS, CellMatrix, MatrixCell, cell_counts, md5
from search_spaces.notation import Scanner
from search_spaces.space import SearchSpace


@dataclass(frozen=True)
class NASBench101(SearchSpace):
    """423,624 different cells of at most 7 vertices and 9 edges.

    The network: a 3x3 convolution; three stacks of three cells with `channels`, 2 x and 4 x
    `channels` channels, 2x2 max pooling between stacks; global average pooling, a linear layer.
    In a cell every vertex adds its inputs up (the cell's input through a 1x1 convolution), the
    output concatenates its own. Vertices off every path from input to output do not exist.

    Where the channels of a stack cannot be shared equally, the order of the vertices tells who
    gets one more: isomorphic cells, which have one canonical form, can then differ by a few
    parameters, as in the benchmark.

    Args:
        channels: channels of the stem and the first stack (128 in the benchmark); at least one
            for each vertex that can feed the output.
        modules: cells of each stack (3).
        vertices: vertices of a cell at most, input and output among them (7).
        edges: edges of a cell at most, those of vertices without effect apart (9).
    """

    channels: PositiveInt = 128
    modules: PositiveInt = 3
    vertices: Annotated[int, Field(ge=2, le=7)] = 7
    edges: PositiveInt = 9

    name: ClassVar[str] = "nasbench101"
    paper: ClassVar[str] = "Ying et al.: NAS-Bench-101, ICML 2019"
    notation: ClassVar[str] = (
        "adjacency matrix row by row as 0 and 1, a colon, the vertices:"
        " 010001000:input,conv3x3-bn-relu,output; operations " + ", ".join(OPERATIONS)
    )

    def __post_init__(self) -> None:
        """Check what depends on several options.

        Raises:
            InvalidArgument: when there are too few channels to share.
        """
        sharing = min(self.vertices - 2, self.edges // 2)  # each has an edge in and one out
        if self.channels < sharing:
            raise InvalidArgument(
                f"{self.name}: channels={self.channels}: up to {sharing} vertices of a cell share"
                f" them; give at least {sharing}."
            )

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """The existence of each edge (by target, then by source), the vertices' operations."""
        edges = (Decision(f"edge_{i}_{j}", (False, True), "wiring") for i, j in self._pairs)
        inner = range(1, self.vertices - 1)
        return (*edges, *(Decision(f"operation_{v}", OPERATIONS) for v in inner))

    @cached_property
    def _pairs(self) -> list[tuple[int, int]]:
        return [(i, j) for j in range(self.vertices) for i in range(j)]

    def _module(self, arch: Architecture) -> CellMatrix:
        """Return the cell with all its vertices, those without effect too."""
        bits = iter(arch.choices)
        matrix = [[False] * self.vertices for _ in range(self.vertices)]
        for i, j in self._pairs:
            matrix[i][j] = bool(next(bits))
        return CellMatrix(tuple(map(tuple, matrix)), tuple(bits))

    def cell(self, arch: Architecture) -> CellMatrix:
        """Return the cell without the vertices that have no effect."""
        module = self._module(self.check(arch)).pruned()
        if module is None:
            raise InvalidArchitecture(f"{self.name}: no path from the input to the output.")
        return module

    def is_valid(self, arch: Architecture) -> bool:
        """Tell whether there is a path, and no more edges with an effect than allowed."""
        module = self._module(arch).pruned()
        return module is not None and len(module.edges) <= self.edges

    def hash(self, arch: Architecture) -> str:
        """Return the benchmark's graph hash, equal for isomorphic cells (32 hexadecimal digits)."""
        return md5(str(sorted(self.cell(arch).vertex_hashes())))

    def canonical(self, arch: Architecture) -> Architecture:
        """Return one of all isomorphic cells, vertices without effect last and without edges."""
        return self._architecture(self.cell(arch).canonical())

    def _architecture(self, module: CellMatrix) -> Architecture:
        """Put `module` into the first vertices of this space and the last one."""
        size = len(module.matrix)
        places = [*range(size - 1), self.vertices - 1]
        present = {(places[i], places[j]) for i, j in module.edges}
        labels = module.labels + (0,) * (self.vertices - size)
        edges = (int(pair in present) for pair in self._pairs)
        return Architecture(self.name, (*edges, *labels))

    def to_string(self, arch: Architecture) -> str:
        """Write `0110001000010000:input,maxpool3x3,maxpool3x3,output`."""
        module = self._module(self.check(arch))
        bits = "".join(str(int(bit)) for row in module.matrix for bit in row)
        operations = [OPERATIONS[label] for label in module.labels]
        return f"{bits}:{','.join(['input', *operations, 'output'])}"

    def from_string(self, text: str) -> Architecture:
        """Read what `to_string` writes, and cells of fewer vertices than the space's."""
        scanner = Scanner(self.name, text)
        start = scanner.position
        bits = [scanner.bit() for _ in range(4)]
        while not scanner.accept(":"):
            bits.append(scanner.bit())
        size = int(len(bits) ** 0.5)
        if size * size != len(bits) or size > self.vertices:
            wanted = ", ".join(str(n * n) for n in range(2, self.vertices + 1))
            scanner.fail(f"a square matrix ({wanted} digits)", start)
        for k, bit in enumerate(bits):
            if bit and k % size <= k // size:
                scanner.fail("0, for edges lead from a vertex to a later one", start + k)
        scanner.literal("input")
        labels = []
        for _ in range(size - 2):
            scanner.literal(",")
            labels.append(OPERATIONS.index(scanner.one_of(OPERATIONS)))
        scanner.literal(",output")
        scanner.end()
        rows = (tuple(map(bool, bits[i * size : (i + 1) * size])) for i in range(size))
        return self.check(self._architecture(CellMatrix(tuple(rows), tuple(labels))))

    def cell_graphs(self, arch: Architecture) -> dict[str, CellGraph]:
        """Return the cell; the operations stand at the vertices."""
        module = self.cell(arch)
        inner = (f"{v}: {OPERATIONS[label]}" for v, label in enumerate(module.labels, 1))
        names = ["input", *inner, "output"]
        edges = tuple(Edge(names[i], names[j]) for i, j in module.edges)
        return {"normal": CellGraph(("input",), "output", edges)}

    def _stacks(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Yield (index, (input channels, output channels) of each cell) of each stack."""
        before = self.channels
        for stack in range(3):
            channels = self.channels << stack
            yield stack, [(before, channels)] + [(channels, channels)] * (self.modules - 1)
            before = channels

    def counts(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> Counts:
        """Count in closed form."""
        module = self.cell(arch)
        image_channels, height, width = input_shape
        total = conv_counts(image_channels, self.channels, 9, height * width)
        for stack, cells in self._stacks():
            if stack:
                height, width = (height + 1) // 2, (width + 1) // 2
            for inputs, outputs in cells:
                total += cell_counts(module, inputs, outputs, height * width)
        return total + linear_counts(4 * self.channels, num_classes)

    def build(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> nn.Module:
        """Build the network of `arch`; see the class."""
        module = self.cell(arch)
        layers: list[nn.Module] = [ConvBNReLU(input_shape[0], self.channels, 3)]
        for stack, cells in self._stacks():
            if stack:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
            layers += [MatrixCell(module, inputs, outputs) for inputs, outputs in cells]
        return nn.Sequential(*layers, GlobalPoolClassifier(4 * self.channels, num_classes))
