"""Mobile networks: depth, width, kernel, expansion and squeeze-and-excitation of five stages.

Sandler et al.: MobileNetV2 (CVPR 2018), the inverted bottleneck; Tan et al.: MnasNet (CVPR 2019),
decisions stage by stage; Howard et al.: Searching for MobileNetV3 (ICCV 2019), the stages, their
strides and squeeze-and-excitation; Cai et al.: Once-for-All (ICLR 2020), the choices of kernel and
expansion.

Where we differ from MobileNetV3: stages decide their widths and depths (Once-for-All: depth 2 to
4); no fixed block follows the stem, and no second hidden layer the head; blocks have ReLU6, as in
MobileNetV2, stem and head ReLU, and none a hard swish, so that proxies that look at rectified units
apply; small images are halved less often.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from search_spaces.architecture import Architecture, Decision
from search_spaces.counting import Counts, conv_counts, linear_counts
from search_spaces.modules import ConvBNReLU, GlobalPoolClassifier, MobileBlock
from search_spaces.stages import StagedSpace

#: channels of each stage's output
WIDTHS = ((16, 24, 32), (32, 40, 48), (64, 80, 96), (96, 112, 128), (128, 160, 192))
STEM, HEAD = 16, 960
#: the layers that may have stride 2: the stem (0) and the first blocks of these stages
HALVING = (0, 1, 2, 3, 5)
#: pixels that halving leaves along the shorter side
SMALLEST = 4


@dataclass(frozen=True)
class Stage:
    """A stage: mobile blocks, the first of which may have stride 2.

    Args:
        depth: number of blocks.
        width: channels of their outputs, before the space's multiplier.
        kernel: size of the depthwise convolutions.
        expansion: channels of the depthwise convolutions in units of a block's input.
        squeeze: whether blocks have squeeze-and-excitation, with a quarter of those channels.
    """

    depth: int
    width: int
    kernel: int
    expansion: int
    squeeze: int

    def squeezed(self, in_channels: int) -> int:
        """Return the channels within squeeze-and-excitation, rounded up; 0 without it."""
        return -(-in_channels * self.expansion // 4) if self.squeeze else 0


@dataclass(frozen=True)
class Mobile(StagedSpace):
    """Networks of mobile blocks for images of 32 to 224 pixels: 216^5.

    The network: a 3x3 convolution with 16 channels, five stages of mobile blocks, a 1x1
    convolution with 960 channels, global average pooling, a linear layer.

    The resolution follows from the images. It is halved, rounding up, as often as leaves at least
    4 pixels along the shorter side, and at most five times: 32 -> 4 by three halvings, 64 -> 4 by
    four, 224 -> 7 by five. As in MobileNetV3, all five are the stem and the first blocks of stages
    1, 2, 3 and 5; where there are fewer, the last of these halve.

    Args:
        width_multiplier: by which the channels of all layers are multiplied, rounded to whole
            channels (1; at least 1/8, where widths begin to coincide).
    """

    width_multiplier: Annotated[float, Field(ge=0.125, allow_inf_nan=False)] = 1.0

    name: ClassVar[str] = "mobile"
    paper: ClassVar[str] = "Howard et al.: MobileNetV3, ICCV 2019"
    notation: ClassVar[str] = (
        "d<depth>w<width>k<kernel>e<expansion>s<squeeze-and-excitation, 0 or 1> of each stage:"
        " d2w24k3e3s0-d3w40k5e3s1-d4w80k3e6s0-d2w112k3e6s1-d3w160k5e6s1"
    )

    @cached_property
    def stage_decisions(self) -> tuple[dict[str, Decision], ...]:
        """Depth, width, kernel, expansion and squeeze-and-excitation of each stage."""
        return tuple(
            {
                "d": Decision(f"depth_{stage}", (1, 2, 3, 4)),
                "w": Decision(f"width_{stage}", widths),
                "k": Decision(f"kernel_{stage}", (3, 5, 7)),
                "e": Decision(f"expansion_{stage}", (3, 4, 6)),
                "s": Decision(f"squeeze_{stage}", (0, 1), kind="operation"),
            }
            for stage, widths in enumerate(WIDTHS, 1)
        )

    def stages(self, arch: Architecture) -> list[Stage]:
        """Return the stages of `arch`."""
        return [Stage(*values) for values in self.stage_values(arch)]

    def counts(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> Counts:
        """Count in closed form."""
        channels, *size = input_shape
        strides = _strides(size)
        c, head = self._channels(STEM), self._channels(HEAD)
        size = _strided(size, strides[0])
        total = conv_counts(channels, c, 9, size[0] * size[1])
        for index, stage in enumerate(self.stages(arch), 1):
            width = self._channels(stage.width)
            for block in range(stage.depth):
                before = size[0] * size[1]
                size = size if block else _strided(size, strides[index])
                total += _block_counts(stage, c, width, before, size[0] * size[1])
                c = width
        total += conv_counts(c, head, 1, size[0] * size[1])
        return total + linear_counts(head, num_classes)

    def build(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> nn.Module:
        """Build the network of `arch`; see the class."""
        strides = _strides(input_shape[1:])
        c, head = self._channels(STEM), self._channels(HEAD)
        layers: list[nn.Module] = [ConvBNReLU(input_shape[0], c, 3, strides[0])]
        for index, stage in enumerate(self.stages(arch), 1):
            width = self._channels(stage.width)
            for block in range(stage.depth):
                stride = 1 if block else strides[index]
                shape = (c, width, stage.kernel, stage.expansion, stride, stage.squeezed(c))
                layers.append(MobileBlock(*shape))
                c = width
        layers += [ConvBNReLU(c, head, 1), GlobalPoolClassifier(head, num_classes)]
        return nn.Sequential(*layers)

    def _channels(self, width: int) -> int:
        return int(width * self.width_multiplier + 0.5)


def _strides(size: Sequence[int]) -> list[int]:
    """Return the strides of the stem and of the first block of each stage; see `Mobile`."""
    side, halvings = min(size), 0
    while halvings < len(HALVING) and -(-side // 2) >= SMALLEST:
        side, halvings = -(-side // 2), halvings + 1
    halving = HALVING[len(HALVING) - halvings :]
    return [2 if layer in halving else 1 for layer in range(1 + len(WIDTHS))]


def _strided(size: Sequence[int], stride: int) -> list[int]:
    return [-(-length // stride) for length in size]


def _block_counts(
    stage: Stage, in_channels: int, out_channels: int, pixels_in: int, pixels_out: int
) -> Counts:
    hidden = in_channels * stage.expansion
    total = conv_counts(in_channels, hidden, 1, pixels_in)
    total += conv_counts(hidden, hidden, stage.kernel**2, pixels_out, groups=hidden)
    total += conv_counts(hidden, out_channels, 1, pixels_out)
    if squeezed := stage.squeezed(in_channels):
        total += linear_counts(hidden, squeezed) + linear_counts(squeezed, hidden)
    return total
