"""The supernets of all groups of children, trained, and what they say of architectures."""

from collections.abc import Sequence
from functools import lru_cache

import torch

from search_spaces import Architecture, SearchSpace
from search_spaces.errors import InvalidArgument
from trials.data import Data
from trials.weight_sharing.children import Children
from trials.weight_sharing.rankings import Row
from trials.weight_sharing.recipe import Recipe
from trials.weight_sharing.training import SupernetTraining


class SharedWeights:
    """The supernets of all groups, and what they say of architectures.

    Args:
        recipe: how they are trained.
        space: of the architectures.
        data: what with.
        seed: of everything.
        device: where.

    Raises:
        InvalidArgument: see `Recipe.check`.
    """

    def __init__(
        self,
        recipe: Recipe,
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
        """True when all epochs are done."""
        return all(training.epoch >= self.recipe.epochs for training in self.trainings)

    def train(self) -> None:
        """Train all supernets to the end."""
        for training in self.trainings:
            while training.epoch < self.recipe.epochs:
                training.train_epoch()

    def evaluate(self, archs: Sequence[Architecture]) -> list[dict[str, float]]:
        """Return `val_accuracy` (0..1), `val_loss`; `params` and `macs` where they are cheap.

        Raises:
            InvalidArgument: when there are no architectures.
            InvalidArchitecture: when one is of another space.
        """
        if not archs:
            raise InvalidArgument("architectures: none are given.")
        forms = [self.children.form(arch) for arch in archs]
        judged: dict[Architecture, tuple[float, float]] = {}
        for group, training in enumerate(self.trainings):
            mine = list(dict.fromkeys(f for f in forms if self.children.group_of(f) == group))
            if mine:
                judged.update(zip(mine, training.evaluate(mine), strict=True))
        return [self._metrics(arch, *judged[f]) for arch, f in zip(archs, forms, strict=True)]

    def _metrics(self, arch: Architecture, loss: float, accuracy: float) -> dict[str, float]:
        metrics = {"val_accuracy": accuracy, "val_loss": loss}
        if self.space.counts_fast:
            counts = self._counts(arch)
            metrics |= {"params": counts.params, "macs": counts.macs}
        return metrics

    @property
    def rankings(self) -> list[Row]:
        """(kind, offset from the end, architecture, accuracy) of the probes of all groups."""
        return [row for training in self.trainings for row in training.rankings]
