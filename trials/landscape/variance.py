"""The variance of the mini-batch gradient at points of a plane."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from search_spaces.errors import InvalidArgument
from trials.landscape.plane import Plane, Point
from trials.landscape.sampling import Sample


class Spread(NamedTuple):
    """How mini-batch gradients differ at a point.

    Attributes:
        x: of the point.
        y: of the point.
        variance: mean squared distance of the batches' gradients from their mean.
        relative_variance: the same divided by the squared norm of the mean gradient.
    """

    x: float
    y: float
    variance: float
    relative_variance: float


def gradient_variance(
    plane: Plane,
    sample: Sample,
    points: Iterable[Point],
    batches: int = 8,
    batch_size: int = 64,
) -> list[Spread]:
    """Return the variance of the mini-batch gradient at every point, as Shu et al. (2020) plot it.

    Var = 1/B sum_b ||g_b - mean g||^2 over B disjoint mini-batches, g_b being the gradient of the
    mean cross-entropy in all learnable parameters. The normalizer of the paper's figure is not
    known; this is the plain variance.

    The network is in evaluation mode, as on the loss surface: the surface whose gradient it is is
    then one function of the weights, the same for all batches, whereas batch normalization in
    training mode would make every batch a function of its own.

    Args:
        plane: whose network is evaluated.
        sample: of the data, on the network's device.
        points: of the plane; see `grid`.
        batches: B, the first ones of the sample; at every point the same.
        batch_size: images of each.

    Raises:
        InvalidArgument: for fewer than two batches, or a sample that does not hold so many.
    """
    check_batches(len(sample), batches, batch_size)
    used = list(sample.batches(batch_size))[:batches]
    with plane.entered() as move:
        return [Spread(*move(point), *_variance(plane, used)) for point in points]


def check_batches(images: int, batches: int, batch_size: int) -> None:
    """Refuse mini-batches that cannot be had from so many images.

    Raises:
        InvalidArgument: naming the argument and the remedy.
    """
    if batches < 2:
        raise InvalidArgument(f"batches={batches}: a variance needs at least 2 mini-batches.")
    if batch_size < 1:
        raise InvalidArgument(f"batch_size={batch_size} must be at least 1.")
    if images < batches * batch_size:
        raise InvalidArgument(
            f"batches={batches}, batch_size={batch_size}: disjoint mini-batches need"
            f" {batches * batch_size} images, and there are {images}. Use fewer or smaller ones."
        )


def _variance(plane: Plane, batches: list[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Compute variance and relative variance where the network is.

    Only the sum of the gradients and of their squared norms are kept, in float64: the difference
    of the two loses no digits that float32 gradients have.
    """
    total = [torch.zeros_like(p, dtype=torch.float64) for p in plane.parameters]
    squares = 0.0
    for images, labels in batches:
        with torch.enable_grad():
            loss = functional.cross_entropy(plane.network(images.clone()), labels)
            gradients = torch.autograd.grad(
                loss, plane.parameters, allow_unused=True, materialize_grads=True
            )
        wide = [g.double() for g in gradients]
        squares += _squared_norm(wide)
        torch._foreach_add_(total, wide)
    count = len(batches)
    mean = _squared_norm(total) / count**2
    variance = squares / count - mean
    if variance < 0:  # by rounding; NaN stays NaN
        variance = 0.0
    if mean == 0:
        return variance, math.inf if variance > 0 else math.nan
    return variance, variance / mean


def _squared_norm(tensors: list[Tensor]) -> float:
    norms = torch.stack([torch.linalg.vector_norm(t) for t in tensors])
    return float(norms.square().sum())
