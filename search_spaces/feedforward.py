"""Dense and convolutional networks with one decision, the depth: members of growing ensembles.

AdaNet (Cortes et al., ICML 2017) and SAEP (Bian et al.: Sub-Architecture Ensemble Pruning in
Neural Architecture Search, IEEE TNNLS 2021) grow an ensemble, whose next member is as deep as the
last one, or a layer deeper. The layers are those of SAEP's code, whose convolutional member is
`depth=1` and never deeper. Different here: weights are drawn as PyTorch does, and odd heights and
widths are pooled to the next larger half, so that an image of one row has a network too.
"""

import itertools
import math
from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from pydantic import PositiveInt
from torch import nn

from search_spaces.architecture import Architecture, Decision
from search_spaces.counting import Counts, conv_counts, linear_counts
from search_spaces.notation import Scanner
from search_spaces.space import SearchSpace


class DepthSpace(SearchSpace, ABC):
    """Chains of equal layers, of which only the number is chosen."""

    #: the smallest depth
    min_depth: ClassVar[int]
    #: the largest depth, an option of the space
    max_depth: PositiveInt

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """The depth."""
        return (Decision("depth", tuple(range(self.min_depth, self.max_depth + 1))),)

    def to_string(self, arch: Architecture) -> str:
        """Write `depth=3`."""
        return f"depth={self._depth(arch)}"

    def from_string(self, text: str) -> Architecture:
        """Read what `to_string` writes."""
        scanner = Scanner(self.name, text)
        scanner.literal("depth=")
        depth = scanner.integer(self.min_depth, self.max_depth)
        scanner.end()
        return self.architecture([depth - self.min_depth])

    def _depth(self, arch: Architecture) -> int:
        (choice,) = self.check(arch).choices
        return self.min_depth + choice


@dataclass(frozen=True)
class Dense(DepthSpace):
    """A linear classifier behind `depth` hidden layers.

    The network: the image as one vector, `batch x (channels * height * width)`; `depth` times a
    linear layer and ReLU, `batch x units`; a linear layer, `batch x num_classes`.

    Args:
        units: outputs of each hidden layer.
        max_depth: the largest number of hidden layers; the smallest is 0.
    """

    units: PositiveInt = 32
    max_depth: PositiveInt = 10

    name: ClassVar[str] = "dense"
    paper: ClassVar[str] = "Cortes et al.: AdaNet, ICML 2017"
    notation: ClassVar[str] = "number of hidden layers: depth=3"
    min_depth: ClassVar[int] = 0

    def counts(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> Counts:
        """Count in closed form."""
        return _linear_counts(self._features(arch, input_shape, num_classes))

    def build(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> nn.Module:
        """Build the network of `arch`; see the class."""
        features = self._features(arch, input_shape, num_classes)
        return nn.Sequential(nn.Flatten(), *_linear_layers(features))

    def _features(
        self, arch: Architecture, input_shape: Sequence[int], num_classes: int
    ) -> list[int]:
        return [math.prod(input_shape), *[self.units] * self._depth(arch), num_classes]


@dataclass(frozen=True)
class Convolutional(DepthSpace):
    """`depth` convolutions, a pooling and a hidden layer before a linear classifier.

    The network: `depth` times a 3x3 convolution of stride 1 and ReLU,
    `batch x channels x height x width`; 2x2 max pooling, which rounds height/2 and width/2 up; a
    linear layer and ReLU, `batch x units`; a linear layer, `batch x num_classes`.

    Args:
        channels: channels of each convolution.
        units: outputs of the hidden layer.
        max_depth: the largest number of convolutions; the smallest is 1.
    """

    channels: PositiveInt = 16
    units: PositiveInt = 64
    max_depth: PositiveInt = 6

    name: ClassVar[str] = "convolutional"
    paper: ClassVar[str] = "Bian et al.: SAEP, TNNLS 2021"
    notation: ClassVar[str] = "number of convolutions: depth=3"
    min_depth: ClassVar[int] = 1

    def counts(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> Counts:
        """Count in closed form."""
        c, (in_channels, height, width) = self.channels, input_shape
        total = _linear_counts(self._features(input_shape, num_classes))
        for i in [in_channels, *[c] * (self._depth(arch) - 1)]:
            total += conv_counts(i, c, 9, height * width, affine=False) + Counts(c)  # the bias
        return total

    def build(
        self, arch: Architecture, input_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> nn.Module:
        """Build the network of `arch`; see the class."""
        c = self.channels
        layers: list[nn.Module] = []
        for i in [input_shape[0], *[c] * (self._depth(arch) - 1)]:
            layers += [nn.Conv2d(i, c, 3, padding=1), nn.ReLU()]
        layers += [nn.MaxPool2d(2, ceil_mode=True), nn.Flatten()]
        return nn.Sequential(*layers, *_linear_layers(self._features(input_shape, num_classes)))

    def _features(self, input_shape: Sequence[int], num_classes: int) -> list[int]:
        _, height, width = input_shape
        return [self.channels * -(-height // 2) * -(-width // 2), self.units, num_classes]


def _linear_counts(features: Sequence[int]) -> Counts:
    return sum(itertools.starmap(linear_counts, itertools.pairwise(features)), start=Counts())


def _linear_layers(features: Sequence[int]) -> list[nn.Module]:
    """Make linear layers from each number of features to the next, ReLU between them."""
    layers: list[nn.Module] = []
    for i, o in itertools.pairwise(features):
        layers += [nn.Linear(i, o), nn.ReLU()]
    return layers[:-1]
