"""A plane in the space of a network's weights, through where they are."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from search_spaces.errors import InvalidArgument
from trials.proxies.preserving import untouched

_EPSILON = 1e-10  # added to a norm before the division by it, as in Li et al.'s code


class Point(NamedTuple):
    """A point of the plane: (0, 0) is where the weights are."""

    x: float
    y: float


def grid(points: int = 51, extent: float = 1.0) -> list[Point]:
    """Return the points of a square grid around (0, 0), row by row, x running fastest.

    With an odd number of points per axis, the one in the middle is exactly (0, 0).

    Args:
        points: per axis, from -extent to extent.
        extent: half the side of the square.

    Raises:
        InvalidArgument: for fewer than 2 points, or an extent that is not positive and finite.
    """
    if points < 2:
        raise InvalidArgument(f"points={points}: a grid has at least 2 points per axis.")
    if not (extent > 0 and math.isfinite(extent)):
        raise InvalidArgument(f"extent={extent}: half the side of the grid is a positive number.")
    last = points - 1
    axis = [extent * (2 * i - last) / last for i in range(points)]
    return [Point(x, y) for y in axis for x in axis]


class Plane:
    """The plane theta + x d1 + y d2 of two random, filter-normalized directions.

    Only learnable weights move; the running statistics of batch normalization keep the values
    that training left, and the network is in evaluation mode. Each direction is drawn from the
    normal distribution, and every filter in it is scaled to the norm of the weights' own filter;
    parameters of one dimension (biases; scale and shift of normalizations) do not move.

    Args:
        network: trained, on the device where it shall be evaluated.
        seed: of the directions; the same seed gives the same plane, on every device.

    Raises:
        InvalidArgument: when nothing in the network could move.
    """

    def __init__(self, network: nn.Module, seed: int = 0):
        self.network = network
        #: all learnable parameters, those that do not move too
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        if not any(p.ndim > 1 for p in self.parameters):
            raise InvalidArgument(
                f"{type(network).__name__} has no learnable parameters of two or more dimensions"
                " (convolutions, linear layers), so there are no directions to move it in."
            )
        generator = torch.Generator().manual_seed(seed)
        #: d1 and d2: one tensor for each parameter, of its shape
        self.directions = (self._direction(generator), self._direction(generator))

    @property
    def device(self) -> torch.device:
        """Return where the network is."""
        return self.parameters[0].device

    def _direction(self, generator: torch.Generator) -> list[Tensor]:
        return [filter_normalized(p.detach(), generator) for p in self.parameters]

    @contextmanager
    def entered(self) -> Iterator[Callable[[Point], Point]]:
        """Let the network be moved over the plane, within this context.

        It is in evaluation mode; afterwards it is bit for bit as it was found.

        Yields:
            A function that moves it to a point, which it returns.
        """
        with untouched(self.network, self.device):
            center = [p.detach().clone() for p in self.parameters]
            self.network.eval()

            def move(point: Point) -> Point:
                with torch.no_grad():
                    for p, start, d1, d2 in zip(
                        self.parameters, center, *self.directions, strict=True
                    ):
                        if p.ndim > 1:
                            torch.add(start, d1, alpha=point.x, out=p).add_(d2, alpha=point.y)
                return point

            try:
                yield move
            finally:
                with torch.no_grad():
                    for p, start in zip(self.parameters, center, strict=True):
                        p.copy_(start)


def filter_normalized(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a direction in which every filter has the norm of the weights' own filter.

    A filter is what belongs to one index of the first dimension: a filter of a convolution, a row
    of a linear layer (Li et al. 2018, section 4).

    Args:
        weights: of one parameter.
        generator: on the CPU.

    Returns:
        A tensor like `weights`; 0 where they have fewer than two dimensions.
    """
    if weights.ndim < 2:
        return torch.zeros_like(weights)
    drawn = torch.randn(weights.shape, generator=generator)
    direction = torch.empty_like(weights).copy_(drawn)  # in the memory format of the weights
    dimensions = tuple(range(1, weights.ndim))
    own = torch.linalg.vector_norm(weights, dim=dimensions, keepdim=True)
    norm = torch.linalg.vector_norm(direction, dim=dimensions, keepdim=True)
    return direction.mul_(own / (norm + _EPSILON))
