"""The 64-child space of the weight-sharing study: 3 edges, one of 4 operations on each.

Zhang et al.: Deeper Insights into Weight Sharing in Neural Architecture Search (2020), section
3; where its text and its code differ, the code is the default (`reading`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from search_spaces.architecture import Architecture, Decision
from search_spaces.cells.operations import operation, operation_counts
from search_spaces.counting import Counts, conv_counts, linear_counts
from search_spaces.graph import CellGraph, Edge
from search_spaces.modules import GlobalPoolClassifier
from search_spaces.notation import Scanner
from search_spaces.weight_sharing.graph_supernet import GraphSupernet
from search_spaces.weight_sharing.space import WeightSharingSpace

#: (source node, target node) in the order of the notation; node 0 is the cell's input
EDGES = ((0, 1), (0, 2), (1, 2))
MOMENTUM = 0.4


@dataclass(frozen=True)
class Micro64(WeightSharingSpace):
    """64 cells of two nodes; node 1 reads the input, node 2 the input and node 1.

    The network: two 3x3 convolutions with batch normalization and 3 x `channels` channels;
    `cells` cells, each with a 1x1 ReLU-convolution-BN on the output of the last one, all at full
    resolution; global average pooling, a linear layer. Batch normalization has no scale and
    shift in the cells, follows pooling too, and has momentum .4.

    Args:
        channels: channels of a node (16 in the study).
        cells: number of cells (4).
        reading: "code": the fourth operation is a 5x5 convolution of dilation 2, and a cell's
            output concatenates its nodes; "paper": 3x3 of dilation 2, and the nodes' sum.
    """

    channels: PositiveInt = 16
    cells: PositiveInt = 4
    reading: Literal["code", "paper"] = "code"

    name: ClassVar[str] = "micro64"
    paper: ClassVar[str] = "Zhang et al.: Deeper Insights into Weight Sharing in NAS, 2020"
    notation: ClassVar[str] = (
        "3 digits, operations of the edges 0-1, 0-2, 1-2: 1 max_pool_3x3, 2 sep_conv_3x3,"
        " 3 sep_conv_5x5, 4 dil_conv_5x5 (dil_conv_3x3 in the paper's reading)"
    )

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations, in the order of the notation's digits."""
        dilated = "dil_conv_5x5" if self.reading == "code" else "dil_conv_3x3"
        return ("max_pool_3x3", "sep_conv_3x3", "sep_conv_5x5", dilated)

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """The operation of each edge."""
        return tuple(Decision(f"edge_{i}_{j}", self.operations) for i, j in EDGES)

    def to_string(self, arch: Architecture) -> str:
        """Write `434`."""
        return "".join(str(choice + 1) for choice in self.check(arch).choices)

    def from_string(self, text: str) -> Architecture:
        """Read what `to_string` writes."""
        scanner = Scanner(self.name, text)
        choices = [int(scanner.one_of(("1", "2", "3", "4"), "[0-9]")) - 1 for _ in EDGES]
        scanner.end()
        return self.architecture(choices)

    def cell_graphs(self, arch: Architecture) -> dict[str, CellGraph]:
        """Return the one cell."""
        names = ("input", "1", "2")
        pairs = zip(EDGES, self.check(arch).choices, strict=True)
        edges = [Edge(names[i], names[j], self.operations[choice]) for (i, j), choice in pairs]
        edges += [Edge("1", "output"), Edge("2", "output")]
        return {"normal": CellGraph(("input",), "output", tuple(edges))}

    @property
    def _joined(self) -> int:
        return self.channels * (2 if self.reading == "code" else 1)

    def counts(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> Counts:
        """Count in closed form."""
        image_channels, height, width = input_shape
        c, pixels = self.channels, height * width
        edges = Counts()
        for choice in self.check(arch).choices:
            edges += operation_counts(self.operations[choice], c, 1, height, width, affine=False)
        total = conv_counts(image_channels, 3 * c, 9, pixels) + conv_counts(3 * c, 3 * c, 9, pixels)
        total += conv_counts(3 * c, c, 1, pixels, affine=False)
        total += conv_counts(self._joined, c, 1, pixels, affine=False) * (self.cells - 1)
        return total + edges * self.cells + linear_counts(self._joined, num_classes)

    def build(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> nn.Module:
        """Build the network of `arch`; see the class."""
        operations = [self.operations[choice] for choice in self.check(arch).choices]
        c = 3 * self.channels
        layers = _stem(input_shape[0], c)
        for _ in range(self.cells):
            layers.append(TwoNodeCell(operations, c, self.channels, self.reading == "code"))
            c = self._joined
        return nn.Sequential(*layers, GlobalPoolClassifier(c, num_classes))

    def supernet(
        self,
        input_shape: Sequence[int] = (3, 32, 32),
        num_classes: int = 10,
        affine: bool = False,
    ) -> GraphSupernet:
        """Make a slot of each edge, the same in every cell; weights are each cell's own."""
        net = GraphSupernet(self, self.decisions, affine)
        c = 3 * self.channels
        x = net.fixed(nn.Sequential(*_stem(input_shape[0], c)), net.images)
        for _ in range(self.cells):
            net.begin_layer()
            x = net.fixed(_preprocess(c, self.channels), x)
            first = net.choose(0, self._choices(), x)
            second = net.joined(
                [net.choose(1, self._choices(), x), net.choose(2, self._choices(), first)]
            )
            x = net.joined([first, second], "cat" if self.reading == "code" else "sum")
            c = self._joined
        net.fixed(GlobalPoolClassifier(c, num_classes), x)
        return net

    def _choices(self) -> list[nn.Module]:
        return [_edge(name, self.channels) for name in self.operations]


class TwoNodeCell(nn.Module):
    """The cell: preprocessing, an operation on each edge, the nodes joined or added."""

    def __init__(self, operations: Sequence[str], in_channels: int, channels: int, join: bool):
        super().__init__()
        self.join = join
        self.preprocess = _preprocess(in_channels, channels)
        self.edges = nn.ModuleList(_edge(name, channels) for name in operations)

    def forward(self, x: Tensor) -> Tensor:
        """Map `batch x in_channels x height x width` to the cell's output of the same size."""
        x = self.preprocess(x)
        first = self.edges[0](x)
        second = self.edges[1](x) + self.edges[2](first)
        output: Tensor = torch.cat([first, second], dim=1) if self.join else first + second
        return output


def _stem(image_channels: int, channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(image_channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels, momentum=MOMENTUM),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels, momentum=MOMENTUM),
    ]


def _preprocess(in_channels: int, channels: int) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=False, momentum=MOMENTUM),
    )


def _edge(name: str, channels: int) -> nn.Module:
    return operation(name, channels, affine=False, momentum=MOMENTUM, pool_norm=True)
