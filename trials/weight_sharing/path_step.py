"""The step rule of one-shot training: shared weights move by the gradients of some paths."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from search_spaces import Architecture
from search_spaces.weight_sharing.supernet import Supernet
from trials.optimization import TrainingStep
from trials.weight_sharing.private_weights import PrivateWeights
from trials.weight_sharing.recipe import Recipe


class PathStep:
    """Trains a supernet along paths.

    Args:
        recipe: momentum, weight decay, clipping; what happens to weights off the path.
        supernet: whose weights are trained.
        device: where it is.
        learning_rate: at first.
        private: weights that are each child's own; None: all are shared.
    """

    def __init__(
        self,
        recipe: Recipe,
        supernet: Supernet,
        device: torch.device,
        learning_rate: float,
        private: PrivateWeights | None = None,
    ):
        self.recipe, self.supernet, self.private = recipe, supernet, private
        self.device = device
        optimizer = torch.optim.SGD(
            supernet.parameters(),
            lr=learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            foreach=True,  # the fused one wants all momenta to be there, or none
        )
        self.update = TrainingStep(
            optimizer, device, recipe.gradient_clip, float16=False,
            keep_zeros=recipe.unused == "zero_gradient",
        )  # fmt: skip

    def __call__(self, images: Tensor, labels: Tensor, archs: Sequence[Architecture]) -> Tensor:
        """Update once by the gradients of some paths on one mini-batch.

        Args:
            images: `batch x channels x height x width`.
            labels: `batch`.
            archs: the paths; one only where children have weights of their own.

        Returns:
            The mean of their losses.
        """
        losses = [self._loss(images, labels, arch) for arch in archs]
        if self.private is None:
            return self.update(losses)
        (arch,) = archs
        with self.private.of(arch, self.update.optimizer):
            return self.update(losses)

    def _loss(self, images: Tensor, labels: Tensor, arch: Architecture) -> Callable[[], Tensor]:
        return lambda: functional.cross_entropy(self.supernet(images, arch), labels)

    def alone(self, learning_rate: float) -> "PathStep":
        """Return a step of the same weights with a new optimizer, none of them private."""
        return PathStep(self.recipe, self.supernet, self.device, learning_rate)
