"""Trained networks together with the normalization of their images, as they are exported."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces.errors import InvalidArgument
from trials.data.scaling import Fit
from trials.resampling import resized

#: how members become one prediction; see `combine`
Kind = Literal["average", "vote", "weighted-vote", "mixture", "average-logits"]

_TIE = 1e-5  # shares of votes that differ by less are equal
_BEYOND = 0.01  # by how much images may leave 0..1: interpolation overshoots


class ImageClassifier(nn.Module):
    """Takes images as they are and gives logits.

    With `size`, images are in 0..1, or uint8, and of any height and width. In Python others are
    refused; an exported program, which cannot, gives NaN for them.

    Args:
        network: maps normalized images to logits.
        mean: per channel, in the units of the images.
        std: per channel.
        size: height and width to which images are brought; None: images have the network's, and
            are in the user's own units.
        fit: how, see `resized`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        size: tuple[int, int] | None = None,
        fit: Fit = "crop",
    ):
        super().__init__()
        self.network, self.size, self.fit = network, size, fit
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map images `batch x channels x height x width` to `batch x classes`.

        Raises:
            InvalidArgument: for images that are not such.
        """
        if torch.compiler.is_compiling():
            return self._exported(images)
        images = checked(images, self.mean.shape[1], self.size is not None)
        if self.size not in (None, tuple(images.shape[2:])):
            images = resized(images, self.size, self.fit)
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits

    def _exported(self, images: Tensor) -> Tensor:
        """Do the same without a decision that depends on the images or their size."""
        fitting = images if self.size is None else resized(images, self.size, self.fit)
        logits: Tensor = self.network((fitting - self.mean) / self.std)
        if self.size is None:
            return logits
        low, high = images.amin((1, 2, 3)), images.amax((1, 2, 3))
        right = (low >= -_BEYOND) & (high <= 1 + _BEYOND)
        return torch.where(right[:, None], logits, torch.nan)


def checked(images: Tensor, channels: int, bounded: bool) -> Tensor:
    """Return images as floats, or refuse them.

    Args:
        images: `batch x channels x height x width`.
        channels: that they must have.
        bounded: whether they must be in 0..1, or uint8, which becomes that; else any floats are.

    Raises:
        InvalidArgument: saying what is wrong with them, and the remedy.
    """
    if images.ndim != 4 or images.shape[1] != channels:
        raise InvalidArgument(
            f"images have shape {tuple(images.shape)}; give batch x {channels} x height x width."
        )
    if bounded and images.dtype == torch.uint8:
        return images / 255
    if not images.is_floating_point():
        also = "uint8 or " if bounded else ""
        raise InvalidArgument(f"images are {images.dtype}; give {also}floats.")
    if bounded and images.numel():
        low, high = float(images.min()), float(images.max())
        if not (low >= -_BEYOND and high <= 1 + _BEYOND):
            remedy = (
                "divide them by 255, or give uint8" if low >= 0 else
                "give them without normalization, which the network does itself"
            )  # fmt: skip
            raise InvalidArgument(
                f"images go from {low:.3g} to {high:.3g}; this network takes 0..1: {remedy}."
            )
    return images


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
