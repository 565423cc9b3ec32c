"""NATS-Bench, size space: one cell, the channels of 5 layers out of 8, 16, .., 64.

Dong et al.: NATS-Bench: Benchmarking NAS Algorithms for Architecture Topology and Size
(TPAMI 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from torch import nn

from search_spaces.architecture import Architecture, Decision
from search_spaces.counting import Counts, conv_counts, linear_counts
from search_spaces.modules import GlobalPoolClassifier, ResidualBlock
from search_spaces.nasbench201 import EDGES, Cell
from search_spaces.notation import Scanner
from search_spaces.space import SearchSpace

CHANNELS = (8, 16, 24, 32, 40, 48, 56, 64)
#: the operation of each of `nasbench201.EDGES` in the one cell of this space
CELL = (
    "nor_conv_3x3",
    "nor_conv_3x3",
    "nor_conv_3x3",
    "skip_connect",
    "nor_conv_3x3",
    "nor_conv_3x3",
)
#: layers that are a residual block of stride 2; the others are cells
REDUCTIONS = (1, 3)


@dataclass(frozen=True)
class NATSBenchSize(SearchSpace):
    """32,768 channel configurations of one network.

    The network: a 3x3 convolution with the channels of the first layer; cell, residual block of
    stride 2, cell, residual block, cell; BN-ReLU, global average pooling, a linear layer. The
    cell is the strongest of the topology space on CIFAR-100; its skip connection is a 1x1
    convolution with batch normalization where the channels differ.
    """

    name: ClassVar[str] = "natsbench_size"
    paper: ClassVar[str] = "Dong et al.: NATS-Bench, TPAMI 2021"
    notation: ClassVar[str] = "channels of the 5 layers, c0:c1:c2:c3:c4, each 8, 16, .., 64"

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """The channels of each layer."""
        return tuple(Decision(f"channels_{i}", CHANNELS) for i in range(5))

    def to_string(self, arch: Architecture) -> str:
        """Write `8:16:24:32:64`."""
        return ":".join(map(str, self._channels(arch)))

    def from_string(self, text: str) -> Architecture:
        """Read what `to_string` writes."""
        scanner = Scanner(self.name, text)
        choices = []
        for layer in range(5):
            if layer:
                scanner.literal(":")
            channels = scanner.one_of([str(c) for c in CHANNELS], "[0-9]+")
            choices.append(CHANNELS.index(int(channels)))
        scanner.end()
        return self.architecture(choices)

    def _channels(self, arch: Architecture) -> list[int]:
        return [CHANNELS[choice] for choice in self.check(arch).choices]

    def counts(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> Counts:
        """Count in closed form, as the benchmark does: the classifier's bias is a MAC too."""
        channels = self._channels(arch)
        image_channels, height, width = input_shape
        total = conv_counts(image_channels, channels[0], 9, height * width)
        before = channels[0]
        for layer, c in enumerate(channels):
            if layer in REDUCTIONS:
                height, width = (height + 1) // 2, (width + 1) // 2
                total += conv_counts(before, c, 9, height * width)
                total += conv_counts(c, c, 9, height * width)
                total += conv_counts(before, c, 1, height * width, affine=False)
            else:
                total += _cell_counts(before, c, height * width)
            before = c
        return total + Counts(2 * c, num_classes) + linear_counts(c, num_classes)

    def build(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> nn.Module:
        """Build the network of `arch`; see the class."""
        channels = self._channels(arch)
        before = channels[0]
        layers: list[nn.Module] = [
            nn.Conv2d(input_shape[0], before, 3, padding=1, bias=False),
            nn.BatchNorm2d(before),
        ]
        edges = dict(zip(EDGES, CELL, strict=True))
        for layer, c in enumerate(channels):
            reduction = layer in REDUCTIONS
            layers.append(ResidualBlock(before, c) if reduction else Cell(edges, before, c))
            before = c
        layers += [nn.BatchNorm2d(c), nn.ReLU(), GlobalPoolClassifier(c, num_classes)]
        return nn.Sequential(*layers)


def _cell_counts(in_channels: int, out_channels: int, pixels: int) -> Counts:
    total = Counts()
    for (source, _), operation in zip(EDGES, CELL, strict=True):
        channels = out_channels if source else in_channels
        if operation == "nor_conv_3x3":
            total += conv_counts(channels, out_channels, 9, pixels)
        elif channels != out_channels:
            total += conv_counts(channels, out_channels, 1, pixels)
    return total
