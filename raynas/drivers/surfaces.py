"""Loss surfaces and gradient variance of a network, in tiles all over the cluster.

What is computed at a point is in `trials.landscape`. A tile is as many points as take about a
fifth of a second; every worker holds the network and its plane, and all workers of a node share one
copy of the images.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import ray
import torch
from torch import Tensor

from raynas.cluster import connected, prepare_process, reason_of, slots
from raynas.drivers.pools import WorkerPool
from raynas.errors import InvalidArgument, RaynasError
from search_spaces import Architecture, SearchSpace
from trials.data import Data
from trials.landscape import (
    Plane,
    Point,
    Sample,
    gradient_variance,
    grid,
    loss_surface,
    sample,
)
from trials.landscape.variance import check_batches

_PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Trained:
    """A trained network, as it travels to the workers.

    Attributes:
        space: the search space.
        architecture: what is trained.
        weights: the state of what the space builds, on the CPU.
        input_shape: channels, height and width of an image.
        num_classes: number of classes.
    """

    space: SearchSpace
    architecture: Architecture
    weights: Mapping[str, Tensor]
    input_shape: tuple[int, int, int]
    num_classes: int

    def plane(self, seed: int, device: torch.device) -> Plane:
        """Return a plane through the weights.

        Raises:
            InvalidArgument: when the weights are not those of such a network.
        """
        network = self.space.build(self.architecture, self.input_shape, self.num_classes)
        try:
            network.load_state_dict(dict(self.weights))
        except RuntimeError as error:
            text = self.space.to_string(self.architecture)
            raise InvalidArgument(
                f"weights: they are not of the network that {self.space.name} builds for {text}:"
                f" {error}"
            ) from error
        return Plane(network.to(device, memory_format=torch.channels_last), seed)  # type: ignore[call-overload]


def surface(
    space: SearchSpace,
    architecture: Architecture | str,
    weights: Mapping[str, Tensor],
    data: Data,
    part: Literal["train", "validation", "test"] = "test",
    images: int | None = None,
    points: int = 51,
    extent: float = 1.0,
    batches: int = 0,
    batch_size: int = 64,
    seed: int = 0,
    actors: int | None = None,
    cpus_per_actor: float = 1,
    gpus_per_actor: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Compute the loss surface around a trained network, and the variance of its gradient.

    On a plane of two random, filter-normalized directions, in evaluation mode, without
    augmentation; see `trials.landscape`. The numbers are those of one process with as many threads
    as an actor has. A worker that dies costs only the tile that it was computing.

    Args:
        space: the search space.
        architecture: what was trained, or its notation.
        weights: the state of what the space builds, such as `Checkpoint.weights`.
        data: the data set.
        part: of the data, on which the loss is measured.
        images: how many of the part, drawn at random; None: all.
        points: of the grid, per axis.
        extent: half the side of the grid; the weights are in its center.
        batches: mini-batches between which the gradient varies; 0: it is not computed.
        batch_size: images of each mini-batch.
        seed: of the directions, and of the images drawn and their order.
        actors: workers; None: as many as the cluster holds.
        cpus_per_actor: CPU cores of a worker, and its threads.
        gpus_per_actor: GPUs of a worker; None: 1 when the cluster has any.
        progress: called with (points done, points in all) after every tile.

    Returns:
        One row for each point, row by row, `x` running fastest: `x`, `y`, `loss` (infinite or NaN
        where the network left the range of numbers), `accuracy` (0..1); with `batches` also
        `variance` and `relative_variance`, the variance divided by the squared norm of the mean
        gradient.

    Raises:
        InvalidArgument: for a wrong argument, before anything starts.
        RaynasError: when the network cannot be evaluated, or kills every worker that tries.
    """
    if part not in _PARTS:
        raise InvalidArgument(f"part={part!r}: choose {', '.join(_PARTS)}.")
    if actors is not None and actors < 1:
        raise InvalidArgument(f"actors={actors} must be at least 1.")
    wanted = grid(points, extent)
    arch = space.from_string(architecture) if isinstance(architecture, str) else architecture
    if not weights:
        raise InvalidArgument("weights: there are none; give the state of a trained network.")
    on_cpu = {name: tensor.detach().cpu() for name, tensor in weights.items()}
    trained = Trained(space, arch, on_cpu, data.input_shape, data.num_classes)
    trained.plane(seed, torch.device("cpu"))  # complains before anything starts
    drawn = sample(getattr(data, part), images, seed)
    if batches:
        check_batches(len(drawn), batches, batch_size)
    measure = Measure(seed, batches, batch_size)
    rows: dict[Point, Row] = {}
    with connected():
        gpus, held = slots(cpus_per_actor, gpus_per_actor)
        number = min(actors or held, held, len(wanted))
        with SurfacePool(trained, drawn, measure, number, cpus_per_actor, gpus) as pool:
            for point, row in pool.measured(wanted):
                rows[point] = row
                if progress is not None:
                    progress(len(rows), len(wanted))
    return pd.DataFrame([rows[point] for point in wanted], columns=measure.columns)


