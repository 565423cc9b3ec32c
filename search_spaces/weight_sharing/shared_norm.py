"""Batch normalization of a supernet: statistics of each child, not of whatever was trained last.

Guo et al.: Single Path One-Shot NAS (ECCV 2020), section 3, recomputes them for every child.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

#: where batch normalization takes its mean and variance from when a child is evaluated
Statistics = Literal["batch", "recomputed", "running"]

_SMALL = 4096  # numbers of a child that are normalized faster together than one by one


@dataclass
class Normalization:
    """The way the batch normalization of a supernet works at present.

    All but `tracking` is about evaluation.

    Attributes:
        statistics: "batch": those of the images at hand; "recomputed": those of the first
            `calibration` images; "running": what training has kept, from whatever path.
        calibration: number of images that only serve to recompute the statistics.
        children: how many children's images lie one behind the other along the batch dimension;
            each has statistics of its own.
        tracking: whether, in training, running statistics follow the images at hand.
    """

    statistics: Statistics = "running"
    calibration: int = 0
    children: int = 1
    tracking: bool = True

    @contextmanager
    def set(self, **values: Any) -> Iterator[None]:
        """Set other values of some attributes for a while."""
        before = {name: getattr(self, name) for name in values}
        try:
            for name, value in values.items():
                setattr(self, name, value)
            yield
        finally:
            for name, value in before.items():
                setattr(self, name, value)


class SharedNorm(_BatchNorm):
    """Batch normalization whose statistics, when evaluated, are those of each child.

    Of images (`batch x channels x height x width`), or of anything that has channels second.
    """

    mode: Normalization

    @classmethod
    def like(cls, norm: _BatchNorm, mode: Normalization, affine: bool) -> "SharedNorm":
        """Make one in the place of another, with the same scale and shift if it has them."""
        shared = cls(norm.num_features, norm.eps, norm.momentum, affine, norm.track_running_stats)
        if affine and norm.affine:
            shared.weight, shared.bias = norm.weight, norm.bias
        shared.mode = mode
        return shared

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """Map a tensor to one of the same shape."""
        if self.training and not self.mode.tracking:
            # Copies instead of nothing: a checkpoint wants the same tensors the second time.
            mean = None if self.running_mean is None else self.running_mean.clone()
            var = None if self.running_var is None else self.running_var.clone()
            return functional.batch_norm(
                input, mean, var, self.weight, self.bias, training=True, eps=self.eps
            )
        if self.training or self.mode.statistics == "running":
            return super().forward(input)
        children = self.mode.children
        if input.device.type != "cpu" or torch.is_grad_enabled():
            return self._at_once(input, children)
        if children > 1 and input.numel() < _SMALL * children:
            return self._side_by_side(input, children)
        parts = [self._of_one(part, 1) for part in input.chunk(children)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _side_by_side(self, x: Tensor, children: int) -> Tensor:
        """Put children along the channels instead of the batch; two copies, but few calls."""
        images, channels, *size = len(x) // children, *x.shape[1:]
        y = x.view(children, images, channels, *size).transpose(0, 1)
        y = self._of_one(y.reshape(images, children * channels, *size), children)
        return y.view(images, children, channels, *size).transpose(0, 1).flatten(0, 1)

    def _of_one(self, x: Tensor, times: int) -> Tensor:
        """Normalize each channel by its own statistics; channels are there `times` times."""
        some = x[: self.mode.calibration] if self.mode.statistics == "recomputed" else x
        # On a CPU this is several times faster than var_mean, and than batch_norm in training.
        mean, var = torch.batch_norm_update_stats(some, None, None, 0.0)
        scale, shift = (p.repeat(times) if self.affine else None for p in (self.weight, self.bias))
        return functional.batch_norm(x, mean, var, scale, shift, False, 0.0, self.eps)

    def _at_once(self, x: Tensor, children: int) -> Tensor:
        """Normalize all children in a few operations, which is what a GPU wants."""
        y = x.view(children, -1, *x.shape[1:])
        some = y[:, : self.mode.calibration] if self.mode.statistics == "recomputed" else y
        dims = (1, *range(3, y.ndim))
        var, mean = torch.var_mean(some, dims, correction=0, keepdim=True)
        y = ((y - mean) * torch.rsqrt(var + self.eps)).flatten(0, 1)
        if self.affine:
            shape = (-1, *(1 for _ in x.shape[2:]))
            y = torch.addcmul(self.bias.view(shape), y, self.weight.view(shape))
        return y


def is_replaced(module: nn.Module) -> TypeGuard[_BatchNorm]:
    """Tell whether a supernet replaces it; a user's subclass stays, statistics and all."""
    return type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def own_norms(module: nn.Module) -> list[_BatchNorm]:
    """List the batch normalization that stays as it is and keeps running statistics."""
    return [
        norm
        for norm in module.modules()
        if isinstance(norm, _BatchNorm)
        and not isinstance(norm, SharedNorm)
        and norm.track_running_stats
    ]


@contextmanager
def kept_statistics(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Let copies of running statistics move for a while in the place of the statistics.

    Copies instead of nothing, as in `SharedNorm`, for the sake of checkpoints.
    """
    before = [dict(norm._buffers) for norm in norms]
    try:
        for norm, buffers in zip(norms, before, strict=True):
            norm._buffers.update((k, b if b is None else b.clone()) for k, b in buffers.items())
        yield
    finally:
        for norm, buffers in zip(norms, before, strict=True):
            norm._buffers.update(buffers)
