"""Judging the children of one supernet on validation images, each with its weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from search_spaces import Architecture
from search_spaces.weight_sharing.supernet import Supernet
from trials.data import Data
from trials.trial import derived_seed
from trials.weight_sharing.evaluation import evaluate_children
from trials.weight_sharing.images import Images
from trials.weight_sharing.private_weights import PrivateWeights
from trials.weight_sharing.recipe import Recipe
from trials.weight_sharing.seeds import Role


@dataclass
class Judge:
    """Evaluates children of a supernet.

    Args:
        recipe: which statistics of batch normalization; how many images of rankings.
        supernet: the shared weights.
        private: weights that are each child's own; None: all are shared.
        data: whose validation part is used.
        seed: of the order of the images, and of the calibration images.
        device: where the supernet is.
    """

    recipe: Recipe
    supernet: Supernet
    private: PrivateWeights | None
    data: Data
    seed: int
    device: torch.device

    def evaluate(self, archs: Sequence[Architecture], images: Images) -> list[tuple[float, float]]:
        """Return (mean cross-entropy, accuracy 0..1) of children; leaves evaluation mode on."""
        if self.private is None:
            return self.evaluate_as_is(archs, images)
        results = []
        for arch in archs:
            with self.private.of(arch):
                results += self.evaluate_as_is([arch], images)
        return results

    def evaluate_as_is(
        self, archs: Sequence[Architecture], images: Images
    ) -> list[tuple[float, float]]:
        """Return the same with the weights that the supernet has now, private ones too."""
        return evaluate_children(self.supernet, archs, images, self.recipe.statistics)

    @cached_property
    def images(self) -> Images:
        """All images of the validation part."""
        return self._images(None)

    @cached_property
    def ranked_images(self) -> Images:
        """The images of all kinds of rankings, so that these differ by the weights alone."""
        most = self.recipe.ranked_images
        return self.images if most is None else self._images(most)

    def _images(self, most: int | None) -> Images:
        calibration = None
        if self.recipe.statistics == "recomputed":
            size = min(self.recipe.calibration, len(self.data.train))
            seed = derived_seed(self.seed, Role.CALIBRATION)
            calibration, _ = next(self.data.train.batches(size, self.device, seed=seed))
        seed = derived_seed(self.seed, Role.IMAGES)
        return Images.of(self.data.validation, self.device, seed, most, calibration)
