"""Gradient norm: how strongly the loss pulls at the weights.

Abdelfattah, Mehrotra, Dudziak, Lane: Zero-Cost Proxies for Lightweight NAS (ICLR 2021), section 3.
"""

import torch
from torch import Tensor, nn

from trials.proxies.gradients import labelled, loss_gradients, rankable


def score(network: nn.Module, images: Tensor, labels: Tensor | None = None) -> float:
    """Compute the sum over the layers of |dL/dW|_2, L the mean cross-entropy; higher is better.

    Args:
        network: maps images to logits; left as it was found.
        images: `batch x channels x height x width`.
        labels: `batch` class numbers.

    Returns:
        -inf where the sum is not finite.

    Raises:
        InvalidArgument: without labels, or for a network without trainable weights.
    """
    gradients = loss_gradients(network, images, labelled("grad_norm", images, labels))
    return rankable(torch.stack([g.norm() for g in gradients if g is not None]).sum())