#: x, y, and what was measured there
Row = tuple[float, ...]


@dataclass(frozen=True)
class Measure:
    """What is measured at every point.

    Attributes:
        seed: of the directions.
        batches: mini-batches between which the gradient varies; 0: it is not computed.
        batch_size: images of each.
    """

    seed: int = 0
    batches: int = 0
    batch_size: int = 64

    @property
    def columns(self) -> list[str]:
        """Return the names of what a row holds."""
        more = ["variance", "relative_variance"] if self.batches else []
        return ["x", "y", "loss", "accuracy", *more]

    def rows(self, plane: Plane, sample: Sample, points: list[Point]) -> list[Row]:
        """Measure at every point of a tile, in this process."""
        rows: list[Row] = [tuple(height) for height in loss_surface(plane, sample, points)]
        if not self.batches:
            return rows
        spreads = gradient_variance(plane, sample, points, self.batches, self.batch_size)
        return [(*row, *spread[2:]) for row, spread in zip(rows, spreads, strict=True)]


class SurfacePool(WorkerPool[Point, tuple[Point, Row]]):
    """Actors that hold a plane and images.

    Args:
        trained: the network.
        drawn: the images.
        measure: what is measured.
        actors: how many.
        cpus: of each.
        gpus: of each.
    """

    seconds: ClassVar[float] = (
        0.2  # a network is moved at once, and no worker waits long at the end
    )

    def __init__(
        self, trained: Trained, drawn: Sample, measure: Measure, actors: int,
        cpus: float = 1, gpus: float = 0,
    ):  # fmt: skip
        # As arrays, which workers map; tensors would be copied by each.
        arrays = ray.put((drawn.images.permute(0, 2, 3, 1).numpy(), drawn.labels.numpy()))
        network = ray.put(trained)
        actor: Any = ray.remote(_SurfaceActor).options(num_cpus=cpus, num_gpus=gpus)
        threads = max(1, int(cpus))
        super().__init__(lambda: actor.remote(network, arrays, measure, threads), actors)

    def given_up(self, item: Point, reason: str) -> tuple[Point, Row]:
        """Raise an error: a surface with holes would be taken for one without.

        Raises:
            RaynasError: with the reason.
        """
        raise RaynasError(f"The surface cannot be computed at {tuple(item)}: {reason}")

    def measured(self, points: list[Point]) -> Iterator[tuple[Point, Row]]:
        """Yield (point, what was measured there), as they come.

        Raises:
            RaynasError: for what the network raised.
        """
        try:
            yield from self.map(points)
        except ray.exceptions.RayTaskError as error:
            raise RaynasError(
                f"The network cannot be evaluated: {reason_of(error.cause)}"
            ) from error


class _SurfaceActor:
    """Holds a plane and images."""

    def __init__(
        self,
        trained: Trained,
        arrays: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]],
        measure: Measure,
        threads: int,
    ):
        device = prepare_process(threads)
        self._measure = measure
        self._plane = trained.plane(measure.seed, device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that they cannot be written: nobody does
            images, labels = map(torch.from_numpy, arrays)
        self._sample = Sample(images.permute(0, 3, 1, 2), labels).to(device)

    def estimate(self, points: list[Point]) -> tuple[float, list[tuple[Point, Row]]]:
        """Return (seconds, what was measured at each), for a pool."""
        start = time.perf_counter()
        rows = self._measure.rows(self._plane, self._sample, points)
        return time.perf_counter() - start, list(zip(points, rows, strict=True))
