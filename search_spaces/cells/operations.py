"""The operations on the edges of DARTS-like cells: one table gives both module and counts.

Liu, Simonyan, Yang: DARTS (ICLR 2019); Radosavovic et al.: On Network Design Spaces for Visual
Recognition (ICCV 2019) for the operations beyond those of DARTS.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.counting import Counts, conv_counts


@dataclass(frozen=True)
class Layer:
    """A convolution that keeps channels and, but for its stride, resolution.

    Args:
        kernel: its height and width.
        depthwise: one group per channel.
        dilation: distance between the taps of its kernel.
        strided: whether it takes the operation's stride, vertically and horizontally.
    """

    kernel: tuple[int, int]
    depthwise: bool = False
    dilation: int = 1
    strided: tuple[bool, bool] = (False, False)

    def strides(self, stride: int) -> tuple[int, int]:
        """Return its own vertical and horizontal stride in an operation of this stride."""
        return (stride if self.strided[0] else 1, stride if self.strided[1] else 1)

    def module(self, channels: int, stride: int) -> nn.Module:
        """Make the convolution, without bias."""
        return nn.Conv2d(
            channels,
            channels,
            self.kernel,
            self.strides(stride),
            padding=(self.dilation * (self.kernel[0] // 2), self.dilation * (self.kernel[1] // 2)),
            dilation=self.dilation,
            groups=channels if self.depthwise else 1,
            bias=False,
        )


#: ReLU, these convolutions, batch normalization
Block = tuple[Layer, ...]


def _separable(size: int, dilation: int = 1, strided: bool = True) -> Block:
    return (Layer((size, size), True, dilation, (strided, strided)), Layer((1, 1)))


def _plain(size: int) -> tuple[Block, ...]:
    return ((Layer((size, size), strided=(True, True)),),)


def _factorized(size: int) -> tuple[Block, ...]:
    return ((Layer((1, size), strided=(False, True)), Layer((size, 1), strided=(True, False))),)


#: the blocks of each convolutional operation; only the first one is strided
CONVOLUTIONS: Mapping[str, tuple[Block, ...]] = {
    "sep_conv_3x3": (_separable(3), _separable(3, strided=False)),
    "sep_conv_5x5": (_separable(5), _separable(5, strided=False)),
    "sep_conv_7x7": (_separable(7), _separable(7, strided=False)),
    "dil_conv_3x3": (_separable(3, 2),),
    "dil_conv_5x5": (_separable(5, 2),),
    "dil_sep_conv_3x3": (_separable(3, 2), _separable(3, 2, strided=False)),
    "conv_1x1": _plain(1),
    "conv_3x3": _plain(3),
    "conv_3x1_1x3": _factorized(3),
    "conv_7x1_1x7": _factorized(7),
}
#: kind and kernel size of each pooling operation
POOLS: Mapping[str, tuple[type[nn.Module], int]] = {
    "max_pool_3x3": (nn.MaxPool2d, 3),
    "max_pool_5x5": (nn.MaxPool2d, 5),
    "max_pool_7x7": (nn.MaxPool2d, 7),
    "avg_pool_3x3": (nn.AvgPool2d, 3),
}
#: every operation that a cell can have on an edge
OPERATIONS = ("none", "skip_connect", *POOLS, *CONVOLUTIONS)


class Zero(nn.Module):
    """The operation "none" where a benchmark builds it."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map `batch x channels x height x width` to zeros, height and width by the stride."""
        return x[:, :, :: self.stride, :: self.stride] * 0


class FactorizedReduce(nn.Module):
    """ReLU, halved resolution by two 1x1 convolutions of stride 2, one shifted by a pixel, BN."""

    def __init__(self, in_channels: int, out_channels: int, affine: bool = True):
        super().__init__()
        half = out_channels // 2
        self.even = nn.Conv2d(in_channels, half, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(in_channels, out_channels - half, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Map `batch x in x height x width` to `batch x out x height/2 x width/2`, rounded up."""
        x = functional.relu(x)
        shifted = functional.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        y: Tensor = self.norm(torch.cat([self.even(x), self.odd(shifted)], dim=1))
        return y


def operation(
    name: str,
    channels: int,
    stride: int = 1,
    affine: bool = True,
    momentum: float = 0.1,
    pool_norm: bool = False,
) -> nn.Module:
    """Make the module of an operation, which keeps channels and divides height and width.

    Args:
        name: one of `OPERATIONS`.
        channels: channels of its input and output.
        stride: 1, or 2 in a reduction cell on edges from the inputs.
        affine: whether batch normalization has scale and shift.
        momentum: of batch normalization (PyTorch's meaning).
        pool_norm: whether batch normalization follows pooling too.
    """
    if name == "none":
        return Zero(stride)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)
    norm = nn.BatchNorm2d(channels, affine=affine, momentum=momentum)
    if name in POOLS:
        pool = _pool(name, stride)
        return nn.Sequential(pool, norm) if pool_norm else pool
    layers: list[nn.Module] = []
    for block in CONVOLUTIONS[name]:
        layers.append(nn.ReLU())
        layers += [layer.module(channels, stride) for layer in block]
        layers.append(nn.BatchNorm2d(channels, affine=affine, momentum=momentum))
    return nn.Sequential(*layers)


def _pool(name: str, stride: int) -> nn.Module:
    kind, size = POOLS[name]
    if kind is nn.AvgPool2d:
        return nn.AvgPool2d(size, stride, size // 2, count_include_pad=False)
    return nn.MaxPool2d(size, stride, size // 2)


def operation_counts(
    name: str, channels: int, stride: int, height: int, width: int, affine: bool = True
) -> Counts:
    """Count what `operation` makes, on an input of `height` x `width`."""
    total = Counts()
    if name == "skip_connect" and stride == 2:
        pixels = -(-height // 2) * -(-width // 2)
        return conv_counts(channels, channels, 1, pixels, affine=affine)
    for block in CONVOLUTIONS.get(name, ()):
        for layer in block:
            down, across = layer.strides(stride)
            height, width = -(-height // down), -(-width // across)
            groups = channels if layer.depthwise else 1
            area = layer.kernel[0] * layer.kernel[1]
            total += conv_counts(channels, channels, area, height * width, groups, affine=False)
        total += Counts(params=2 * channels if affine else 0)
    return total
