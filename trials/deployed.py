"""Trained networks together with the normalization of their images, as they are exported."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

#: how members become one prediction; see `combine`
Kind = Literal["average", "vote", "weighted-vote", "mixture", "average-logits"]

_TIE = 1e-5  # shares of votes that differ by less are equal


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
        """Map images `batch x channels x height x width`, float32, 0..1, to `batch x classes`."""
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


class Committee(nn.Module):
    """The members of an ensemble as one network; see `combine`.

    Args:
        networks: the members; each maps normalized images to logits.
        kind: how they are combined.
        weights: one for each member.
        temperature: of the combination.
    """

    weights: Tensor

    def __init__(
        self,
        networks: Sequence[nn.Module],
        kind: Kind,
        weights: Sequence[float],
        temperature: float = 1.0,
    ):
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.kind, self.temperature = kind, temperature
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        """Map normalized images to logarithms of probabilities, `batch x classes`."""
        logits = torch.stack([network(images) for network in self.networks])
        return combine(logits, self.kind, self.weights, self.temperature)


def combine(logits: Tensor, kind: Kind, weights: Tensor, temperature: float = 1.0) -> Tensor:
    """Combine members to one prediction: logarithms of probabilities, `images x classes`.

    `average`: the weighted mean of their probabilities. `vote` and `weighted-vote`: the weighted
    shares of their votes, one more vote being divided as the average is, which decides ties.
    `mixture` and `average-logits`: the softmax of the weighted sum of their logits (Cortes et al.
    2017), the weights being learnt, or equal.

    Args:
        logits: `members x images x classes`.
        kind: one of these.
        weights: one for each member, not negative; they sum to 1 except in a mixture.
        temperature: what the logarithms are divided by in the end; > 1 makes them less sure.
    """
    column = weights.view(-1, 1, 1).to(logits.dtype)
    if kind in ("mixture", "average-logits"):
        together = functional.log_softmax((column * logits).sum(0), dim=1)
    else:
        shares = (column * functional.softmax(logits, dim=2)).sum(0)
        if kind != "average":
            votes = functional.one_hot(logits.argmax(2), logits.shape[2]).to(logits.dtype)
            shares = counted((column * votes).sum(0), shares, members=logits.shape[0])
        together = torch.log(shares.clamp_min(torch.finfo(logits.dtype).tiny))
    return functional.log_softmax(together / temperature, dim=1)


def counted(votes: Tensor, shares: Tensor, members: int) -> Tensor:
    """Add to shares of votes one more vote, divided as `shares` are, which overrules no majority.

    Args:
        votes: the weighted shares of the votes, `images x classes`.
        shares: the weighted mean of the probabilities, likewise.
        members: how many have voted.
    """
    most = votes.amax(1, keepdim=True)
    first = votes >= most - _TIE
    together = (members * votes + shares) / (members + 1)
    limit = (together * first).amax(1, keepdim=True) * (1 - _TIE)
    return torch.where(first, together, torch.minimum(together, limit))
