"""Bringing images of any size to that of a network, in operations that can be exported.

It is what `trials.data.scaling` does with Pillow (bilinear, with antialiasing), as two products
with matrices that depend on the sizes alone, so that one exported program takes every size.
"""

import torch
from torch import Tensor

from trials.data.scaling import Fit


def resized(images: Tensor, size: tuple[int, int], fit: Fit) -> Tensor:
    """Return images scaled to `size`, their proportions kept.

    Images of this size come back as they are. Others differ from Pillow's by its rounding to 8
    bits.

    Args:
        images: `batch x channels x height x width`, floats.
        size: height and width.
        fit: `crop`: the largest centered rectangle of the right shape is cut out and scaled;
            `pad`: the whole image is scaled, and what is left of the rectangle becomes 0.
    """
    rows = torch.arange(images.shape[2], dtype=torch.float32, device=images.device)
    columns = torch.arange(images.shape[3], dtype=torch.float32, device=images.device)
    height, width = rows[-1] + 1, columns[-1] + 1
    down = _weights(rows, size[0], width * (size[0] / size[1]), height * (size[1] / width), fit)
    across = _weights(
        columns, size[1], height * (size[1] / size[0]), width * (size[0] / height), fit
    )
    return down.to(images.dtype) @ images @ across.T.to(images.dtype)


def _weights(positions: Tensor, side: int, fitting: Tensor, scaled: Tensor, fit: Fit) -> Tensor:
    """Return the weight of every pixel of an axis in every scaled one, `side x pixels`.

    Args:
        positions: 0, 1, ... of the pixels.
        side: pixels of the scaled image.
        fitting: length of the axis that the other one asks for, in pixels of the image.
        scaled: length of the scaled axis that the other one asks for.
        fit: see `resized`.
    """
    length = positions[-1] + 1
    outputs = torch.arange(side, dtype=positions.dtype, device=positions.device)
    if fit == "pad":
        used = torch.clamp(torch.round(scaled), 1, side)  # as Pillow rounds
        first = torch.round((side - used) / 2)
        start, scale = torch.zeros_like(length), length / used
    else:
        used, first = torch.full_like(length, side), torch.zeros_like(length)
        cut = torch.minimum(length, fitting)
        start, scale = (length - cut) / 2, cut / side
    centers = start + (outputs - first + 0.5) * scale
    distances = (positions + 0.5 - centers[:, None]).abs() / torch.clamp(scale, min=1)
    weights = torch.clamp(1 - distances, min=0)
    weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-6)
    inside = (outputs >= first) & (outputs < first + used)
    return weights * inside[:, None].to(weights.dtype)
