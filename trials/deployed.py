"""A trained network together with the normalization of its images, as it is exported."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ImageClassifier(nn.Module):
    """Takes images as they are and gives logits.

    Args:
        network: maps normalized images to logits.
        mean: per channel, in the units of the images (0..1 for ordinary images).
        std: per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]):
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images `batch x channels x height x width`, float32, 0..1, to `batch x classes`."""
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits
