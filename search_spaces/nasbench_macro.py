"""NAS-Bench-Macro: 8 layers, one of 3 blocks in each.

Su et al.: Prioritized Architecture Sampling with Monto-Carlo Tree Search (CVPR 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from pydantic import PositiveInt
from torch import nn

from search_spaces.architecture import Architecture, Decision
from search_spaces.counting import Counts, conv_counts, linear_counts
from search_spaces.modules import GlobalPoolClassifier, MobileBlock
from search_spaces.notation import Scanner
from search_spaces.weight_sharing.graph_supernet import GraphSupernet
from search_spaces.weight_sharing.space import WeightSharingSpace

BLOCKS = ("identity", "MB3_K3", "MB6_K5")
#: output channels of a layer in units of the stem's channels, and its stride
LAYERS = ((2, 2), (2, 1), (4, 2), (4, 1), (4, 1), (8, 2), (8, 1), (8, 1))
#: first and last (exclusive) layer of each group of equal shape
GROUPS = ((0, 2), (2, 5), (5, 8))


@dataclass(frozen=True)
class NASBenchMacro(WeightSharingSpace):
    """6,561 chains of 8 blocks: identity, or a mobile block (expansion 3 or 6, kernel 3 or 5).

    The network: a 3x3 convolution, the 8 layers (2 + 3 + 3, the first of each group with
    stride 2 and twice the channels), a 1x1 convolution, global average pooling, a linear layer.
    An identity that changes shape is a strided 1x1 convolution with batch normalization.

    Args:
        channels: channels of the stem (32 in the benchmark).
        head_channels: channels before the classifier (1,280 in the benchmark).
    """

    channels: PositiveInt = 32
    head_channels: PositiveInt = 1280

    name: ClassVar[str] = "nasbench_macro"
    paper: ClassVar[str] = "Su et al.: MCT-NAS, CVPR 2021"
    notation: ClassVar[str] = "8 digits, 0 identity, 1 MB3_K3, 2 MB6_K5, from input to output"

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """The block of each layer."""
        return tuple(Decision(f"layer_{i}", BLOCKS) for i in range(len(LAYERS)))

    def to_string(self, arch: Architecture) -> str:
        """Write `22212202`."""
        return "".join(map(str, self.check(arch).choices))

    def from_string(self, text: str) -> Architecture:
        """Read what `to_string` writes."""
        scanner = Scanner(self.name, text)
        digits = [scanner.one_of(("0", "1", "2"), "[0-9]") for _ in LAYERS]
        scanner.end()
        return self.architecture([int(digit) for digit in digits])

    def canonical(self, arch: Architecture) -> Architecture:
        """Move identities that do nothing last in their group: 3,969 different networks."""
        choices = list(self.check(arch).choices)
        for first, last in GROUPS:
            choices[first + 1 : last] = sorted(choices[first + 1 : last], key=lambda c: c == 0)
        return Architecture(self.name, tuple(choices))

    def counts(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> Counts:
        """Count in closed form."""
        channels, height, width = input_shape
        c = self.channels
        total = conv_counts(channels, c, 9, height * width)
        for choice, (multiple, stride) in zip(self.check(arch).choices, LAYERS, strict=True):
            pixels = height * width
            height, width = -(-height // stride), -(-width // stride)
            out = self.channels * multiple
            total += _block_counts(BLOCKS[choice], c, out, stride, pixels, height * width)
            c = out
        total += conv_counts(c, self.head_channels, 1, height * width)
        return total + linear_counts(self.head_channels, num_classes)

    def build(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> nn.Module:
        """Build the network of `arch`; see the class."""
        c = self.channels
        layers = _conv_bn(input_shape[0], c, 3, activation=True)
        for choice, (width, stride) in zip(self.check(arch).choices, LAYERS, strict=True):
            layers += _block(BLOCKS[choice], c, self.channels * width, stride)
            c = self.channels * width
        layers += _conv_bn(c, self.head_channels, 1, activation=True)
        return nn.Sequential(*layers, GlobalPoolClassifier(self.head_channels, num_classes))

    def supernet(
        self,
        input_shape: Sequence[int] = (3, 32, 32),
        num_classes: int = 10,
        affine: bool = False,
    ) -> GraphSupernet:
        """Make a slot of each layer."""
        net = GraphSupernet(self, self.decisions, affine)
        c = self.channels
        x = net.fixed(nn.Sequential(*_conv_bn(input_shape[0], c, 3, activation=True)), net.images)
        for slot, (width, stride) in enumerate(LAYERS):
            net.begin_layer()
            blocks = [_block(name, c, self.channels * width, stride) for name in BLOCKS]
            c = self.channels * width
            x = net.choose(slot, [nn.Sequential(*b) if b else nn.Identity() for b in blocks], x)
        x = net.fixed(nn.Sequential(*_conv_bn(c, self.head_channels, 1, activation=True)), x)
        net.fixed(GlobalPoolClassifier(self.head_channels, num_classes), x)
        return net


def _conv_bn(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, activation: bool = False
) -> list[nn.Module]:
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    return [*layers, nn.ReLU6()] if activation else layers


def _block(name: str, in_channels: int, out_channels: int, stride: int) -> list[nn.Module]:
    if name == "MB3_K3":
        return [MobileBlock(in_channels, out_channels, 3, expansion=3, stride=stride)]
    if name == "MB6_K5":
        return [MobileBlock(in_channels, out_channels, 5, expansion=6, stride=stride)]
    if stride == 1 and in_channels == out_channels:
        return []
    return _conv_bn(in_channels, out_channels, 1, stride)


def _block_counts(
    name: str, in_channels: int, out_channels: int, stride: int, pixels_in: int, pixels_out: int
) -> Counts:
    if name == "identity":
        if stride == 1 and in_channels == out_channels:
            return Counts()
        return conv_counts(in_channels, out_channels, 1, pixels_out)
    hidden, area = (3 * in_channels, 9) if name == "MB3_K3" else (6 * in_channels, 25)
    return (
        conv_counts(in_channels, hidden, 1, pixels_in)
        + conv_counts(hidden, hidden, area, pixels_out, groups=hidden)
        + conv_counts(hidden, out_channels, 1, pixels_out)
    )
