"""The loss around a network: on a plane of two random directions, point by point.

    from trials.landscape import Plane, grid, gradient_variance, loss_surface, sample
    plane, images = Plane(network, seed=0), sample(data.test, images=1000)
    surface = list(loss_surface(plane, images, grid(points=51)))

The directions are filter-normalized (Li et al.: Visualizing the Loss Landscape of Neural Nets,
NeurIPS 2018); the use for cells is that of Shu, Wang and Cai: Understanding Architectures Learnt by
Cell-based Neural Architecture Search (ICLR 2020). `raynas.drivers.surfaces` computes the same all
over a cluster.
"""

from trials.landscape.plane import Plane, Point, grid
from trials.landscape.sampling import Sample, sample
from trials.landscape.surface import Height, loss_surface
from trials.landscape.variance import Spread, gradient_variance

__all__ = [
    "Height",
    "Plane",
    "Point",
    "Sample",
    "Spread",
    "gradient_variance",
    "grid",
    "loss_surface",
    "sample",
]
