"""Plain and residual convolutional networks of every size, for images of 8 to 224 pixels.

The family of David Page: How to train your ResNet (2018), whose `ResNet9` long was the fastest
network to 94 % on CIFAR-10 (DAWNBench): a stage is a convolution, a max pooling and residual
blocks. Without blocks it is the plain network that one writes by hand. All that is searched is how
wide and how deep each stage is; dense 3x3 convolutions use processors and GPUs well, so that what
is good for a time to train is mostly a question of size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from pydantic import PositiveInt
from torch import Tensor, nn

from search_spaces.architecture import Architecture, Decision
from search_spaces.counting import Counts, conv_counts, linear_counts
from search_spaces.modules import ConvBNReLU, GlobalPoolClassifier
from search_spaces.notation import Scanner
from search_spaces.space import SearchSpace

CHANNELS = (8, 16, 24, 32, 48, 64)
WIDENING = (1.0, 1.5, 2.0)
DEPTHS = (0, 1, 2)

_SMALLEST = 3.5  # pixels, rounded up: no stage makes the shorter side of an image smaller
_MULTIPLE = 8  # channels are rounded to multiples, which vectors and matrix units like


@dataclass(frozen=True)
class ConvNet(SearchSpace):
    """A stem of 3x3 convolutions, stages, global average pooling, a linear layer.

    A stage is a 3x3 convolution to `widening` times the channels (rounded to a multiple of 8), 2x2
    max pooling and `depth` residual blocks of two 3x3 convolutions; batch normalization and ReLU
    after each convolution. The shorter side of the images becomes 4 to 7 pixels: where the
    stages alone leave more, the stem is that many convolutions of stride 2 instead of one of
    stride 1; where they would leave less, the first stages do not pool.

    Args:
        stages: number of stages (3).
    """

    stages: PositiveInt = 3

    name: ClassVar[str] = "convnet"
    paper: ClassVar[str] = "Page: How to train your ResNet, 2018"
    notation: ClassVar[str] = (
        "c<channels> of the stem, w<widening>d<depth> of each stage: c16-w2d1-w2d0-w2d1"
    )

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """The channels of the stem, then widening and depth, stage by stage."""
        stages = [
            (Decision(f"widening_{stage}", WIDENING), Decision(f"depth_{stage}", DEPTHS))
            for stage in range(1, self.stages + 1)
        ]
        return (Decision("channels", CHANNELS), *(one for stage in stages for one in stage))

    def stage_sizes(self, arch: Architecture) -> tuple[int, list[tuple[int, int]]]:
        """Return the channels of the stem, and (channels, depth) of every stage."""
        first, *rest = self.to_config(self.check(arch)).values()
        channels, stages = first, []
        for widening, depth in zip(rest[::2], rest[1::2], strict=True):
            channels = _widened(channels, widening)
            stages.append((channels, depth))
        return first, stages

    def canonical(self, arch: Architecture) -> Architecture:
        """Take the smallest widening where several are rounded to the same channels."""
        config = self.to_config(self.check(arch))
        before, stages = self.stage_sizes(arch)
        for number, (channels, _) in enumerate(stages, start=1):
            widening = next(w for w in WIDENING if _widened(before, w) == channels)
            config[f"widening_{number}"], before = widening, channels
        return self.from_config(config)

    def halvings(self, input_shape: Sequence[int]) -> tuple[int, list[int]]:
        """Return how often the stem halves the image, and the pooling of every stage, 1 or 2."""
        halvings = max(0, int(math.log2(min(input_shape[1:]) / _SMALLEST)))
        pooled = min(halvings, self.stages)
        return halvings - pooled, [1] * (self.stages - pooled) + [2] * pooled

    def parts(self, arch: Architecture) -> list[str]:
        """Return stem and stages, as they are drawn."""
        return self.to_string(arch).split("-")

    def to_string(self, arch: Architecture) -> str:
        """Write `c16-w2d1-w2d0-w2d1`."""
        first, *rest = self.to_config(self.check(arch)).values()
        stages = zip(rest[::2], rest[1::2], strict=True)
        return "-".join([f"c{first}", *(f"w{widening:g}d{depth}" for widening, depth in stages)])

    def from_string(self, text: str) -> Architecture:
        """Read what `to_string` writes."""
        scanner = Scanner(self.name, text)

        def choice(letter: str, values: Sequence[float]) -> int:
            scanner.literal(letter)
            words = [f"{value:g}" for value in values]
            return words.index(scanner.one_of(words, r"[0-9.]+"))

        choices = [choice("c", CHANNELS)]
        for _ in range(self.stages):
            scanner.literal("-")
            choices += [choice("w", WIDENING), choice("d", DEPTHS)]
        scanner.end()
        return self.architecture(choices)

    def counts(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> Counts:
        """Count in closed form."""
        c, stages = self.stage_sizes(arch)
        halvings, poolings = self.halvings(input_shape)
        total, (inputs, height, width) = Counts(), input_shape
        for stride in [2] * halvings or [1]:
            height, width = -(-height // stride), -(-width // stride)
            total += conv_counts(inputs, c, 9, height * width)
            inputs = c
        for (channels, depth), pooling in zip(stages, poolings, strict=True):
            total += conv_counts(c, channels, 9, height * width)
            height, width = -(-height // pooling), -(-width // pooling)
            total += conv_counts(channels, channels, 9, height * width) * (2 * depth)
            c = channels
        return total + linear_counts(c, num_classes)

    def build(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> nn.Module:
        """Build the network of `arch`; see the class."""
        c, stages = self.stage_sizes(arch)
        halvings, poolings = self.halvings(input_shape)
        layers: list[nn.Module] = [ConvBNReLU(input_shape[0], c, 3, stride=2 if halvings else 1)]
        layers += [ConvBNReLU(c, c, 3, stride=2) for _ in range(1, halvings)]
        for (channels, depth), pooling in zip(stages, poolings, strict=True):
            layers.append(ConvBNReLU(c, channels, 3))
            if pooling > 1:
                layers.append(nn.MaxPool2d(pooling, ceil_mode=True))
            layers += [Residual(channels) for _ in range(depth)]
            c = channels
        return nn.Sequential(*layers, GlobalPoolClassifier(c, num_classes))


def _widened(channels: int, widening: float) -> int:
    return _MULTIPLE * max(1, round(channels * widening / _MULTIPLE))


class Residual(nn.Module):
    """A residual block that keeps its shape: x + two 3x3 convolutions, batch norm and ReLU each."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            ConvBNReLU(channels, channels, 3), ConvBNReLU(channels, channels, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `batch x channels x height x width` to the same shape."""
        y: Tensor = x + self.layers(x)
        return y
