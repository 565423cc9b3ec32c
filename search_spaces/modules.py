"""The operations that networks of the search spaces are made of, and what trainers may set.

Every operation maps `batch x in_channels x height x width` to
`batch x out_channels x height/stride x width/stride`.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class HasAuxiliaryHead(Protocol):
    """A network whose training may have a second classifier; any module with this attribute.

    Attributes:
        auxiliary_logits: the second classifier's logits of the last batch in training,
            `batch x num_classes`, which the trainer adds to the loss; None where there are none.
    """

    auxiliary_logits: Tensor | None


@runtime_checkable
class HasDropPath(Protocol):
    """A network that drops paths in training (Larsson et al.: FractalNet, ICLR 2017).

    Attributes:
        drop_path: probability of dropping a path for an image; set by the trainer.
    """

    drop_path: float


class ConvBN(nn.Sequential):
    """1x1 convolution without bias, batch normalization: a skip connection between widths."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
            nn.BatchNorm2d(out_channels),
        )


class ReLUConvBN(nn.Sequential):
    """ReLU, convolution without bias, batch normalization, in this order (NAS-Bench-201)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1):
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
            nn.BatchNorm2d(out_channels),
        )


class ConvBNReLU(nn.Sequential):
    """Convolution without bias, batch normalization, ReLU (NAS-Bench-101, residual networks)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1):
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )


class AvgPool(nn.AvgPool2d):
    """3x3 average pooling that keeps the resolution and leaves the padding out of the mean."""

    def __init__(self) -> None:
        super().__init__(3, stride=1, padding=1, count_include_pad=False)


class ResidualBlock(nn.Module):
    """The basic residual block of stride 2 between two stages (NAS-Bench-201).

    Two 3x3 ReLU-convolution-BN, beside them 2x2 average pooling and a 1x1 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.convolutions = nn.Sequential(
            ReLUConvBN(in_channels, out_channels, 3, stride=2),
            ReLUConvBN(out_channels, out_channels, 3),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, ceil_mode=True),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `batch x in x height x width` to `batch x out x height/2 x width/2`."""
        y: Tensor = self.shortcut(x) + self.convolutions(x)
        return y


class SqueezeExcitation(nn.Module):
    """Weights each channel by a function of the means of all (Hu et al.: SENet, CVPR 2018).

    Two 1x1 convolutions with bias on the globally pooled input, ReLU between them, a hard sigmoid
    at the end (Howard et al.: MobileNetV3, ICCV 2019, section 5.3).

    Args:
        channels: of input and output.
        squeezed: channels between the two convolutions.
    """

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `batch x channels x height x width` to the same shape."""
        weights: Tensor = self.layers(torch.mean(x, dim=(2, 3), keepdim=True))
        return x * weights


class MobileBlock(nn.Module):
    """Inverted residual block: 1x1 expansion, depthwise convolution, 1x1 projection.

    Each convolution has batch normalization, the first two ReLU6. The input is added where the
    block keeps shape (MobileNetV2; NAS-Bench-Macro).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the depthwise convolution.
        expansion: channels between, in units of `in_channels`.
        stride: of the depthwise convolution.
        squeezed: channels of a squeeze-and-excitation before the projection; 0 for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        expansion: int,
        stride: int,
        squeezed: int = 0,
    ):
        super().__init__()
        hidden = in_channels * expansion
        self.residual = stride == 1 and in_channels == out_channels
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(
                hidden, hidden, kernel_size, stride, kernel_size // 2, groups=hidden, bias=False
            ),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            *([SqueezeExcitation(hidden, squeezed)] if squeezed else []),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map `batch x in x height x width` to `batch x out x height/stride x width/stride`."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class GlobalPoolClassifier(nn.Module):
    """Global average pooling and a linear layer: `batch x channels x h x w` to logits."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map `batch x channels x height x width` to `batch x num_classes`."""
        logits: Tensor = self.linear(torch.mean(x, dim=(2, 3)))
        return logits
