"""The loss surface: mean loss and accuracy at points of a plane."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from trials.landscape.plane import Plane, Point
from trials.landscape.sampling import Sample

_BATCH = 128  # images of one forward pass: more no longer fit the caches of a core


class Height(NamedTuple):
    """What the network is worth at a point.

    Attributes:
        x: of the point.
        y: of the point.
        loss: mean cross-entropy; far from the center it may be infinite or NaN.
        accuracy: 0..1; an image for which the network gives NaN is a wrong one.
    """

    x: float
    y: float
    loss: float
    accuracy: float


def loss_surface(plane: Plane, sample: Sample, points: Iterable[Point]) -> list[Height]:
    """Return loss and accuracy at every point (Li et al. 2018, section 4).

    Args:
        plane: whose network is evaluated, in evaluation mode.
        sample: of the data, on the network's device.
        points: of the plane; see `grid`.
    """
    with plane.entered() as move:
        return [_height(plane.network, sample, move(point)) for point in points]


def _height(network: nn.Module, sample: Sample, point: Point) -> Height:
    return Height(*point, *loss_and_accuracy(network, sample))


@torch.inference_mode()
def loss_and_accuracy(network: nn.Module, sample: Sample) -> tuple[float, float]:
    """Compute mean cross-entropy and accuracy (0..1) of a network as it is."""
    batches = sample.batches(_BATCH)
    logits = torch.cat([network(images.clone()) for images, _ in batches])  # it may write to them
    loss = functional.cross_entropy(logits, sample.labels)
    return float(loss), float(_right(logits, sample.labels).double().mean())


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels) & ~logits.isnan().any(1)
