"""Parameters and multiply-accumulate operations of any network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it takes long to import
    from torch import nn


@dataclass(frozen=True)
class Counts:
    """Trainable parameters and MACs of a part of a network; they add up."""

    params: int = 0
    macs: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.params + other.params, self.macs + other.macs)

    def __mul__(self, times: int) -> "Counts":
        return Counts(self.params * times, self.macs * times)


def conv_counts(
    in_channels: int,
    out_channels: int,
    area: int,
    pixels: int,
    groups: int = 1,
    affine: bool = True,
) -> Counts:
    """Count a convolution without bias, followed by batch normalization.

    Args:
        in_channels: channels of its input.
        out_channels: channels of its output.
        area: kernel height x kernel width.
        pixels: height x width of its output.
        groups: groups of channels.
        affine: whether the normalization has scale and shift (it is absent or bare otherwise).
    """
    weights = in_channels // groups * out_channels * area
    return Counts(weights + (2 * out_channels if affine else 0), weights * pixels)


def linear_counts(in_features: int, out_features: int) -> Counts:
    """Count a linear layer with bias; the bias is no MAC."""
    return Counts(in_features * out_features + out_features, in_features * out_features)


def count_params(network: "nn.Module") -> int:
    """Count the trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def count_macs(network: "nn.Module", input_shape: Sequence[int]) -> int:
    """Count the multiply-accumulates of one image's forward pass (1 MAC = 2 FLOPs).

    Convolutions and matrix products count; biases, normalization, pooling and element-wise
    operations do not.

    Args:
        network: maps `batch x channels x height x width` to logits; put back in its mode.
        input_shape: (channels, height, width) of one image.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    parameter = next(network.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    training = network.training
    network.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.zeros(1, *input_shape, device=device))
    network.train(training)
    return int(counter.get_total_flops()) // 2
