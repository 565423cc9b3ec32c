"""Operators of PyTorch that have a faster equivalent on the CPU; equal but for rounding."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

aten = torch.ops.aten


def _avg_pool2d(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Pool by the mean as a depthwise convolution, which is vectorized: up to 6 times as fast.

    The arguments are those of `torch.nn.functional.avg_pool2d`; another layout than channels-last
    goes the usual way.
    """
    if ceil_mode or not _is_fast(x):
        y: Tensor = aten.avg_pool2d.default(
            x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        )
        return y
    kernel = list(kernel_size) * (2 // len(kernel_size))
    steps = list(stride) or kernel
    ones = torch.ones(1, 1, *kernel)
    divisor = divisor_override or kernel[0] * kernel[1]
    taps = (ones / divisor).expand(x.shape[1], 1, *kernel)
    y = functional.conv2d(x, taps, None, steps, list(padding), groups=x.shape[1])
    if any(padding) and not count_include_pad and divisor_override is None:
        inside = torch.ones(1, 1, *x.shape[2:])
        y *= divisor / functional.conv2d(inside, ones, None, steps, list(padding))
    return y


def _is_fast(x: Tensor) -> bool:
    fits = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return fits and x.device.type == "cpu" and x.dtype == torch.float32


#: {operator: what takes the same arguments and gives the same result}
FASTER: dict[Any, Callable[..., Any]] = {aten.avg_pool2d.default: _avg_pool2d}
