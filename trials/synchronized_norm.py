"""Batch normalization over the batch of all workers, not over each one's share of it."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronized(network: nn.Module, device: torch.device) -> nn.Module:
    """Return a network whose batch normalizations are over the batches of all workers.

    They keep weights, statistics and their names, so that states fit networks without it.

    Args:
        network: which is changed.
        device: where it is to be; on a GPU it is PyTorch's own, which is for GPUs only.
    """
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return converted
    for module in network.modules():
        if type(module) in _KINDS:
            module.__class__ = _KINDS[type(module)]
    return network


class _Synchronized(_BatchNorm):
    """Normalizes by mean and variance over all workers in training; else as its kind does."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        mean, variance, count = _statistics(input)
        self._remember(mean.detach(), variance.detach() * (count / (count - 1)))
        shape = (1, -1) + (1,) * (input.dim() - 2)
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        shift = -mean * scale
        if self.affine:
            shift = shift + self.bias
        return torch.addcmul(shift.view(shape), input, scale.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = self.momentum
        if momentum is None:  # the mean over all batches
            momentum = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


class _Synchronized1d(_Synchronized, nn.BatchNorm1d):
    pass


class _Synchronized2d(_Synchronized, nn.BatchNorm2d):
    pass


class _Synchronized3d(_Synchronized, nn.BatchNorm3d):
    pass


_KINDS: dict[type, type] = {
    nn.BatchNorm1d: _Synchronized1d,
    nn.BatchNorm2d: _Synchronized2d,
    nn.BatchNorm3d: _Synchronized3d,
}


def _statistics(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance of each channel, float32, and the numbers that they are of.

    The sums of squares are added in float64, where their difference loses nothing.
    """
    axes = [axis for axis in range(images.dim()) if axis != 1]
    variance, mean = torch.var_mean(images.float(), axes, correction=0)
    channels = len(mean)
    count = torch.full((1,), images.numel() / channels, dtype=torch.float64, device=mean.device)
    variance, mean = variance.double(), mean.double()
    sums = torch.cat((count * mean, count * (variance + mean * mean), count))
    sums = _Sum.apply(sums)
    mean, squares = sums[:-1].view(2, channels) / sums[-1]
    return mean.float(), (squares - mean * mean).clamp_min(0).float(), sums[-1].detach().float()


class _Sum(torch.autograd.Function):
    """The sum of what all workers have; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total
