"""Weight sharing: one supernet is trained, every architecture is judged with its weights.

Guo et al.: Single Path One-Shot NAS (ECCV 2020); Li, Talwalkar: Random Search and
Reproducibility for NAS (UAI 2019); for groups, prefixes and what the ranking is worth, Zhang et
al.: Deeper Insights into Weight Sharing in NAS (arXiv 2001.01431).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from search_spaces import Architecture, SearchSpace
from trials.data import Data
from trials.trial import Estimator
from trials.weight_sharing.recipe import Recipe
from trials.weight_sharing.shared_weights import SharedWeights


@dataclass(frozen=True)
class WeightSharing(Recipe, Estimator):
    """Judges architectures with the weights of a supernet that is trained first.

    Its options are those of `Recipe`.
    """

    driver: ClassVar[str] = "supernet"

    def open(
        self, space: SearchSpace, data: Data, seed: int, device: torch.device
    ) -> Callable[[Architecture], dict[str, float]]:
        """Train the supernet here and now; return a function from architectures to metrics."""
        weights = SharedWeights(self, space, data, seed, device)
        weights.train()
        return lambda arch: weights.evaluate([arch])[0]
