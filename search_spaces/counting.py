"""Parameters and multiply-accumulate operations of any network."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_params(network: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def count_macs(network: nn.Module, input_shape: Sequence[int]) -> int:
    """Multiply-accumulates of one image's forward pass (1 MAC = 2 FLOPs).

    Convolutions and matrix products count; biases, normalization, pooling and element-wise
    operations do not.

    Args:
        network: maps `batch x channels x height x width` to logits; put back in its mode.
        input_shape: (channels, height, width) of one image.
    """
    parameter = next(network.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    training = network.training
    network.eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.zeros(1, *input_shape, device=device))
    network.train(training)
    return int(counter.get_total_flops()) // 2
