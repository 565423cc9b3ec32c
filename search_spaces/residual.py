"""ResNet, ResNeXt-A and ResNeXt-B: depth, width, bottleneck and groups of three stages.

Radosavovic et al.: On Network Design Spaces for Visual Recognition (NDS, ICCV 2019), section 4
and its table of design spaces.
"""

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.architecture import Architecture, Decision
from search_spaces.counting import Counts, conv_counts, linear_counts
from search_spaces.modules import ConvBN, ConvBNReLU, GlobalPoolClassifier
from search_spaces.stages import StagedSpace

STAGES = 3


@dataclass(frozen=True)
class Stage:
    """A stage: equal residual blocks, the first with stride 2 but in the first stage.

    Args:
        depth: number of blocks.
        width: channels of their outputs.
        ratio: width divided by the channels of the bottleneck; 0 for blocks without one.
        groups: groups of the 3x3 convolution in the bottleneck.
    """

    depth: int
    width: int
    ratio: int = 0
    groups: int = 1

    def convolutions(self, in_channels: int, stride: int) -> list[tuple[int, int, int, int, int]]:
        """List (in, out, kernel, stride, groups) of a block's convolutions in order."""
        if not self.ratio:
            return [(in_channels, self.width, 3, stride, 1), (self.width, self.width, 3, 1, 1)]
        inner = self.width // self.ratio
        return [
            (in_channels, inner, 1, 1, 1),
            (inner, inner, 3, stride, self.groups),
            (inner, self.width, 1, 1, 1),
        ]


@dataclass(frozen=True)
class ResidualSpace(StagedSpace, ABC):
    """Three stages of residual blocks between a 3x3 convolution and a linear layer.

    Args:
        stem_channels: channels of the first convolution (16).
    """

    stem_channels: PositiveInt = 16

    paper: ClassVar[str] = "Radosavovic et al.: NDS, ICCV 2019"
    #: what each field of a stage can be, by the letter of the notation
    fields: ClassVar[dict[str, tuple[str, tuple[int, ...]]]]

    @cached_property
    def stage_decisions(self) -> tuple[dict[str, Decision], ...]:
        """Depth, width and, for ResNeXt, bottleneck ratio and groups of each stage."""
        return tuple(
            {
                letter: Decision(f"{name}_{stage}", values)
                for letter, (name, values) in self.fields.items()
            }
            for stage in range(1, STAGES + 1)
        )

    def stages(self, arch: Architecture) -> list[Stage]:
        """Return the stages of `arch`."""
        return [Stage(*values) for values in self.stage_values(arch)]

    def counts(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> Counts:
        """Count in closed form."""
        channels, *size = input_shape
        c = self.stem_channels
        total = conv_counts(channels, c, 9, size[0] * size[1])
        for index, stage in enumerate(self.stages(arch)):
            for block in range(stage.depth):
                stride = 2 if index and not block else 1
                total += _block_counts(stage, c, stride, size)
                size = [-(-length // stride) for length in size]
                c = stage.width
        return total + linear_counts(c, num_classes)

    def build(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> nn.Module:
        """Build the network of `arch`; see the class."""
        c = self.stem_channels
        layers: list[nn.Module] = [ConvBNReLU(input_shape[0], c, 3)]
        for index, stage in enumerate(self.stages(arch)):
            for block in range(stage.depth):
                layers.append(Block(stage, c, 2 if index and not block else 1))
                c = stage.width
        return nn.Sequential(*layers, GlobalPoolClassifier(c, num_classes))


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or a bottleneck 1x1, 3x3 in groups, 1x1.

    Batch normalization after each, ReLU between them and after the sum; a 1x1 convolution with
    batch normalization on the shortcut where the shape changes.
    """

    def __init__(self, stage: Stage, in_channels: int, stride: int):
        super().__init__()
        layers: list[nn.Module] = []
        for i, o, kernel, s, groups in stage.convolutions(in_channels, stride):
            layers += [
                nn.Conv2d(i, o, kernel, s, kernel // 2, groups=groups, bias=False),
                nn.BatchNorm2d(o),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers[:-1])
        same = stride == 1 and in_channels == stage.width
        self.shortcut = nn.Identity() if same else ConvBN(in_channels, stage.width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map `batch x in x height x width` to `batch x width x height/stride x width/stride`."""
        return functional.relu(self.shortcut(x) + self.layers(x))


def _block_counts(stage: Stage, in_channels: int, stride: int, size: Sequence[int]) -> Counts:
    total = Counts()
    small = -(-size[0] // stride) * -(-size[1] // stride)
    if stride > 1 or in_channels != stage.width:
        total += conv_counts(in_channels, stage.width, 1, small)
    pixels = size[0] * size[1]
    for i, o, kernel, s, groups in stage.convolutions(in_channels, stride):
        pixels = small if s > 1 else pixels
        total += conv_counts(i, o, kernel * kernel, pixels, groups)
    return total


@dataclass(frozen=True)
class ResNet(ResidualSpace):
    """Blocks of two 3x3 convolutions: (9 depths x 12 widths)^3."""

    name: ClassVar[str] = "resnet"
    notation: ClassVar[str] = "d<depth>w<width> of each stage: d2w16-d4w64-d8w256"
    fields: ClassVar[dict[str, tuple[str, tuple[int, ...]]]] = {
        "d": ("depth", (1, 2, 3, 4, 6, 8, 12, 16, 24)),
        "w": ("width", (16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256)),
    }


@dataclass(frozen=True)
class ResNeXtA(ResidualSpace):
    """Bottleneck blocks in few groups: (5 depths x 5 widths x 3 ratios x 3 groups)^3."""

    name: ClassVar[str] = "resnext_a"
    notation: ClassVar[str] = (
        "d<depth>w<width>r<ratio>g<groups> of each stage: d2w64r2g4-d4w128r1g1-d8w256r4g2"
    )
    fields: ClassVar[dict[str, tuple[str, tuple[int, ...]]]] = {
        "d": ("depth", (1, 2, 4, 8, 16)),
        "w": ("width", (16, 32, 64, 128, 256)),
        "r": ("ratio", (1, 2, 4)),
        "g": ("groups", (1, 2, 4)),
    }


@dataclass(frozen=True)
class ResNeXtB(ResidualSpace):
    """Wider, in more groups: (5 depths x 5 widths x 3 ratios x 5 groups)^3."""

    name: ClassVar[str] = "resnext_b"
    notation: ClassVar[str] = ResNeXtA.notation
    fields: ClassVar[dict[str, tuple[str, tuple[int, ...]]]] = {
        "d": ("depth", (1, 2, 4, 8, 16)),
        "w": ("width", (64, 128, 256, 512, 1024)),
        "r": ("ratio", (1, 2, 4)),
        "g": ("groups", (1, 2, 4, 8, 16)),
    }
