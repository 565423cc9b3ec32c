"""NAS-Bench-201: a cell of 4 nodes and 6 edges, one of 5 operations on each edge.

Dong, Yang: NAS-Bench-201 (ICLR 2020); Dong et al.: NATS-Bench (TPAMI 2021), topology space.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import ClassVar

import numpy as np
from pydantic import PositiveInt
from torch import Tensor, nn

from search_spaces.architecture import Architecture, Decision
from search_spaces.counting import Counts
from search_spaces.graph import CellGraph, Edge, present
from search_spaces.modules import (
    AvgPool,
    ConvBN,
    GlobalPoolClassifier,
    ReLUConvBN,
    ResidualBlock,
)
from search_spaces.notation import Scanner
from search_spaces.weight_sharing.graph_supernet import GraphSupernet
from search_spaces.weight_sharing.space import WeightSharingSpace

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
#: (source node, target node) in the order of the notation; node 0 is the input, 3 the output
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


@dataclass(frozen=True)
class NASBench201(WeightSharingSpace):
    """15,625 cells, of which 6,466 are structurally different.

    The network: a 3x3 convolution, three stages of `cells` cells with `channels`,
    2 x `channels` and 4 x `channels` channels and a residual block of stride 2 between stages,
    BN-ReLU, global average pooling, a linear layer.

    Args:
        channels: channels of the first stage (C; 16 in the benchmark).
        cells: cells of each stage (N; 5 in the benchmark).
        dead_edges: also build the edges that cannot influence the output. The benchmark's
            authors built and counted them; they are left out by default.
    """

    channels: PositiveInt = 16
    cells: PositiveInt = 5
    dead_edges: bool = False

    name: ClassVar[str] = "nasbench201"
    paper: ClassVar[str] = "Dong & Yang: NAS-Bench-201, ICLR 2020"
    notation: ClassVar[str] = "|op~0|+|op~0|op~1|+|op~0|op~1|op~2|, op one of " + ", ".join(
        OPERATIONS
    )

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """The operation of each edge."""
        return tuple(Decision(f"edge_{i}_{j}", OPERATIONS) for i, j in EDGES)

    def to_string(self, arch: Architecture) -> str:
        """Write `|nor_conv_3x3~0|+|none~0|skip_connect~1|+...`."""
        self.check(arch)
        nodes: dict[int, str] = {}
        for (i, j), choice in zip(EDGES, arch.choices, strict=True):
            nodes[j] = nodes.get(j, "|") + f"{OPERATIONS[choice]}~{i}|"
        return "+".join(nodes.values())

    def from_string(self, text: str) -> Architecture:
        """Read what `to_string` writes."""
        scanner = Scanner(self.name, text)
        choices = []
        for i, j in EDGES:
            if i == 0:
                scanner.literal("|" if j == 1 else "+|")
            choices.append(OPERATIONS.index(scanner.one_of(OPERATIONS)))
            scanner.literal(f"~{i}|")
        scanner.end()
        return self.architecture(choices)

    def cell_graphs(self, arch: Architecture) -> dict[str, CellGraph]:
        """Return the one cell, with the edges that carry anything (`graph.present`)."""
        names = ("input", "1", "2", "output")
        edges = (
            Edge(names[i], names[j], OPERATIONS[choice])
            for (i, j), choice in zip(EDGES, self.check(arch).choices, strict=True)
        )
        return {"normal": CellGraph(("input",), "output", present(("input",), edges))}

    def canonical(self, arch: Architecture) -> Architecture:
        """Return the lexicographically first architecture of the same structure."""
        return Architecture(self.name, _representatives()[_expression(self.check(arch).choices)])

    def mutate(self, arch: Architecture, rng: np.random.Generator) -> Architecture:
        """Give one edge another operation: draw a node, then one of its incoming edges.

        So the edges are not equally likely: 1/3, 2 x 1/6, 3 x 1/9 (the benchmark's R-EA code).
        """
        node = int(rng.integers(1, 4))
        source = int(rng.integers(node))
        return self.changed(arch, EDGES.index((source, node)), rng)

    def counts(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> Counts:
        """Count in closed form, as the benchmark does: dead edges too, and the bias as MACs."""
        taps = [{"nor_conv_1x1": 1, "nor_conv_3x3": 9}.get(OPERATIONS[c], 0) for c in arch.choices]
        channels, height, width = input_shape
        params = channels * self.channels * 9 + 2 * self.channels
        macs = channels * self.channels * 9 * height * width
        for stage in range(3):
            c = self.channels << stage
            if stage:
                height, width = (height + 1) // 2, (width + 1) // 2
                block = (c // 2) * c * 9 + c * c * 9 + (c // 2) * c
                params += block + 4 * c
                macs += block * height * width
            params += self.cells * sum(c * c * k + 2 * c for k in taps if k)
            macs += self.cells * sum(taps) * c * c * height * width
        params += 2 * c + c * num_classes + num_classes
        return Counts(params, macs + c * num_classes + num_classes)

    def build(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> nn.Module:
        """Build the network of `arch`; see the class."""
        operations = [OPERATIONS[choice] for choice in self.check(arch).choices]
        alive = [operation != "none" for operation in operations]
        if not self.dead_edges:
            alive = _live(alive)
        edges = {edge: op for edge, op, a in zip(EDGES, operations, alive, strict=True) if a}
        c = self.channels
        layers: list[nn.Module] = [
            nn.Conv2d(input_shape[0], c, 3, padding=1, bias=False),
            nn.BatchNorm2d(c),
        ]
        for stage in range(3):
            if stage:
                layers.append(ResidualBlock(c, 2 * c))
                c *= 2
            layers += [Cell(edges, c, c) for _ in range(self.cells)]
        layers += [nn.BatchNorm2d(c), nn.ReLU(), GlobalPoolClassifier(c, num_classes)]
        return nn.Sequential(*layers)

    def supernet(
        self,
        input_shape: Sequence[int] = (3, 32, 32),
        num_classes: int = 10,
        affine: bool = False,
    ) -> GraphSupernet:
        """Make a slot of each edge, the same in every cell; weights are each cell's own."""
        net = GraphSupernet(self, self.decisions, affine)
        c = self.channels
        stem = nn.Conv2d(input_shape[0], c, 3, padding=1, bias=False)
        x = net.fixed(nn.Sequential(stem, nn.BatchNorm2d(c)), net.images)
        for stage, cell in itertools.product(range(3), range(self.cells)):
            net.begin_layer()
            if stage and not cell:
                x = net.fixed(ResidualBlock(c, 2 * c), x)
                c *= 2
            nodes: list[int] = [x]
            slots = iter(range(len(EDGES)))
            for target in range(1, 4):
                edges = [net.choose(next(slots), _choices(c), source) for source in nodes]
                nodes.append(net.joined(edges, like=x if target == 3 else None))
            x = nodes[3]
        x = net.fixed(nn.Sequential(nn.BatchNorm2d(c), nn.ReLU()), x)
        net.fixed(GlobalPoolClassifier(c, num_classes), x)
        return net


class Cell(nn.Module):
    """A cell: every node is the sum of its incoming edges, the last one is the output.

    Args:
        edges: the operation of each edge that exists.
        in_channels: channels of the input node.
        out_channels: channels of all other nodes.
    """

    def __init__(self, edges: Mapping[tuple[int, int], str], in_channels: int, out_channels: int):
        super().__init__()
        self.edges = nn.ModuleDict(
            {
                f"{i}{j}": _operation(op, out_channels if i else in_channels, out_channels)
                for (i, j), op in edges.items()
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `batch x in_channels x height x width` to `batch x out_channels x height x width`."""
        nodes: list[Tensor | None] = [x, None, None, None]
        for edge, operation in self.edges.items():
            source, target = nodes[int(edge[0])], nodes[int(edge[1])]
            value = operation(x * 0 if source is None else source)
            nodes[int(edge[1])] = value if target is None else target + value
        output = nodes[3]
        return x * 0 if output is None else output


def _operation(name: str, in_channels: int, out_channels: int) -> nn.Module:
    if name == "nor_conv_1x1":
        return ReLUConvBN(in_channels, out_channels, 1)
    if name == "nor_conv_3x3":
        return ReLUConvBN(in_channels, out_channels, 3)
    if name == "avg_pool_3x3":
        return AvgPool()
    return nn.Identity() if in_channels == out_channels else ConvBN(in_channels, out_channels)


def _choices(channels: int) -> list[nn.Module | None]:
    """Make a module for every operation that can be on an edge."""
    return [None if op == "none" else _operation(op, channels, channels) for op in OPERATIONS]


def _live(present: Sequence[bool]) -> list[bool]:
    """Tell which of the edges lie on a path from the input (node 0) to the output (3)."""
    reached, reaching = {0}, {3}
    for (i, j), exists in zip(EDGES, present, strict=True):
        if exists and i in reached:
            reached.add(j)
    for (i, j), exists in reversed(list(zip(EDGES, present, strict=True))):
        if exists and j in reaching:
            reaching.add(i)
    return [
        exists and i in reached and j in reaching
        for (i, j), exists in zip(EDGES, present, strict=True)
    ]


def _expression(choices: Sequence[int]) -> str:
    """Write the cell's output as an expression in its input, equal for isomorphic cells.

    A skip connection stands for its source and zero ("#") for a dead edge, as in the
    benchmark's `to_unique_str(consider_zero=True)`.
    """
    nodes = ["x"]
    edges = iter(choices)
    for _ in range(3):
        terms = []
        for source in nodes:
            operation = OPERATIONS[next(edges)]
            if operation == "none" or source == "#":
                terms.append("#")
            elif operation == "skip_connect":
                terms.append(source)
            else:
                terms.append(f"({source})@{operation}")
        nodes.append("+".join(sorted(terms)))
    return nodes[-1]


@cache
def _representatives() -> dict[str, tuple[int, ...]]:
    """Return {expression: choices of the first architecture that has it}, of all 15,625."""
    first: dict[str, tuple[int, ...]] = {}
    for arch in NASBench201():
        first.setdefault(_expression(arch.choices), arch.choices)
    return first
