"""Differentiable search: what it is told, and the searches that it makes."""

from dataclasses import dataclass

import torch

from search_spaces import SearchSpace
from trials.data import Data
from trials.differentiable.options import Options
from trials.differentiable.search import GradientSearch


@dataclass(frozen=True)
class Differentiable(Options):
    """Trains a supernet and its architecture parameters together.

    Its options are those of `Options`.
    """

    def trial(
        self, space: SearchSpace, data: Data, epochs: int, seed: int, device: torch.device
    ) -> GradientSearch:
        """Return a search over `epochs` epochs.

        Raises:
            InvalidArgument: for a space without a supernet; `check` finds out more.
        """
        return GradientSearch(self, space, data, epochs, seed, device)
