"""New random weights, for the proxies whose papers prescribe how they are drawn."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def kaiming(fan_in: int) -> float:
    """Return the standard deviation of He et al. (ICCV 2015), equation 10: sqrt(2 / fan_in)."""
    return math.sqrt(2 / fan_in)


def standard(fan_in: int) -> float:
    """Return 1, whatever the fan-in."""
    return 1.0


def reinitialize(network: nn.Module, std: Callable[[int], float]) -> None:
    """Give a network new parameters; within `untouched`, which brings the old ones back.

    Weights of convolutions and linear layers are drawn from N(0, std^2), on the CPU, so that all
    devices have the same; biases are 0. Normalizations scale by 1, shift by 0 and have not seen
    any image. All other parameters keep their values. What was trainable still is.

    Args:
        network: its modules get new tensors; what they share, they still share.
        std: standard deviation of a weight, by its fan-in (inputs of one output).
    """
    new: dict[int, nn.Parameter] = {}
    for module in network.modules():
        table: dict[str, nn.Parameter | None] = vars(module)["_parameters"]
        for name, old in table.items():
            if old is not None:
                if id(old) not in new:
                    new[id(old)] = nn.Parameter(_value(module, name, old, std), old.requires_grad)
                table[name] = new[id(old)]
        if isinstance(module, _NormBase):
            module.reset_running_stats()


def _value(module: nn.Module, name: str, old: Tensor, std: Callable[[int], float]) -> Tensor:
    """Return the new value of one parameter."""
    if isinstance(module, (_ConvNd, nn.Linear)):
        if name == "weight":
            return (torch.randn(old.shape) * std(old[0].numel())).to(old)
        if name == "bias":
            return torch.zeros_like(old)
    if isinstance(module, _NORMS):
        return torch.ones_like(old) if name == "weight" else torch.zeros_like(old)
    return old.detach().clone()
