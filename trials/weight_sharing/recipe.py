"""Weight sharing: one supernet is trained, every architecture is judged with its weights.

Guo et al.: Single Path One-Shot NAS (ECCV 2020); Li, Talwalkar: Random Search and
Reproducibility for NAS (UAI 2019); for groups, prefixes and what the ranking is worth, Zhang et
al.: Deeper Insights into Weight Sharing in NAS (arXiv 2001.01431).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge, Interval
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from search_spaces import Architecture, SearchSpace
from search_spaces.errors import InvalidArgument
from search_spaces.weight_sharing.shared_norm import Statistics
from search_spaces.weight_sharing.space import sharing
from trials.data import Data
from trials.trial import Estimator
from trials.weight_sharing.children import Children, Grouping, Order, Sampling
from trials.weight_sharing.training import SupernetTraining

_MAX_PRIVATE = 10_000  # children with weights of their own


@dataclass(frozen=True)
class WeightSharing(Estimator):
    """Judges architectures with the weights of a supernet that is trained first.

    SGD with momentum; the learning rate falls on a cosine over all steps; every mini-batch
    trains one path (with `fair`, one path for each choice).

    Args:
        epochs: of the supernet's training, for each group.
        batch_size: images of one step.
        learning_rate: of the first step.
        final_learning_rate: of the last step.
        momentum: of SGD.
        weight_decay: L2 penalty on the weights of the path.
        gradient_clip: largest L2 norm of the gradient; 0 leaves it as it is.
        sampling: which path is trained when: `uniform`, `fair`, `cycle`, `shuffled` or
            `reshuffled` (`trials.weight_sharing.children.Sampling`).
        canonical: train and judge one architecture only of those that compute the same function.
        unused: what happens to weights off the path: `untouched`; or `zero_gradient`: they get
            updates by momentum and weight decay, once they have been used (the behavior of
            the weight-sharing study's own code with the PyTorch of its time).
        affine: scale and shift in the choices' batch normalization.
        statistics: of batch normalization when a child is judged: those of the `batch`;
            `recomputed` from training images; or `running`.
        calibration: training images that statistics are recomputed from.
        fine_tuning: mini-batches that a child is trained alone, from the shared weights, before
            it is judged.
        groups: of children, each with a supernet of its own that is trained as long.
        grouping: `similarity` (of the leading decisions), `random`, or a function from an
            architecture to its group's key.
        prefix: number of layers that are shared, the stem aside; behind them every child has
            weights of its own. None: everything is shared.
        replicas: further processes that judge children with the trained weights; no part of
            what a run is, so it may change when one is continued, and is to be said again then.
        probes: children that are ranked again and again towards the end of the training, to
            tell how far the ranking can be trusted; 0: none.
        ranked_epochs: after how many of the last epochs they are ranked.
        ranked_batches: after how many of the last mini-batches they are ranked.
    """

    driver: ClassVar[str] = "supernet"

    epochs: PositiveInt = 20
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 0.025
    final_learning_rate: NonNegativeFloat = 0.001
    momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat = 5e-4
    gradient_clip: Annotated[float, Ge(0)] = 5.0
    sampling: Sampling = "uniform"
    canonical: bool = False
    unused: Literal["untouched", "zero_gradient"] = "untouched"
    affine: bool = False
    statistics: Statistics = "batch"
    calibration: PositiveInt = 256
    fine_tuning: NonNegativeInt = 0
    groups: PositiveInt = 1
    grouping: Grouping = "similarity"
    prefix: NonNegativeInt | None = None
    replicas: NonNegativeInt = field(default=0, compare=False)
    probes: NonNegativeInt = 32
    ranked_epochs: NonNegativeInt = 5
    ranked_batches: NonNegativeInt = 8

    def open(
        self, space: SearchSpace, data: Data, seed: int, device: torch.device
    ) -> Callable[[Architecture], dict[str, float]]:
        """Train the supernet here and now; a function from architectures to metrics."""
        weights = SharedWeights(self, space, data, seed, device)
        weights.train()
        return lambda arch: weights.evaluate([arch])[0]

    def check(self, space: SearchSpace, data: Data) -> None:
        """Whether this can be done.

        Raises:
            InvalidArgument: saying what cannot, before anything is trained.
        """
        children = Children(space, self.groups, self.grouping, self.canonical)
        Order(children, 0, self.sampling, 0)
        for group in range(len(children)):
            children.draw(group, np.random.default_rng(0))  # refuses groups without children
        supernet = sharing(space).supernet(data.input_shape, data.num_classes, self.affine)
        images = len(data.validation)
        if self.statistics == "batch" and images < 2:
            raise InvalidArgument(
                f"evaluate: the validation part has {images} image, whose statistics mean nothing;"
                " give more images, or statistics='running'."
            )
        if self.prefix is None:
            return
        if self.prefix > supernet.layers:
            raise InvalidArgument(
                f"prefix={self.prefix}: {space.name} has {supernet.layers} layers that can be"
                " shared."
            )
        if not 0 < len(children.listed) <= _MAX_PRIVATE:
            raise InvalidArgument(
                f"prefix={self.prefix} keeps weights for every child, of which {space.name} has"
                f" {len(children.listed) or space.size:.1e}; that works up to {_MAX_PRIVATE:,}."
            )
        if self.sampling == "fair":
            raise InvalidArgument("prefix: goes with one path in a step; sampling='fair' has more.")


class SharedWeights:
    """The supernets of all groups, and what they say of architectures.

    Args:
        recipe: how they are trained.
        space: of the architectures.
        data: what with.
        seed: of everything.
        device: where.

    Raises:
        InvalidArgument: see `WeightSharing.check`.
    """

    def __init__(
        self,
        recipe: WeightSharing,
        space: SearchSpace,
        data: Data,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        recipe.check(space, data)
        self.recipe, self.space, self.data = recipe, space, data
        self._counts = lru_cache(10_000)(
            lambda arch: space.counts(arch, data.input_shape, data.num_classes)
        )
        self.children = Children(space, recipe.groups, recipe.grouping, recipe.canonical)
        self.trainings = [
            SupernetTraining(recipe, self.children, group, data, seed, torch.device(device))
            for group in range(len(self.children))
        ]

    @property
    def trained(self) -> bool:
        """Whether all epochs are done."""
        return all(training.epoch >= self.recipe.epochs for training in self.trainings)

    def train(self) -> None:
        """Train all supernets to the end."""
        for training in self.trainings:
            while training.epoch < self.recipe.epochs:
                training.train_epoch()

    def evaluate(self, archs: Sequence[Architecture]) -> list[dict[str, float]]:
        """`val_accuracy` (0..1), `val_loss` and, where they are cheap, `params` and `macs`.

        Raises:
            InvalidArgument: when there are no architectures.
            InvalidArchitecture: when one is of another space.
        """
        if not archs:
            raise InvalidArgument("architectures: none are given.")
        forms = [self.children.form(arch) for arch in archs]
        found: dict[Architecture, tuple[float, float]] = {}
        for group, training in enumerate(self.trainings):
            mine = list(dict.fromkeys(f for f in forms if self.children.group_of(f) == group))
            if mine:
                found.update(zip(mine, training.evaluate(mine), strict=True))
        return [self._metrics(arch, *found[f]) for arch, f in zip(archs, forms, strict=True)]

    def _metrics(self, arch: Architecture, loss: float, accuracy: float) -> dict[str, float]:
        metrics = {"val_accuracy": accuracy, "val_loss": loss}
        if self.space.counts_fast:
            counts = self._counts(arch)
            metrics |= {"params": counts.params, "macs": counts.macs}
        return metrics

    @property
    def rankings(self) -> list[tuple[str, int, str, float]]:
        """(kind, offset from the end, architecture, accuracy) of the probes of all groups."""
        return [row for training in self.trainings for row in training.rankings]
