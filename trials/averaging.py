"""The exponential moving average of a network's weights."""

from copy import deepcopy

import torch
from torch import nn

_SLOWEST_START = 10  # steps per remembered one: after n steps the decay is at most n / (n + 10)


class Average:
    """A second network whose weights are the moving average of those of one in training.

    Polyak, Juditsky (1992); with a decay that rises at first, min(decay, (1 + n) / (10 + n)) after
    n steps, as in TensorFlow's `ExponentialMovingAverage`. Running means and variances of
    normalizations are averaged too; what counts batches is copied.

    Args:
        network: in training.
        decay: the share of the average that one step leaves.

    Attributes:
        network: with the averaged weights.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.decay, self._trained = decay, network
        self.network = deepcopy(network).requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after the step of this number, from 0."""
        decay = min(self.decay, (1 + step) / (_SLOWEST_START + step))
        average, trained = self.network.state_dict(), self._trained.state_dict()
        floating = [key for key, value in average.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [average[key] for key in floating], [trained[key] for key in floating], 1 - decay
        )
        for key in average.keys() - set(floating):
            average[key].copy_(trained[key])
